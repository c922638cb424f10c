//! The address space that Xen's builder made, and changes of single pages in it.
//!
//! Pseudo-physical frame n is mapped, readable and writable, at `VIRT_BASE + n * 4096`; only
//! page tables are mapped read-only. Xen alone writes page tables: an entry is changed with
//! `update_va_mapping`. To map a foreign page no table is built: a page of `.bss` (of a
//! [`PageArray`]) gets another frame, and its own back later.

use core::cell::UnsafeCell;
use core::ptr::NonNull;

use x86_64::VirtAddr;
use x86_64::structures::paging::{PageTableFlags, PhysFrame};
use xen_sys::hypercall::hypercall3;
use xen_sys::{
    __HYPERVISOR_update_va_mapping, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START, UVMF_INVLPG,
};

use crate::info::{StartInfo, frame, mfn};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// Where a machine frame number sits in a page table entry. Above are bits that Xen keeps
/// for itself.
const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;

/// How RAM of the domain is mapped.
pub const RAM: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(
        // A PV kernel runs in ring 3.
        PageTableFlags::USER_ACCESSIBLE.union(PageTableFlags::ACCESSED),
    );

/// Pages of `.bss` used by address only: to grant to others, or as windows onto frames of
/// others.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct PageArray<const N: usize>(UnsafeCell<[[u32; PAGE_SIZE / 4]; N]>);

// SAFETY: the array hands out addresses and never makes a reference to its contents.
unsafe impl<const N: usize> Sync for PageArray<N> {}

impl<const N: usize> PageArray<N> {
    /// Zeroed pages.
    pub const fn new() -> Self {
        Self(UnsafeCell::new([[0; PAGE_SIZE / 4]; N]))
    }

    /// The first word of page `n`, if there are that many.
    pub fn page(&self, n: usize) -> Option<NonNull<u32>> {
        let first = NonNull::new(self.0.get())?.cast::<[u32; PAGE_SIZE / 4]>();
        if n >= N {
            return None;
        }
        // SAFETY: `n` is below `N`, so the result stays inside the array.
        Some(unsafe { first.add(n) }.cast())
    }
}

impl<const N: usize> Default for PageArray<N> {
    fn default() -> Self {
        Self::new()
    }
}

unsafe extern "C" {
    /// Address of pseudo-physical frame 0; its address is the value (linker.ld).
    static VIRT_BASE: u8;
}

/// The domain's address space.
#[derive(Clone, Copy, Debug)]
pub struct AddressSpace {
    base: VirtAddr,
    pages: u64,
    frame_list: VirtAddr,
    root: VirtAddr,
}

impl AddressSpace {
    /// The address space that `info` describes.
    ///
    /// # Safety
    ///
    /// `info` is what Xen gave to this very domain: its lists and tables are read.
    pub unsafe fn new(info: &StartInfo) -> Self {
        Self {
            base: VirtAddr::from_ptr(&raw const VIRT_BASE),
            pages: info.pages,
            frame_list: info.frame_list,
            root: info.page_table,
        }
    }

    /// The frame of RAM that belongs at `page`, whatever is mapped there now.
    pub fn own_frame(&self, page: VirtAddr) -> Option<PhysFrame> {
        let pfn = page.as_u64().checked_sub(self.base.as_u64())? >> 12;
        if pfn >= self.pages {
            return None;
        }
        let entry = (self.frame_list + pfn * 8).as_ptr::<u64>();
        // SAFETY: the list has an entry for each page of the domain (`new`), and nobody
        // writes it.
        Some(frame(unsafe { entry.read_volatile() }))
    }

    /// Where a frame of our own RAM is mapped.
    pub fn address_of(&self, wanted: PhysFrame) -> Option<VirtAddr> {
        let entry = MACH2PHYS_VIRT_START.checked_add(mfn(wanted).checked_mul(8)?)?;
        if entry >= MACH2PHYS_VIRT_END {
            return None;
        }
        let entry = VirtAddr::new(entry).as_ptr::<u64>();
        // SAFETY: the frame is of this machine, so Xen's table has an entry for it, readable
        // for every PV domain.
        let pfn = unsafe { entry.read_volatile() };
        if pfn >= self.pages {
            return None;
        }
        let page = self.base + (pfn << 12);
        // The table says where its owner has the frame; only if that is us is it here.
        (self.own_frame(page) == Some(wanted)).then_some(page)
    }

