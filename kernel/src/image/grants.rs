//! Grants: pages of ours for others, and pages of others in our windows (grant_table.h).

use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use pcidom_boot::info::{frame, mfn};
use pcidom_boot::memory::{AddressSpace, PageArray, RAM};
use pcidom_kernel::XenError;
use pcidom_xenbus::{DomId, GrantRef, SharedPage};
use x86_64::VirtAddr;
use xen_sys::{
    DOMID_SELF, GNTMAP_host_map, GNTST_address_too_big, GNTST_bad_domain,
    GNTST_bad_gntref, GNTST_bad_handle, GNTST_bad_page, GNTST_bad_virt_addr,
    GNTST_eagain, GNTST_no_space, GNTST_okay, GNTST_permission_denied,
    GNTTAB_NR_RESERVED_ENTRIES, GNTTABOP_map_grant_ref, GNTTABOP_setup_table,
    GNTTABOP_unmap_grant_ref, GTF_permit_access, GTF_reading, GTF_writing, XEN_EAGAIN,
    XEN_EINVAL, XEN_EIO, XEN_ENOENT, XEN_ENOSPC, XEN_EPERM, XEN_ERANGE, XEN_ESRCH,
    gnttab_map_grant_ref, gnttab_setup_table, gnttab_unmap_grant_ref, grant_entry_v1,
};

use super::call::grant_table;
use super::page::Page;

/// Pages that we can grant: one for the A-link, and a few that a slow peer keeps for a while.
const GRANTABLE: usize = 8;
/// Pages of others at one time: one for each guest.
const WINDOWS: usize = 64;

static TABLE: PageArray<1> = PageArray::new();
static OWN_PAGES: PageArray<GRANTABLE> = PageArray::new();
static WINDOW_PAGES: PageArray<WINDOWS> = PageArray::new();

/// What has become of a page that we can grant. Page n belongs to reference n + 8 for ever
/// (the first 8 are the toolstack's), so a page is free exactly when its reference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Free,
    Granted,
    /// Taken back, but the peer has it mapped still.
    Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    Free,
    Mapped,
    /// Something could not be undone: not used again.
    Broken,
}

/// A page of ours that a peer may map.
#[derive(Debug)]
pub(crate) struct GrantedPage {
    page: Page,
    slot: usize,
}

/// A page of a peer.
#[derive(Debug)]
pub(crate) struct MappedPage {
    page: Page,
    slot: usize,
    handle: u32,
}

/// All grants of the image.
#[derive(Debug)]
pub(crate) struct Grants {
    space: AddressSpace,
    own: [Own; GRANTABLE],
    windows: [Window; WINDOWS],
}

const SETUP: &str = "GNTTABOP_setup_table";
const MAP: &str = "GNTTABOP_map_grant_ref";
const UNMAP: &str = "GNTTABOP_unmap_grant_ref";

impl Grants {
    /// Sets up a table of one frame: 512 entries.
    pub(crate) fn new(space: AddressSpace) -> Result<Self, XenError> {
        let mut list = 0;
        let mut setup = gnttab_setup_table {
            dom: DOMID_SELF,
            nr_frames: 1,
            status: 0,
            frame_list: &raw mut list,
        };
        // SAFETY: the structure that the operation takes, with room for one frame number.
        let result = unsafe { grant_table(GNTTABOP_setup_table, &mut setup) };
        result.map_err(|errno| XenError { call: SETUP, errno })?;
        status(SETUP, setup.status)?;
        let page = TABLE.page(0).map(|page| VirtAddr::from_ptr(page.as_ptr()));
        let page = page.ok_or(XenError { call: SETUP, errno: -XEN_EINVAL })?;
        // SAFETY: a page of a `PageArray` that only this function maps, once.
        let mapped = unsafe { space.map(page, frame(list), RAM) };
        mapped.map_err(|errno| XenError { call: "update_va_mapping", errno })?;
        Ok(Self { space, own: [Own::Free; GRANTABLE], windows: [Window::Free; WINDOWS] })
    }

