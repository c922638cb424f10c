//! Attempts at what pcidom has no right to (feature `probe-bar`): each logs how Xen refused.
//!
//! For the test bed: it proves from the inside that a device in quarantine is out of reach,
//! and it shows how a panic and a trap end the domain (`extra="crash=..."`).

use pcidom_boot::info::StartInfo;
use pcidom_boot::memory::{AddressSpace, PageArray, RAM};
use pcidom_kernel::XenError;
use x86_64::structures::paging::{PageTableFlags, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};
use xen_sys::{
    DOMID_SELF, MAP_PIRQ_TYPE_GSI, XEN_EINVAL, physdev_map_pirq, physdev_unmap_pirq,
};

use super::call::call;

static WINDOW: PageArray<1> = PageArray::new();

/// Tries to map the page at `machine_address` for writing, and unmaps it at once.
///
/// # Errors
///
/// Xen's refusal: that is the good outcome.
pub(crate) fn try_map_bar(
    space: &AddressSpace,
    machine_address: u64,
) -> Result<(), XenError> {
    const CALL: &str = "update_va_mapping";
    let frame: PhysFrame =
        PhysFrame::containing_address(PhysAddr::new_truncate(machine_address));
    let mfn = pcidom_boot::info::mfn(frame);
    let window = WINDOW.page(0).ok_or(XenError { call: CALL, errno: -XEN_EINVAL })?;
    let window = VirtAddr::from_ptr(window.as_ptr());
    let flags = RAM.union(PageTableFlags::NO_CACHE).union(PageTableFlags::WRITE_THROUGH);
    // SAFETY: a page of a `PageArray` that nothing ever accesses.
    let mapped = unsafe { space.map(window, frame, flags) };
    match mapped {
        Ok(()) => {
            // Xen may grant the page and still take the right to write away.
            let entry =
                PageTableFlags::from_bits_truncate(space.entry(window).unwrap_or(0));
            let write =
                if entry.contains(PageTableFlags::WRITABLE) { "" } else { ", read-only" };
            log::error!("probe-bar: mapping {mfn:#x} SUCCEEDED{write}");
        }
        Err(errno) => log::info!("probe-bar: mapping {mfn:#x} failed: {}", name(errno)),
    }
    // SAFETY: as above.
    let restored = unsafe { space.restore(window) };
    if let Err(errno) = restored {
        log::error!("probe-bar: window not restored: {}", name(errno));
    }
    mapped.map_err(|errno| XenError { call: CALL, errno })
}

/// Tries to map the interrupt `gsi` for ourselves, and unmaps it at once.
///
/// # Errors
///
/// Xen's refusal: that is the good outcome.
pub(crate) fn try_map_irq(gsi: i32) -> Result<(), XenError> {
    let mut map = physdev_map_pirq {
        domid: DOMID_SELF,
        r#type: MAP_PIRQ_TYPE_GSI,
        index: gsi,
        pirq: gsi,
        ..physdev_map_pirq::default()
    };
    let result = call(&mut map);
    match result {
        Ok(()) => {
            log::error!("probe-bar: interrupt {gsi} SUCCEEDED");
            let mut unmap = physdev_unmap_pirq { domid: DOMID_SELF, pirq: map.pirq };
            if let Err(error) = call(&mut unmap) {
                log::error!("probe-bar: {error}");
            }
        }
        Err(error) => {
            log::info!("probe-bar: interrupt {gsi} failed: {}", name(error.errno));
        }
    }
    result
}

/// A failure that the command line asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Crash {
    /// `crash=panic`
    Panic,
    /// `crash=null`: a read at address 8.
    Null,
    /// `crash=stack`: the stack overflows.
    Stack,
    /// Nothing of that.
    None,
}

impl Crash {
    pub(crate) fn asked_for(info: &StartInfo) -> Self {
        match info.option("crash") {
            Some("panic") => Self::Panic,
            Some("null") => Self::Null,
            Some("stack") => Self::Stack,
            _ => Self::None,
        }
    }

    pub(crate) fn now(self) {
        match self {
            Self::Panic => deliberate_panic(),
            Self::Null => {
                let nowhere = core::ptr::without_provenance::<u64>(8);
                // SAFETY: it is not: nothing is mapped there, which is the point. The fault
                // ends the domain.
                let word = unsafe { nowhere.read_volatile() };
                log::error!("address 8 holds {word:#x}");
            }
            Self::Stack => log::error!("{} calls fit the stack", overflow(1)),
            Self::None => {}
        }
    }
}

#[expect(clippy::panic, reason = "the bed has asked for one")]
fn deliberate_panic() {
    panic!("asked for by the command line");
}

fn overflow(depth: u64) -> u64 {
    let page = core::hint::black_box([depth; 512]);
    if depth == u64::MAX {
        return 0;
    }
    overflow(depth + 1).max(page.into_iter().fold(0, u64::max))
}

fn name(errno: i32) -> &'static str {
    match -errno {
        xen_sys::XEN_EPERM => "EPERM",
        XEN_EINVAL => "EINVAL",
        xen_sys::XEN_ENODEV => "ENODEV",
        xen_sys::XEN_EBUSY => "EBUSY",
        xen_sys::XEN_EEXIST => "EEXIST",
        xen_sys::XEN_ESRCH => "ESRCH",
        _ => "another error",
    }
}
