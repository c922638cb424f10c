//! libxencall: hypercalls that libxenctrl has no function for. Its interface is stable
//! (`libxencall.so.1`, xencall.h).

use core::ffi::{c_int, c_uint, c_void};
use std::io;
use std::ptr::NonNull;

use libloading::{Library, Symbol};

use crate::host::EcamRegion;
use crate::hypervisor::{XenError, errno};

/// `xencall_handle *`
type Handle = *mut c_void;

const LIBRARY: &str = "libxencall.so.1";
/// `__HYPERVISOR_physdev_op` (public/xen.h).
const PHYSDEV_OP: c_uint = 33;
/// `PHYSDEVOP_pci_mmcfg_reserved` (public/physdev.h).
const PCI_MMCFG_RESERVED: u64 = 24;
/// `XEN_PCI_MMCFG_RESERVED`
const RESERVED: u32 = 1;

/// `physdev_pci_mmcfg_reserved`
#[repr(C)]
struct MmcfgReserved {
    address: u64,
    segment: u16,
    start_bus: u8,
    end_bus: u8,
    flags: u32,
}

struct Functions {
    close: unsafe extern "C" fn(Handle) -> c_int,
    call2: unsafe extern "C" fn(Handle, c_uint, u64, u64) -> c_int,
    alloc: unsafe extern "C" fn(Handle, usize) -> *mut c_void,
    free: unsafe extern "C" fn(Handle, *mut c_void),
}

/// An open `xencall_handle`.
pub(super) struct Xencall {
    handle: NonNull<c_void>,
    functions: Functions,
    /// Dropped last: the functions live in it.
    _library: Library,
}

/// Looks a function up. `T` must be the pointer type of that function.
fn find<T: Copy>(library: &Library, name: &'static str) -> Option<T> {
    // SAFETY: every caller is in `Xencall::open` and names, for each function, the type
    // that xencall.h declares it with.
    let symbol: Result<Symbol<'_, T>, _> = unsafe { library.get(name) };
    symbol.map(|symbol| *symbol).ok()
}

impl Xencall {
    /// Corresponds to `xencall_open` with the default logger.
    pub(super) fn open() -> Option<Self> {
        type Open = unsafe extern "C" fn(*mut c_void, c_uint) -> Handle;
        // SAFETY: loading a library runs its initialisers. This is Xen's own library, which
        // libxenctrl has loaded already.
        let library = unsafe { Library::new(LIBRARY) }
            .inspect_err(|error| log::info!("{LIBRARY} can't be loaded: {error}"))
            .ok()?;
        let open: Open = find(&library, "xencall_open")?;
        let functions = Functions {
            close: find(&library, "xencall_close")?,
            call2: find(&library, "xencall2")?,
            alloc: find(&library, "xencall_alloc_buffer")?,
            free: find(&library, "xencall_free_buffer")?,
        };
        // SAFETY: a null logger and no flags are the documented defaults.
        let handle = NonNull::new(unsafe { open(core::ptr::null_mut(), 0) })?;
        Some(Self { handle, functions, _library: library })
    }

    /// `PHYSDEVOP_pci_mmcfg_reserved`: tells Xen what dom0's Linux has told it at boot. It
    /// changes nothing then, and fails if Xen does not use this region.
    pub(super) fn mmcfg_reserved(&self, region: &EcamRegion) -> Result<(), XenError> {
        const CALL: &str = "PHYSDEVOP_pci_mmcfg_reserved";
        let handle = self.handle.as_ptr();
        // SAFETY: the handle is open until `drop`.
        let buffer =
            unsafe { (self.functions.alloc)(handle, size_of::<MmcfgReserved>()) };
        let argument = buffer.cast::<MmcfgReserved>();
        if argument.is_null() {
            return Err(XenError { call: CALL, errno: errno::ENOSPC });
        }
        // SAFETY: the buffer is ours, starts on a page, and has room for the structure.
        unsafe {
            argument.write(MmcfgReserved {
                address: region.base,
                segment: region.segment,
                start_bus: region.first_bus,
                end_bus: region.last_bus,
                flags: RESERVED,
            });
        }
        // SAFETY: open handle; the second argument is the structure that the operation takes.
        let result = unsafe {
            (self.functions.call2)(
                handle,
                PHYSDEV_OP,
                PCI_MMCFG_RESERVED,
                argument.expose_provenance() as u64,
            )
        };
        let error = io::Error::last_os_error();
        // SAFETY: the buffer came from `alloc` of this handle and is not used any more.
        unsafe { (self.functions.free)(handle, buffer) };
        if result < 0 {
            let errno = error.raw_os_error().unwrap_or_default();
            return Err(XenError { call: CALL, errno });
        }
        Ok(())
    }
}

impl Drop for Xencall {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nothing uses it after this.
        unsafe { (self.functions.close)(self.handle.as_ptr()) };
    }
}
