//! libxenctrl's functions, as `xenctrl.h` of 4.17 and of 4.20 declares them.

use core::ffi::{c_int, c_uint, c_ulong, c_void};
use std::io;
use std::ptr::NonNull;

use libloading::Library;
use pcidom_pci::Sbdf;
use pcidom_xenbus::{DomId, Pirq};

use super::library::{self, Missing, find};
use super::xencall::Xencall;
use crate::host::EcamRegion;
use crate::hypervisor::{DomainInfo, Hypervisor, Right, XenError, errno};

/// `xc_interface *`
type Handle = *mut c_void;

/// Room for one `xc_domaininfo_t`, whose size differs between versions (184 bytes in 4.17).
/// Only its first eight bytes are used, which have always been domain, padding, flags.
#[repr(C, align(16))]
struct DomainInfoBuffer {
    domain: u16,
    padding: u16,
    flags: u32,
    rest: [u8; 4088],
}

/// Room for one `xc_physinfo_t` (`xen_sysctl_physinfo`, 112 bytes in 4.17 and 4.20), whose
/// eighth word has been `capabilities` since 4.13.
#[repr(C, align(16))]
struct PhysinfoBuffer {
    before: [u32; 7],
    capabilities: u32,
    rest: [u8; 4064],
}

// sysctl.h
const PHYSCAP_PV: u32 = 1 << 1;
const PHYSCAP_DIRECTIO: u32 = 1 << 2;
/// Xen's log is read in pieces of this size.
const LOG_PIECE: usize = 16 << 10;
/// The most that is read of it: `conring_size=` is a few MiB where it is large.
const LOG_LIMIT: usize = 16 << 20;

// domctl.h
const DOMINF_DYING: u32 = 1 << 0;
const DOMINF_HVM_GUEST: u32 = 1 << 1;
const DOMINF_SHUTDOWN: u32 = 1 << 2;
const DOMINF_PAUSED: u32 = 1 << 3;
/// `XEN_DOMCTL_DEV_RDM_RELAXED`
const RDM_RELAXED: u32 = 1;

/// The functions, copied out of the library that [`Xenctrl`] keeps loaded.
struct Functions {
    close: unsafe extern "C" fn(Handle) -> c_int,
    getinfolist:
        unsafe extern "C" fn(Handle, u32, c_uint, *mut DomainInfoBuffer) -> c_int,
    iomem: unsafe extern "C" fn(Handle, u32, c_ulong, c_ulong, u8) -> c_int,
    ioport: unsafe extern "C" fn(Handle, u32, u32, u32, u32) -> c_int,
    irq: unsafe extern "C" fn(Handle, u32, u32, bool) -> c_int,
    map_pirq: unsafe extern "C" fn(Handle, u32, c_int, *mut c_int) -> c_int,
    map_msi: unsafe extern "C" fn(
        Handle,
        u32,
        c_int,
        *mut c_int,
        c_int,
        c_int,
        c_int,
        u64,
    ) -> c_int,
    unmap_pirq: unsafe extern "C" fn(Handle, u32, c_int) -> c_int,
    assign: unsafe extern "C" fn(Handle, u32, u32, u32) -> c_int,
    deassign: unsafe extern "C" fn(Handle, u32, u32) -> c_int,
    physinfo: unsafe extern "C" fn(Handle, *mut PhysinfoBuffer) -> c_int,
    readconsolering: unsafe extern "C" fn(
        Handle,
        *mut u8,
        *mut c_uint,
        c_int,
        c_int,
        *mut u32,
    ) -> c_int,
}

/// An open `xc_interface`.
pub struct Xenctrl {
    handle: NonNull<c_void>,
    functions: Functions,
    /// `None` if it can't be loaded: then nothing of it is used.
    calls: Option<Xencall>,
    /// Dropped last: the functions live in it.
    _library: Library,
}

impl std::fmt::Debug for Xenctrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Xenctrl")
    }
}

