//! A benchmark on the host: what pcidom's event loop costs per operation of a guest, with
//! 1, 8 and 64 guests that all load their drivers again and again.
//!
//! Only pcidom's own steps are timed, with everything they do in the simulator's Xen; a
//! real hypercall costs more and a trip to dom0 far more. So the numbers say how the cost
//! grows with guests, not how long an operation takes.

use std::time::{Duration, Instant};

use pcidom_script::Instant as VirtualInstant;
use pcidom_sim::linux_guest::LinuxGuest;
use pcidom_sim::pcidom::Pcidom;
use pcidom_sim::{Actor, Scene, Shared};
use pcidom_xenbus::DomId;

const GUESTS: [u32; 3] = [1, 8, 64];

/// Operations to measure at least. The simulator keeps a record of every call, and what that
/// costs shows in runs that are ten times as long.
const ENOUGH: usize = 2_000;

/// pcidom with a stopwatch.
struct Timed {
    pcidom: Shared<Pcidom>,
    steps: u64,
    spent: Duration,
}

impl Actor for Timed {
    fn domain(&self) -> DomId {
        self.pcidom.borrow().domain()
    }

    fn step(&mut self) {
        let start = Instant::now();
        self.pcidom.borrow_mut().step();
        self.spent += start.elapsed();
        self.steps += 1;
    }

    fn deadline(&self) -> Option<VirtualInstant> {
        self.pcidom.borrow().deadline()
    }
}

fn operations(guests: &[Shared<LinuxGuest>]) -> usize {
    guests.iter().map(|guest| guest.borrow().state().ops.len()).sum()
}

fn measure(count: u32) {
    let start = Instant::now();
    let mut scene = Scene::crowded(1, count);
    // 64 guests need more than xenstored's defaults of 128 and 1000.
    scene.world.store().set_quotas(256, 2000);
    let guests: Vec<_> =
        (0..count).map(|n| scene.lend(&format!("guest{n}"), n as usize)).collect();
    eprintln!("{count} guests are there after {:.0?}", start.elapsed());
    let pcidom = scene.pcidom.clone();
    scene.world.remove(&pcidom);
    let timed = scene.world.add(Timed { pcidom, steps: 0, spent: Duration::ZERO });
    let before = operations(&guests);
    while operations(&guests) - before < ENOUGH {
        for guest in &guests {
            guest.borrow().reload();
        }
        let idle = |_: &_| guests.iter().all(|guest| guest.borrow().is_idle());
        assert!(scene.world.run_until(Duration::from_secs(600), idle), "they are done");
    }
    scene.check();
    let done = operations(&guests) - before;
    let timed_out: usize =
        guests.iter().map(|guest| guest.borrow().state().timeouts()).sum();
    let timed = timed.borrow();
    let nanos = timed.spent.as_nanos() / done.max(1) as u128;
    println!(
        "on sim, {count:2} guests: {:3}.{:02} us of pcidom's own time per operation \
         ({done} operations, {} steps, {timed_out} timed out)",
        nanos / 1000,
        nanos % 1000 / 10,
        timed.steps,
    );
}

fn main() {
    GUESTS.into_iter().for_each(measure);
}