    /// Grants a zeroed page to `peer`.
    pub(crate) fn grant(
        &mut self,
        peer: DomId,
    ) -> Result<(GrantRef, GrantedPage), XenError> {
        const CALL: &str = "grant";
        self.retry_endings();
        let full = XenError { call: CALL, errno: -XEN_ENOSPC };
        let slot = self.own.iter().position(|own| *own == Own::Free).ok_or(full)?;
        let first = OWN_PAGES.page(slot).ok_or(full)?;
        let own_frame = self.space.own_frame(VirtAddr::from_ptr(first.as_ptr()));
        let own_frame = own_frame.ok_or(XenError { call: CALL, errno: -XEN_EINVAL })?;
        let number = u32::try_from(mfn(own_frame))
            .map_err(|_| XenError { call: CALL, errno: -XEN_ERANGE })?;
        // SAFETY: a page of a `PageArray`, always mapped; `own` says that no other
        // `GrantedPage` for it exists.
        let page = unsafe { Page::new(first) };
        page.clear();
        let entry = entry(slot).ok_or(full)?;
        let of = |offset: usize| entry.wrapping_byte_add(offset);
        let domid = of(offset_of!(grant_entry_v1, domid)).cast::<u16>();
        // SAFETY: inside the mapped table; the entry is free, so Xen does not look at it.
        unsafe { domid.write_volatile(peer.0) };
        let number_place = of(offset_of!(grant_entry_v1, frame)).cast::<u32>();
        // SAFETY: as above.
        unsafe { number_place.write_volatile(number) };
        fence(Ordering::SeqCst);
        flags(entry).store(GTF_permit_access, Ordering::SeqCst);
        self.set_own(slot, Own::Granted);
        Ok((reference(slot), GrantedPage { page, slot }))
    }

    /// Takes a grant back, now or as soon as the peer has let go.
    pub(crate) fn end_grant(&mut self, page: &GrantedPage) {
        self.set_own(page.slot, Own::Ending);
        self.retry_endings();
    }

    fn retry_endings(&mut self) {
        for slot in 0..GRANTABLE {
            if self.own.get(slot) == Some(&Own::Ending) && revoke(slot) {
                self.set_own(slot, Own::Free);
            }
        }
    }

    fn set_own(&mut self, slot: usize, state: Own) {
        if let Some(own) = self.own.get_mut(slot) {
            *own = state;
        }
    }

    fn set_window(&mut self, slot: usize, state: Window) {
        if let Some(window) = self.windows.get_mut(slot) {
            *window = state;
        }
    }

    /// Maps what `peer` has granted.
    pub(crate) fn map(
        &mut self,
        peer: DomId,
        reference: GrantRef,
    ) -> Result<MappedPage, XenError> {
        let full = XenError { call: MAP, errno: -XEN_ENOSPC };
        let slot = self.windows.iter().position(|w| *w == Window::Free).ok_or(full)?;
        let first = WINDOW_PAGES.page(slot).ok_or(full)?;
        let mut map = gnttab_map_grant_ref {
            host_addr: VirtAddr::from_ptr(first.as_ptr()).as_u64(),
            flags: GNTMAP_host_map,
            r#ref: reference.0,
            dom: peer.0,
            ..gnttab_map_grant_ref::default()
        };
        // SAFETY: the structure that the operation takes; the address is a page of a
        // `PageArray` that is free, so its contents are nobody's.
        let result = unsafe { grant_table(GNTTABOP_map_grant_ref, &mut map) };
        result.map_err(|errno| XenError { call: MAP, errno })?;
        status(MAP, map.status)?;
        self.set_window(slot, Window::Mapped);
        // SAFETY: the peer's page is mapped there now, until `unmap` takes the result.
        let page = unsafe { Page::new(first) };
        Ok(MappedPage { page, slot, handle: map.handle })
    }