impl Xenctrl {
    /// Corresponds to `xc_interface_open` with the default loggers.
    pub fn open() -> Result<Self, Missing> {
        type Open = unsafe extern "C" fn(*mut c_void, *mut c_void, c_uint) -> Handle;
        let library = library::open()?;
        let open: Open = find(&library, "xc_interface_open")?;
        let functions = Functions {
            close: find(&library, "xc_interface_close")?,
            getinfolist: find(&library, "xc_domain_getinfolist")?,
            iomem: find(&library, "xc_domain_iomem_permission")?,
            ioport: find(&library, "xc_domain_ioport_permission")?,
            irq: find(&library, "xc_domain_irq_permission")?,
            map_pirq: find(&library, "xc_physdev_map_pirq")?,
            map_msi: find(&library, "xc_physdev_map_pirq_msi")?,
            unmap_pirq: find(&library, "xc_physdev_unmap_pirq")?,
            assign: find(&library, "xc_assign_device")?,
            deassign: find(&library, "xc_deassign_device")?,
            physinfo: find(&library, "xc_physinfo")?,
            readconsolering: find(&library, "xc_readconsolering")?,
        };
        // SAFETY: null loggers and no flags are the documented defaults.
        let handle = unsafe { open(core::ptr::null_mut(), core::ptr::null_mut(), 0) };
        let handle = NonNull::new(handle)
            .ok_or_else(|| Missing::Open(io::Error::last_os_error()))?;
        Ok(Self { handle, functions, calls: Xencall::open(), _library: library })
    }

    /// Corresponds to `xc_physinfo`: whether PV guests can have devices (`pv_directio` in
    /// `xl info`), which takes an IOMMU.
    pub fn has_directio(&mut self) -> Result<bool, XenError> {
        let mut info =
            PhysinfoBuffer { before: [0; 7], capabilities: 0, rest: [0; 4064] };
        // SAFETY: open handle; the buffer has room for the structure (see its comment), and
        // lives through the call.
        let result = unsafe { (self.functions.physinfo)(self.handle(), &raw mut info) };
        check("xc_physinfo", result)?;
        let both = PHYSCAP_PV | PHYSCAP_DIRECTIO;
        Ok(info.capabilities & both == both)
    }

    /// Corresponds to `xc_readconsolering`: Xen's log, as far back as Xen has it.
    pub fn console_log(&mut self) -> Result<String, XenError> {
        let mut log = Vec::new();
        let mut index = 0;
        while log.len() < LOG_LIMIT {
            let mut piece = vec![0; LOG_PIECE];
            let mut length = c_uint::try_from(LOG_PIECE).unwrap_or_default();
            // SAFETY: open handle; all three pointers are to locals that live through the
            // call, and `length` is the room in `piece`.
            let result = unsafe {
                (self.functions.readconsolering)(
                    self.handle(),
                    piece.as_mut_ptr(),
                    &raw mut length,
                    0,
                    1,
                    &raw mut index,
                )
            };
            check("xc_readconsolering", result)?;
            let length = usize::try_from(length).unwrap_or_default();
            if length == 0 {
                break;
            }
            log.extend(piece.iter().take(length));
        }
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    fn handle(&self) -> Handle {
        self.handle.as_ptr()
    }
}

/// Turns a C result into ours. Must come right after the call: it reads `errno`.
fn check(call: &'static str, result: c_int) -> Result<(), XenError> {
    if result >= 0 {
        return Ok(());
    }
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or_default();
    Err(XenError { call, errno })
}

/// Machine frame numbers fit an `unsigned long` here: x86-64 only.
fn frames(call: &'static str, number: u64) -> Result<c_ulong, XenError> {
    c_ulong::try_from(number).map_err(|_| XenError { call, errno: errno::EINVAL })
}

/// The pirq Xen gave, in the range ours have.
fn given(call: &'static str, pirq: c_int) -> Result<Pirq, XenError> {
    u16::try_from(pirq).map(Pirq).map_err(|_| XenError { call, errno: errno::EINVAL })
}

// In all calls below, the handle is open until `drop`, and the functions are those of the
// library it came from: that is what their SAFETY comments mean by "open handle".
impl Hypervisor for Xenctrl {
    fn domain(&mut self, domain: DomId) -> Result<Option<DomainInfo>, XenError> {
        const CALL: &str = "xc_domain_getinfolist";
        let mut info =
            DomainInfoBuffer { domain: 0, padding: 0, flags: 0, rest: [0; 4088] };
        // SAFETY: open handle; the buffer has room for the one structure asked for (see its
        // comment), and lives through the call.
        let found = unsafe {
            (self.functions.getinfolist)(self.handle(), domain.0.into(), 1, &raw mut info)
        };
        check(CALL, found)?;
        // Xen answers with the first domain from this number on.
        if found == 0 || info.domain != domain.0 {
            return Ok(None);
        }
        Ok(Some(DomainInfo {
            dying: info.flags & DOMINF_DYING != 0,
            ended: info.flags & DOMINF_SHUTDOWN != 0,
            paused: info.flags & DOMINF_PAUSED != 0,
            hvm: info.flags & DOMINF_HVM_GUEST != 0,
        }))
    }

