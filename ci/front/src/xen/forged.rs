//! Grants that no honest guest makes. The table is mapped a second time for that: the floor
//! keeps its own entries sound, and these are others.

use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use pcidom_boot::info::{frame, mfn};
use pcidom_boot::memory::{AddressSpace, PageArray, RAM};
use pcidom_kernel::XenError;
use pcidom_xenbus::{DomId, GrantRef};
use x86_64::VirtAddr;
use xen_sys::{
    DOMID_SELF, GNTTABOP_setup_table, GTF_permit_access, GTF_readonly, XEN_EINVAL,
    gnttab_setup_table, grant_entry_v1,
};

use super::call::grant_table;

/// Far behind the floor's own.
const READ_ONLY: GrantRef = GrantRef(100);
const FOREIGN: GrantRef = GrantRef(101);
/// Entries of the one frame that the table has.
const ENTRIES: u32 = 512;
/// A machine frame that is not this domain's: of the first MiB, which Xen gives to none.
const FOREIGN_FRAME: u32 = 0x10;

static TABLE: PageArray<1> = PageArray::new();
static PAGE: PageArray<1> = PageArray::new();

/// The grant table, to be written at will.
#[derive(Debug)]
pub(crate) struct Forged(AddressSpace);

impl Forged {
    /// Maps the table.
    pub(super) fn new(space: AddressSpace) -> Result<Self, XenError> {
        const CALL: &str = "a second GNTTABOP_setup_table";
        let failed = |errno| XenError { call: CALL, errno };
        let mut list = 0;
        let mut setup = gnttab_setup_table {
            dom: DOMID_SELF,
            nr_frames: 1,
            status: 0,
            frame_list: &raw mut list,
        };
        // SAFETY: the structure that the operation takes, with room for one frame number.
        unsafe { grant_table(GNTTABOP_setup_table, &mut setup) }.map_err(failed)?;
        let page = TABLE.page(0).ok_or(failed(-XEN_EINVAL))?;
        let page = VirtAddr::from_ptr(page.as_ptr());
        // SAFETY: a page of a `PageArray` that only this function maps, once.
        unsafe { space.map(page, frame(list), RAM) }.map_err(failed)?;
        Ok(Self(space))
    }

    /// A page of ours that `peer` may only read.
    pub(crate) fn read_only(&self, peer: DomId) -> GrantRef {
        let page = PAGE.page(0).map(|page| VirtAddr::from_ptr(page.as_ptr()));
        let own = page.and_then(|page| self.0.own_frame(page));
        let number = own.and_then(|own| u32::try_from(mfn(own)).ok());
        set(READ_ONLY, peer, number.unwrap_or(0), GTF_permit_access | GTF_readonly);
        READ_ONLY
    }

    /// A page that isn't ours to grant.
    pub(crate) fn foreign(&self, peer: DomId) -> GrantRef {
        set(FOREIGN, peer, FOREIGN_FRAME, GTF_permit_access);
        FOREIGN
    }

    /// Takes a grant back, mapped or not.
    pub(crate) fn revoke(&self, reference: GrantRef) {
        if let Some(entry) = entry(reference) {
            flags(entry).store(0, Ordering::SeqCst);
        }
    }
}

fn set(reference: GrantRef, peer: DomId, frame: u32, how: u16) {
    let Some(entry) = entry(reference) else { return };
    flags(entry).store(0, Ordering::SeqCst);
    let of = |offset: usize| entry.wrapping_byte_add(offset);
    let domid = of(offset_of!(grant_entry_v1, domid)).cast::<u16>();
    // SAFETY: inside the mapped table; Xen makes of the number what it likes.
    unsafe { domid.write_volatile(peer.0) };
    let number = of(offset_of!(grant_entry_v1, frame)).cast::<u32>();
    // SAFETY: as above; Xen gives nobody a frame that isn't ours.
    unsafe { number.write_volatile(frame) };
    fence(Ordering::SeqCst);
    flags(entry).store(how, Ordering::SeqCst);
}

/// An entry of the mapped table.
fn entry(reference: GrantRef) -> Option<*mut grant_entry_v1> {
    let table: NonNull<grant_entry_v1> = TABLE.page(0)?.cast();
    (reference.0 < ENTRIES).then(|| table.as_ptr().wrapping_add(reference.0 as usize))
}

fn flags<'table>(entry: *mut grant_entry_v1) -> &'table AtomicU16 {
    let flags = entry.wrapping_byte_add(offset_of!(grant_entry_v1, flags)).cast::<u16>();
    // SAFETY: `entry` gave this address: inside the mapped table, which stays mapped. Xen
    // changes it too, and only with atomic operations.
    unsafe { AtomicU16::from_ptr(flags) }
}
