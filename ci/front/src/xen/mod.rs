//! The floor: hypercalls, pages that others write, and the entry. The only `unsafe` here.
//!
//! Most of it is the image's own floor, the very files: what is proven of them is proven once.
#![expect(unsafe_code, reason = "the entry, and the image's own floor")]

macro_rules! floor {
    ($($name:ident $path:literal $reason:literal;)*) => { $(
        #[path = $path]
        #[expect(dead_code, reason = $reason)]
        mod $name;
    )* };
}

floor! {
    call "../../../../kernel/src/image/call.rs" "the image asks Xen for its version";
    console "../../../../kernel/src/image/console.rs" "the image has COM2 too";
    events "../../../../kernel/src/image/events.rs" "the image binds its peers' ports";
    grants "../../../../kernel/src/image/grants.rs" "the image maps its peers' pages";
    heap "../../../../kernel/src/image/heap.rs" "the image says how full it is";
}

mod forged;
#[path = "../../../../kernel/src/image/page.rs"]
mod page;
#[path = "../../../../kernel/src/image/ring.rs"]
mod ring;
#[path = "../../../../kernel/src/image/shared.rs"]
mod shared;
#[path = "../../../../kernel/src/image/store.rs"]
mod store;

use core::panic::PanicInfo;

use pcidom_boot::info::StartInfo;
use pcidom_boot::memory::AddressSpace;
use pcidom_boot::power::{Reason, shutdown};
use pcidom_boot::trap::{self, Trap};
use pcidom_script::Instant;
use pcidom_xenbus::Port;
use xen_sys::start_info;

pub(crate) use self::call::give_way;
pub(crate) use self::console::PvConsole as Console;
use self::events::Events;
pub(crate) use self::forged::Forged;
pub(crate) use self::grants::GrantedPage;
use self::grants::Grants;
pub(crate) use self::shared::now;
use self::store::Store;
use crate::say::{self, say};

/// What the domain has.
#[derive(Debug)]
pub(crate) struct Xen {
    /// Its ports.
    pub(crate) events: Events,
    /// Pages for others.
    pub(crate) grants: Grants,
    /// Grants that are none.
    pub(crate) forged: Forged,
    /// XenStore's ring.
    pub(crate) store: Store,
    /// The number of the last request to XenStore.
    pub(crate) requests: u32,
}

impl Xen {
    /// Waits until something has happened, or until the deadline. May return early: who
    /// waits looks first at what it waits for.
    pub(crate) fn sleep(&mut self, deadline: Option<Instant>) {
        self.events.wait(deadline);
        while self.events.take().is_some() {}
    }
}

/// Wakes the other end of a port.
pub(crate) fn notify(port: Port) {
    Events::notify(port);
}

/// Whether an interrupt can be used: it is bound for a moment.
pub(crate) fn can_bind(xen: &mut Xen, pirq: u32) -> bool {
    match xen.events.bind_pirq(pirq) {
        Ok((port, _)) => {
            xen.events.close(port);
            true
        }
        Err(error) => {
            say!("pirq {pirq}: {error}");
            false
        }
    }
}

/// Where boot code goes on, on the boot stack with upcalls masked.
#[unsafe(no_mangle)]
extern "C" fn pcidom_entry(raw: *const start_info) -> ! {
    // SAFETY: Xen's builder has put the structure there; it is mapped, and nobody writes it.
    let info = StartInfo::new(unsafe { &*raw });
    // SAFETY: it is this domain's own.
    let space = unsafe { AddressSpace::new(&info) };
    heap::start();
    let shared = shared::map(&space, info.shared_info);
    if let Some(console) = info.console.and_then(|ring| Console::new(&space, ring)) {
        say::start(console);
    }
    say!("@@FRONT started");
    let shared = match shared {
        Ok(shared) => shared,
        Err(errno) => fail(format_args!("cannot map shared_info: {errno}")),
    };
    // SAFETY: `shared` is where the page has been mapped.
    if let Err(errno) = unsafe { trap::install(shared, trapped) } {
        say!("no trap handlers: {errno}");
    }
    let Some(store) = info.store.and_then(|ring| Store::new(&space, ring)) else {
        fail(format_args!("no XenStore"));
    };
    let mut events = Events::new();
    let added = events.add(store.port());
    // In this order: who sets the table up first is who makes it.
    let grants = Grants::new(space).and_then(|g| Ok((g, Forged::new(space)?)));
    match (added, grants) {
        (Ok(()), Ok((grants, forged))) => {
            crate::main(Xen { events, grants, forged, store, requests: 0 }, &info)
        }
        (Err(error), _) | (_, Err(error)) => fail(format_args!("{error}")),
    }
}

fn fail(why: core::fmt::Arguments<'_>) -> ! {
    say!("@@FRONT failed {why}");
    shutdown(Reason::Crash)
}

fn trapped(trap: &Trap) -> ! {
    fail(format_args!("{} at {:#x}, address {:x?}", trap.name(), trap.rip, trap.address))
}

#[panic_handler]
fn panicked(panic: &PanicInfo<'_>) -> ! {
    fail(format_args!("{panic}"))
}