    /// Unmaps it, and puts our RAM back into the window.
    pub(crate) fn unmap(&mut self, page: MappedPage) -> Result<(), XenError> {
        let gone = XenError { call: UNMAP, errno: -XEN_EINVAL };
        // The `Page` ends here: nothing accesses the window from now on.
        let MappedPage { page: _, slot, handle } = page;
        let first = WINDOW_PAGES.page(slot).ok_or(gone)?;
        let address = VirtAddr::from_ptr(first.as_ptr());
        self.set_window(slot, Window::Broken);
        let mut unmap = gnttab_unmap_grant_ref {
            host_addr: address.as_u64(),
            handle,
            ..gnttab_unmap_grant_ref::default()
        };
        // SAFETY: the structure that the operation takes, for a mapping that is ours to end.
        let result = unsafe { grant_table(GNTTABOP_unmap_grant_ref, &mut unmap) };
        result.map_err(|errno| XenError { call: UNMAP, errno })?;
        status(UNMAP, unmap.status)?;
        // SAFETY: a page of a `PageArray` where nothing is mapped now.
        let restored = unsafe { self.space.restore(address) };
        restored.map_err(|errno| XenError { call: "update_va_mapping", errno })?;
        self.set_window(slot, Window::Free);
        Ok(())
    }
}

fn reference(slot: usize) -> GrantRef {
    // At most `GRANTABLE`, a small number.
    GrantRef(GNTTAB_NR_RESERVED_ENTRIES + u32::try_from(slot).unwrap_or(0))
}

/// The entry of a slot in the mapped table.
fn entry(slot: usize) -> Option<*mut grant_entry_v1> {
    let table: NonNull<grant_entry_v1> = TABLE.page(0)?.cast();
    (slot < GRANTABLE).then(|| table.as_ptr().wrapping_add(reference(slot).0 as usize))
}

fn flags<'table>(entry: *mut grant_entry_v1) -> &'table AtomicU16 {
    let flags = entry.wrapping_byte_add(offset_of!(grant_entry_v1, flags)).cast::<u16>();
    // SAFETY: `entry` gave this address: inside the mapped table, which stays mapped. Xen
    // changes it too, and only with atomic operations.
    unsafe { AtomicU16::from_ptr(flags) }
}

/// Ends a grant, unless the peer has it mapped.
fn revoke(slot: usize) -> bool {
    let Some(entry) = entry(slot) else { return false };
    let flags = flags(entry);
    let mut now = flags.load(Ordering::SeqCst);
    while now & (GTF_reading | GTF_writing) == 0 {
        match flags.compare_exchange(now, 0, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return true,
            Err(changed) => now = changed,
        }
    }
    false
}

/// The errno that comes nearest to each `GNTST_*`; EIO for the rest.
const STATUS: [(i16, i32); 9] = [
    (GNTST_bad_domain, XEN_ESRCH),
    (GNTST_bad_gntref, XEN_ENOENT),
    (GNTST_bad_handle, XEN_EINVAL),
    (GNTST_bad_virt_addr, XEN_EINVAL),
    (GNTST_permission_denied, XEN_EPERM),
    (GNTST_bad_page, XEN_EINVAL),
    (GNTST_address_too_big, XEN_ERANGE),
    (GNTST_eagain, XEN_EAGAIN),
    (GNTST_no_space, XEN_ENOSPC),
];

/// A `GNTST_*` as a result.
fn status(call: &'static str, status: i16) -> Result<(), XenError> {
    if status == GNTST_okay {
        return Ok(());
    }
    let known = STATUS.into_iter().find(|(known, _)| *known == status);
    let errno = known.map_or(XEN_EIO, |(_, errno)| errno);
    log::debug!("{call}: GNTST {status}");
    Err(XenError { call, errno: -errno })
}

macro_rules! shared_page {
    ($type:ident) => {
        impl SharedPage for $type {
            fn load(&self, word: usize) -> u32 {
                self.page.load(word)
            }
            fn store(&self, word: usize, value: u32) {
                self.page.store(word, value);
            }
            fn fetch_or(&self, word: usize, bits: u32) -> u32 {
                self.page.fetch_or(word, bits)
            }
            fn fetch_and(&self, word: usize, bits: u32) -> u32 {
                self.page.fetch_and(word, bits)
            }
            fn barrier(&self) {
                self.page.barrier();
            }
        }
    };
}

shared_page!(GrantedPage);
shared_page!(MappedPage);
