//! Resets by every method, as the daemon orders them, and what can come in between. Orders are
//! written here as the daemon writes them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what goes wrong here fails the test"
)]

mod meanwhile;
mod methods;
mod rules;

use std::time::Duration;

use pcidom_loan::{LoanReport, Outcome};
use pcidom_pci::Sbdf;
use pcidom_pci::fake::FakeFunction;
use pcidom_pci::reset::Method;
use pcidom_sim::Scene;
use pcidom_sim::scene::card;
use pcidom_sim::world::World;
use pcidom_sim::xen::devices::Hand;
use pcidom_xenbus::DomId;

/// The number of the card's port, and of another one's.
const PORT: u8 = 2;
const OTHER: u8 = 3;

/// A guest that is nobody: what is ordered for it is only prepared.
const NOBODY: u16 = 77;

/// How long a reset may take, and then some.
const PATIENCE: Duration = Duration::from_secs(90);

/// A host that serves, with devices of `make`.
fn host(make: impl FnOnce(&World) -> Vec<Sbdf>) -> Scene {
    let mut scene = Scene::with(1, make);
    scene.serve();
    for device in scene.devices.clone() {
        scene.world.xen().with_hardware(device, Hand::Dom0, |backend| {
            // Slot Status of the ports, which the daemon arms too.
            backend.arms().quirks.push((0x6a, 2));
            backend.hardware_mut().take_writes();
        });
    }
    scene
}

/// A port and a card of two functions.
fn two_functions(methods: &[Method]) -> Scene {
    host(|world| card(world, PORT, 2, methods))
}

fn node(scene: &Scene, path: &str) -> String {
    format!("/local/domain/{}/{path}", scene.pcidom_id)
}

/// Writes an order with the rest of its text.
fn order(scene: &Scene, loan: u16, generation: u64, text: &str) {
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let path = node(scene, &format!("pcidom/loans/{loan}"));
    dom0.write(&path, &format!("gen={generation} {text}")).unwrap();
}

/// The order is over.
fn forget(scene: &mut Scene, loan: u16) {
    let dom0 = scene.world.store().connect(DomId::DOM0);
    dom0.remove(&node(scene, &format!("pcidom/loans/{loan}"))).unwrap();
    scene.world.run_for(Duration::from_millis(100));
}

fn report(scene: &Scene, loan: u16, generation: u64) -> Option<Outcome> {
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let text = dom0.read(&node(scene, &format!("data/pcidom/loans/{loan}"))).ok()?;
    let report: LoanReport = text.parse().unwrap();
    (report.generation.0 == generation).then_some(report.outcome)
}

/// Runs until the order is answered.
fn wait(scene: &mut Scene, loan: u16, generation: u64) -> Outcome {
    let path = node(scene, &format!("data/pcidom/loans/{loan}"));
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let start = format!("gen={generation} ");
    scene.world.run_until(PATIENCE, |_| {
        dom0.read(&path).is_ok_and(|text| text.starts_with(&start))
    });
    report(scene, loan, generation).expect("an answer")
}

/// Orders, waits for the answer, and takes the order away.
fn obey(scene: &mut Scene, text: &str) -> Outcome {
    order(scene, 250, 1, text);
    let outcome = wait(scene, 250, 1);
    forget(scene, 250);
    outcome
}

#[track_caller]
fn failed(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn ready(outcome: Outcome) -> String {
    match outcome {
        Outcome::Ready(text) => text,
        other => panic!("{other:?}"),
    }
}

/// Config space of every device of the host, and what was written to it.
fn config_space(scene: &Scene) -> Vec<(Vec<u8>, usize)> {
    let xen = scene.world.xen();
    let of = |device| {
        xen.with_hardware(device, Hand::Dom0, |backend| {
            let hardware = backend.hardware();
            (hardware.bytes().to_vec(), hardware.writes().len())
        })
    };
    xen.devices().into_iter().filter_map(of).collect()
}

fn bytes(scene: &Scene) -> Vec<Vec<u8>> {
    config_space(scene).into_iter().map(|(bytes, _)| bytes).collect()
}

fn hardware<T>(
    scene: &Scene,
    device: Sbdf,
    act: impl FnOnce(&mut FakeFunction) -> T,
) -> T {
    let xen = scene.world.xen();
    xen.with_hardware(device, Hand::Dom0, |b| act(b.hardware_mut())).unwrap()
}

fn resets(scene: &Scene, device: Sbdf) -> u32 {
    hardware(scene, device, |hardware| hardware.resets())
}
