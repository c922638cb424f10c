//! What pcidom tells of itself when `pcidomctl status` or somebody at the monitor asks.
//!
//! Text for people, in small nodes that each fit a message; the node `number` is written
//! last and says which query the others answer.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

use pciback::FunctionStatus;
use pciback::interrupt::Mode;
use pciback::policy::Dropped;
use pcidom_loan::{LeaseAnswer, MAX_TEXT, REPORT_DIR};
use pcidom_pci::Sbdf;
use pcidom_xenbus::DomId;

use super::Machine;
use super::alink::PoolDevice;
use super::guests::Guest;
use super::jobs;
use crate::platform::{HeapUse, Platform};

/// Denied writes by register, as `NAME@OFFSET+BYTES=VALUE*COUNT` in hexadecimal but for the
/// count: the last value, and how often. The daemon makes sentences of it.
fn denied(dropped: &Dropped) -> String {
    let mut text = String::new();
    for write in dropped.writes() {
        let (name, count, last) = (write.name, write.count, write.last);
        let (offset, bytes) = (write.register.offset(), write.register.width().bytes());
        text += &format!(" {name}@{offset:x}+{bytes}={last:x}*{count}");
    }
    if dropped.others() > 0 {
        text += &format!(" others*{}", dropped.others());
    }
    text
}

/// A device of the pool.
pub(super) fn device_text(device: Sbdf, known: &PoolDevice, window: bool) -> String {
    match &known.function {
        Some(function) if window => format!("{function}, config space read directly"),
        Some(function) => function.to_string(),
        None => match known.failed {
            Some(error) => format!("{device} not scanned: {error}"),
            None => format!("{device} not scanned yet"),
        },
    }
}

/// A guest's link and what was counted on it.
pub(super) fn guest_text<P: Platform>(known: &Guest<P>) -> String {
    let c = known.server.counters();
    let counters = format!(
        "reads={} writes={} interrupts={} failed={} late={} spurious={}",
        c.reads,
        c.writes,
        c.interrupts,
        c.failed.iter().fold(0_u32, |sum, n| sum.saturating_add(*n)),
        c.late,
        c.spurious,
    );
    let mut text = format!("link={:?} {counters} trouble: ", known.link.phase());
    match known.trouble {
        Some((device, trouble)) => {
            let _ = write!(text, "{device}: {trouble}");
        }
        None => text.push_str("none"),
    }
    text
}

/// A function on a guest's link.
pub(super) fn function_text(status: &FunctionStatus) -> String {
    format!(
        "{} as {} {} denied writes:{}",
        status.sbdf,
        status.at,
        status.mode,
        denied(&status.dropped)
    )
}

impl<P: Platform> Machine<P> {
    /// The leases of a function, for the daemon to compare with its record; nothing while
    /// they change.
    fn held(&self, guest: DomId, status: &FunctionStatus) -> Option<(String, String)> {
        let mut loans = self.loans.iter();
        let (id, loan) = loans
            .find(|(_, loan)| loan.is_with(guest) && loan.order.device == status.sbdf)?;
        let (generation, sequence) = loan.lease.settled()?;
        if status.mode == Mode::Between {
            return None;
        }
        let result = Ok(status.pirqs.iter().map(|pirq| pirq.0).collect());
        let held = LeaseAnswer { generation, sequence, result };
        Some((format!("leases/{id}"), held.to_string()))
    }

    /// The daemon asks for a report with this number.
    pub(super) fn write_report(&mut self, number: Option<String>, heap: HeapUse) {
        let Some(number) = number.filter(|n| n.len() <= 20) else { return };
        let mut nodes: Vec<(String, String)> = Vec::new();
        for (n, (device, known)) in self.pool.iter().enumerate() {
            let window = self.windows.is_open(*device);
            nodes.push((format!("pool/{n}"), device_text(*device, known, window)));
        }
        for (guest, known) in &self.guests {
            nodes.push((format!("guests/{guest}"), guest_text(known)));
            nodes.push((format!("guests/{guest}/leases"), known.waits.to_string()));
            for (n, status) in known.server.functions().enumerate() {
                nodes.push((format!("guests/{guest}/{n}"), function_text(&status)));
                nodes.extend(self.held(*guest, &status));
            }
        }
        if let Some(text) = self.stop_report() {
            nodes.push(("shutdown".into(), text));
        }
        let HeapUse { used, peak, size } = heap;
        nodes.push(("heap".into(), format!("{used} bytes of {size}, {peak} at most")));
        nodes.push(("number".into(), number));
        let nodes = nodes.into_iter().map(|(key, text)| {
            let text = text.chars().take(MAX_TEXT).collect();
            (format!("{REPORT_DIR}/report/{key}"), text)
        });
        let nodes = nodes.collect();
        self.store.run(move |store| jobs::replace(store, nodes));
    }
}