    fn iomem_permission(
        &mut self,
        domain: DomId,
        first_page: u64,
        pages: u64,
        right: Right,
    ) -> Result<(), XenError> {
        const CALL: &str = "xc_domain_iomem_permission";
        let (first, pages) = (frames(CALL, first_page)?, frames(CALL, pages)?);
        // SAFETY: open handle; numbers only.
        let result = unsafe {
            (self.functions.iomem)(
                self.handle(),
                domain.0.into(),
                first,
                pages,
                right as u8,
            )
        };
        check(CALL, result)
    }

    fn guards_ecam(&mut self, region: &EcamRegion) -> Result<(), XenError> {
        let call = "xencall_open";
        let calls = self.calls.as_ref().ok_or(XenError { call, errno: errno::ENODEV })?;
        calls.mmcfg_reserved(region)
    }

    fn ioport_permission(
        &mut self,
        domain: DomId,
        first: u32,
        ports: u32,
        right: Right,
    ) -> Result<(), XenError> {
        // SAFETY: open handle; numbers only.
        let result = unsafe {
            (self.functions.ioport)(
                self.handle(),
                domain.0.into(),
                first,
                ports,
                right as u32,
            )
        };
        check("xc_domain_ioport_permission", result)
    }

    fn irq_permission(
        &mut self,
        domain: DomId,
        gsi: Pirq,
        right: Right,
    ) -> Result<(), XenError> {
        let allow = right == Right::Grant;
        // SAFETY: open handle; numbers only.
        let result = unsafe {
            (self.functions.irq)(self.handle(), domain.0.into(), gsi.0.into(), allow)
        };
        check("xc_domain_irq_permission", result)
    }

    fn map_gsi(&mut self, domain: DomId, gsi: Pirq) -> Result<Pirq, XenError> {
        const CALL: &str = "xc_physdev_map_pirq";
        let mut pirq = c_int::from(gsi.0);
        // SAFETY: open handle; the pointer is to a local that lives through the call.
        let result = unsafe {
            (self.functions.map_pirq)(
                self.handle(),
                domain.0.into(),
                gsi.0.into(),
                &raw mut pirq,
            )
        };
        check(CALL, result)?;
        given(CALL, pirq)
    }

    fn map_msi(
        &mut self,
        domain: DomId,
        device: Sbdf,
        entry: u16,
        table_base: u64,
    ) -> Result<Pirq, XenError> {
        const CALL: &str = "xc_physdev_map_pirq_msi";
        let mut pirq: c_int = -1;
        // SAFETY: open handle; the pointer is to a local that lives through the call.
        let result = unsafe {
            (self.functions.map_msi)(
                self.handle(),
                domain.0.into(),
                -1,
                &raw mut pirq,
                device.devfn().into(),
                device.bus().into(),
                entry.into(),
                table_base,
            )
        };
        check(CALL, result)?;
        given(CALL, pirq)
    }

    fn unmap_pirq(&mut self, domain: DomId, pirq: Pirq) -> Result<(), XenError> {
        // SAFETY: open handle; numbers only.
        let result = unsafe {
            (self.functions.unmap_pirq)(self.handle(), domain.0.into(), pirq.0.into())
        };
        check("xc_physdev_unmap_pirq", result)
    }

    fn assign(&mut self, domain: DomId, device: Sbdf) -> Result<(), XenError> {
        let sbdf = device.as_machine_sbdf();
        // SAFETY: open handle; numbers only.
        let result = unsafe {
            (self.functions.assign)(self.handle(), domain.0.into(), sbdf, RDM_RELAXED)
        };
        check("xc_assign_device", result)
    }

    fn deassign(&mut self, domain: DomId, device: Sbdf) -> Result<(), XenError> {
        let sbdf = device.as_machine_sbdf();
        // SAFETY: open handle; numbers only.
        let result =
            unsafe { (self.functions.deassign)(self.handle(), domain.0.into(), sbdf) };
        check("xc_deassign_device", result)
    }
}

impl Drop for Xenctrl {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nothing uses it after this.
        unsafe { (self.functions.close)(self.handle()) };
    }
}
