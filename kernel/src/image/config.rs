//! Config space pages of devices (ECAM), mapped for reading.
//!
//! Xen lets a domain that was given such a page map it, and takes the right to write away
//! from the mapping: config space belongs to the hardware domain.

use core::arch::asm;
use core::ptr::NonNull;

use pcidom_boot::info::frame;
use pcidom_boot::memory::{AddressSpace, PageArray, RAM};
use pcidom_kernel::{ConfigPage, XenError};
use pcidom_pci::{Register, Width};
use pcidom_xenbus::Mfn;
use x86_64::VirtAddr;
use x86_64::structures::paging::PageTableFlags;
use xen_sys::{XEN_EINVAL, XEN_ENOSPC};

/// Devices whose config space is mapped at one time: each takes a page of the domain's
/// memory. Those beyond are read through dom0.
const WINDOWS: usize = 32;

static PAGES: PageArray<WINDOWS> = PageArray::new();

const CALL: &str = "update_va_mapping";

/// A window with a device's config space in it.
#[derive(Debug)]
pub(crate) struct MappedConfig {
    first: NonNull<u32>,
    slot: usize,
}

/// All windows.
#[derive(Debug)]
pub(crate) struct ConfigWindows {
    space: AddressSpace,
    taken: [bool; WINDOWS],
}

impl ConfigWindows {
    /// Nothing is mapped yet.
    pub(crate) const fn new(space: AddressSpace) -> Self {
        Self { space, taken: [false; WINDOWS] }
    }

    /// Maps the page.
    pub(crate) fn map(&mut self, number: Mfn) -> Result<MappedConfig, XenError> {
        let full = XenError { call: CALL, errno: -XEN_ENOSPC };
        let (slot, taken) =
            self.taken.iter_mut().enumerate().find(|(_, taken)| !**taken).ok_or(full)?;
        let first = PAGES.page(slot).ok_or(full)?;
        let flags = RAM
            .difference(PageTableFlags::WRITABLE)
            .union(PageTableFlags::NO_CACHE.union(PageTableFlags::WRITE_THROUGH));
        let window = VirtAddr::from_ptr(first.as_ptr());
        // SAFETY: a page of a `PageArray` that is not taken, so nothing uses it.
        let mapped = unsafe { self.space.map(window, frame(number.0), flags) };
        mapped.map_err(|errno| XenError { call: CALL, errno })?;
        *taken = true;
        Ok(MappedConfig { first, slot })
    }

    /// Puts our RAM back into the window.
    pub(crate) fn unmap(&mut self, page: MappedConfig) -> Result<(), XenError> {
        // The page ends here: nothing accesses the window from now on.
        let MappedConfig { first, slot } = page;
        let window = VirtAddr::from_ptr(first.as_ptr());
        // SAFETY: a page of a `PageArray` that nothing uses any more.
        let restored = unsafe { self.space.restore(window) };
        // A window that could not be emptied stays taken.
        restored.map_err(|errno| XenError { call: CALL, errno })?;
        let gone = XenError { call: CALL, errno: -XEN_EINVAL };
        *self.taken.get_mut(slot).ok_or(gone)? = false;
        Ok(())
    }
}

impl ConfigPage for MappedConfig {
    fn read(&self, register: Register) -> u32 {
        // A register ends within 4096 bytes, the page.
        let place =
            self.first.cast::<u8>().as_ptr().wrapping_add(register.offset().into());
        let mut value = 0_u32;
        // Plain moves into eax: some AMD processors take nothing else for config space
        // (family 10h, BKDG 31116, 2.11.1).
        match register.width() {
            // SAFETY: a byte of the page, which stays mapped until `unmap` takes `self`.
            Width::Byte => unsafe {
                asm!("mov al, byte ptr [{}]", in(reg) place, inout("eax") value,
                    options(nostack, readonly, preserves_flags));
            },
            // SAFETY: as above, two bytes, aligned.
            Width::Word => unsafe {
                asm!("mov ax, word ptr [{}]", in(reg) place, inout("eax") value,
                    options(nostack, readonly, preserves_flags));
            },
            // SAFETY: as above, four bytes, aligned.
            Width::Dword => unsafe {
                asm!("mov eax, dword ptr [{}]", in(reg) place, inout("eax") value,
                    options(nostack, readonly, preserves_flags));
            },
        }
        value
    }
}
