//! A driver like Linux's nvme: probe with one vector, then with as many as it has queues.

use pcidom_pci::VirtualBdf;
use pcidom_pci::regs::{command, header, msix};
use pcidom_xenbus::pciif::command as op;
use pcidom_xenbus::{Pirq, Port};

use super::kernel::{Cpu, Kernel};
use super::pci::Bus;
use super::state::{Found, Interrupts};

/// `nvme_probe`: enable the device, one vector for the admin queue, then all of them.
pub(super) async fn probe(kernel: &Kernel, cpu: &Cpu, at: VirtualBdf) {
    let bus = Bus { cpu, at };
    let wanted = kernel.state.borrow().wanted;
    if kernel.state.borrow().found.get(&at).is_none_or(|found| found.driver) {
        return;
    }
    enable_device(&bus).await;
    set(kernel, at, |found| found.driver = true);
    allocate(kernel, &bus, 1).await;
    release(kernel, &bus).await;
    allocate(kernel, &bus, wanted).await;
    bind(kernel, at);
}

/// `nvme_remove`
pub(super) async fn remove(kernel: &Kernel, cpu: &Cpu, at: VirtualBdf) {
    let bus = Bus { cpu, at };
    if !kernel.state.borrow().found.get(&at).is_some_and(|found| found.driver) {
        return;
    }
    release(kernel, &bus).await;
    // `pci_disable_device`
    let old = bus.read(header::COMMAND, 2).await.unwrap_or(0);
    bus.write(header::COMMAND, 2, old & !u32::from(command::BUS_MASTER)).await;
    set(kernel, at, |found| found.driver = false);
}

fn set(kernel: &Kernel, at: VirtualBdf, change: impl FnOnce(&mut Found)) {
    if let Some(found) = kernel.state.borrow_mut().found.get_mut(&at) {
        change(found);
    }
}

/// `pci_enable_device_mem` and `pci_set_master`
async fn enable_device(bus: &Bus<'_>) {
    let old = bus.read(header::COMMAND, 2).await.unwrap_or(0);
    let decode = u32::from(command::MEMORY);
    if old & decode == 0 {
        bus.write(header::COMMAND, 2, old | decode).await;
    }
    let master = u32::from(command::BUS_MASTER);
    if old & master == 0 {
        bus.write(header::COMMAND, 2, old | decode | master).await;
    }
}

/// `pci_alloc_irq_vectors` with MSI-X, MSI and the line allowed.
async fn allocate(kernel: &Kernel, bus: &Bus<'_>, count: u32) {
    let at = bus.at;
    let found = kernel.state.borrow().found.get(&at).cloned().unwrap_or_default();
    if let Some(capability) = found.msix {
        match enable_msix(bus, capability, count).await {
            Ok(vectors) => {
                let pirqs = vectors.into_iter().map(Pirq).collect();
                set(kernel, at, |found| found.interrupts = Interrupts::Msix(pirqs));
                return;
            }
            Err(error) => {
                log::warn!("guest {}: enable msix get err {error:x}", kernel.domain);
                // Seen on the wire after a failed enable: the op, twice.
                bus.simple(op::DISABLE_MSIX).await;
                bus.simple(op::DISABLE_MSIX).await;
            }
        }
    }
    if found.capabilities.contains(&pcidom_pci::regs::capability::MSI) {
        let (err, value) = bus.simple(op::ENABLE_MSI).await;
        if let (0, Ok(pirq @ 1..)) = (err, u16::try_from(value)) {
            set(kernel, at, |found| found.interrupts = Interrupts::Msi(Pirq(pirq)));
            return;
        }
    }
    let line = Pirq(found.line.into());
    set(kernel, at, |found| found.interrupts = Interrupts::Line(line));
}

/// `msix_capability_init`: ENABLE and MASKALL first, then the op, then MASKALL off, and the
/// line off.
async fn enable_msix(
    bus: &Bus<'_>,
    capability: u16,
    count: u32,
) -> Result<Vec<u16>, i32> {
    let (enable, mask) = (u32::from(msix::ENABLE), u32::from(msix::MASKALL));
    let control = capability + msix::CONTROL;
    let old = bus.msix_control(capability).await;
    bus.write(control, 2, old | enable | mask).await;
    let vectors = bus.enable_msix(count).await;
    if vectors.is_ok() {
        let command = bus.read(header::COMMAND, 2).await.unwrap_or(0);
        bus.write(header::COMMAND, 2, command | u32::from(command::INTX_DISABLE)).await;
        let now = bus.msix_control(capability).await;
        bus.write(control, 2, (now | enable) & !mask).await;
    } else {
        bus.write(control, 2, old & !(enable | mask)).await;
    }
    vectors
}

/// `pci_free_irq_vectors`: since 5.17 the op says MSI whatever it was.
async fn release(kernel: &Kernel, bus: &Bus<'_>) {
    let at = bus.at;
    let ports = kernel.state.borrow().found.get(&at).map(|found| found.ports.clone());
    for port in ports.into_iter().flatten() {
        let _: Result<(), _> = kernel.xen.close(kernel.domain, port);
    }
    let found = kernel.state.borrow().found.get(&at).cloned().unwrap_or_default();
    set(kernel, at, |found| {
        found.ports.clear();
        found.interrupts = Interrupts::None;
    });
    match (found.interrupts, found.msix) {
        (Interrupts::Msix(_), Some(capability)) => {
            let enable = u32::from(msix::ENABLE);
            let old = bus.msix_control(capability).await;
            bus.write(capability + msix::CONTROL, 2, old & !enable).await;
            bus.simple(op::DISABLE_MSI).await;
            let command = bus.read(header::COMMAND, 2).await.unwrap_or(0);
            bus.write(header::COMMAND, 2, command & !u32::from(command::INTX_DISABLE))
                .await;
        }
        (Interrupts::Msi(_), _) => {
            bus.simple(op::DISABLE_MSI).await;
        }
        _ => {}
    }
}

/// `request_irq` for every vector.
fn bind(kernel: &Kernel, at: VirtualBdf) {
    let found = kernel.state.borrow().found.get(&at).cloned().unwrap_or_default();
    let pirqs = match found.interrupts {
        Interrupts::None => return,
        Interrupts::Line(pirq) | Interrupts::Msi(pirq) => vec![pirq],
        Interrupts::Msix(pirqs) => pirqs,
    };
    let bound: Result<Vec<Port>, _> =
        pirqs.iter().map(|pirq| kernel.xen.bind_pirq(kernel.domain, *pirq)).collect();
    set(kernel, at, |found| match bound {
        Ok(ports) => {
            found.ports = ports;
            found.failed = None;
        }
        Err(error) => {
            log::warn!("guest {}: {error}", kernel.domain);
            found.failed = Some("an interrupt could not be bound");
        }
    });
}