    /// The lowest page table entry for `page` as it is now, with Xen's private bits; `None`
    /// if a table above has none.
    pub fn entry(&self, page: VirtAddr) -> Option<u64> {
        let mut table = self.root;
        let above = [page.p4_index(), page.p3_index(), page.p2_index()];
        for index in above {
            let entry = Self::table_entry(table, u64::from(index));
            let flags = PageTableFlags::from_bits_truncate(entry);
            if !flags.contains(PageTableFlags::PRESENT)
                || flags.contains(PageTableFlags::HUGE_PAGE)
            {
                return None;
            }
            table = self.address_of(frame((entry & FRAME_MASK) >> 12))?;
        }
        Some(Self::table_entry(table, u64::from(page.p1_index())))
    }

    fn table_entry(table: VirtAddr, index: u64) -> u64 {
        let entry = (table + index * 8).as_ptr::<u64>();
        // SAFETY: `table` is a page table of ours (the root, or named by one), mapped
        // readable since boot, and `index` is below 512.
        unsafe { entry.read_volatile() }
    }

    /// Maps `frame` at `page`, in place of what is there.
    ///
    /// # Errors
    ///
    /// The negative errno of `update_va_mapping`; -1 (EPERM) for a frame that is not ours
    /// to map. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// `page` belongs to the caller and nothing relies on its contents any more: no
    /// reference leads there, and if it was mapped it is a page of a [`PageArray`].
    pub unsafe fn map(
        &self,
        page: VirtAddr,
        frame: PhysFrame,
        flags: PageTableFlags,
    ) -> Result<(), i32> {
        let entry = frame.start_address().as_u64() | flags.bits();
        // SAFETY: the caller gives up what was mapped at `page`; Xen checks the entry.
        unsafe { update_va_mapping(page, entry) }
    }

    /// Leaves nothing mapped at `page`.
    ///
    /// # Errors
    ///
    /// As for [`AddressSpace::map`].
    ///
    /// # Safety
    ///
    /// As for [`AddressSpace::map`], and nothing touches the page afterwards.
    pub unsafe fn unmap(&self, page: VirtAddr) -> Result<(), i32> {
        // SAFETY: the caller gives up what was mapped at `page`.
        unsafe { update_va_mapping(page, 0) }
    }

    /// Puts the RAM back that belongs at `page`.
    ///
    /// # Errors
    ///
    /// As for [`AddressSpace::map`]; -22 (EINVAL) if no RAM of ours belongs there.
    ///
    /// # Safety
    ///
    /// As for [`AddressSpace::map`].
    pub unsafe fn restore(&self, page: VirtAddr) -> Result<(), i32> {
        let frame = self.own_frame(page).ok_or(-xen_sys::XEN_EINVAL)?;
        // SAFETY: the caller gives up what is mapped there, and the frame is our own RAM,
        // which by the rule of `PageArray` nothing else uses.
        unsafe { self.map(page, frame, RAM) }
    }
}

/// Corresponds to `HYPERVISOR_update_va_mapping`, for one page.
///
/// # Safety
///
/// As for [`AddressSpace::map`].
unsafe fn update_va_mapping(page: VirtAddr, entry: u64) -> Result<(), i32> {
    // SAFETY: the call changes one entry, which the caller answers for.
    let result = unsafe {
        hypercall3::<__HYPERVISOR_update_va_mapping>(page.as_u64(), entry, UVMF_INVLPG)
    };
    errno(result)
}

/// A hypercall's result as a `Result`: negative is an errno.
///
/// # Errors
///
/// The negative errno.
pub fn errno(result: i64) -> Result<(), i32> {
    if result < 0 { Err(i32::try_from(result).unwrap_or(i32::MIN)) } else { Ok(()) }
}
