//! Ops of dom0's pciback (pciback_ops.c): copied out once, done, and answered with whatever
//! Linux has for an error.

use pcidom_pci::regs::msix;
use pcidom_pci::{Access, AccessError, Register, Sbdf, VirtualBdf, Width};
use pcidom_script::Instant;
use pcidom_xenbus::pciif::{self, OpError, RawMsixEntry, RawOp, command, word};
use pcidom_xenbus::{DomId, Pirq, SharedPage};

use super::Behaviour;
use super::link::{Attached, BackLink};
use crate::xen::Xen;
use crate::xen::devices::Hand;
use crate::xen::errno::{EINVAL, ENXIO};

/// Linux's `-EALREADY`.
const EALREADY: i32 = -114;

/// What Linux has enabled for a device.
#[derive(Debug)]
pub(super) enum Vectors {
    Msi(Pirq),
    Msix(Vec<Pirq>),
}

/// An op, copied out when its work began, and when that is done.
#[derive(Debug)]
pub(super) struct Working {
    op: RawOp,
    done: Instant,
}

impl BackLink {
    /// When the op in work is done.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.working.as_ref().map(|working| working.done)
    }

    /// Looks at the port and the flags: a new op goes to the worker.
    pub(super) fn look(&mut self, xen: &Xen, behaviour: &Behaviour, now: Instant) {
        let Some(Attached { page, port }) = &self.attached else { return };
        let _: bool = xen.take_event(DomId::DOM0, *port);
        let active = page.load(word::FLAGS) & pciif::FRONT_ACTIVE != 0;
        if active && self.working.is_none() && !behaviour.mute {
            let done = now.after(xen.agenda().delay(&behaviour.op));
            self.working = Some(Working { op: pciif::load_op(page), done });
        }
    }

    /// Does the op whose time has come, answers it, and looks for the next one.
    pub(super) fn serve_due(&mut self, xen: &Xen, behaviour: &Behaviour, now: Instant) {
        if behaviour.mute {
            self.working = None;
            return;
        }
        let Some(Working { op, .. }) = self.working.take_if(|work| work.done <= now)
        else {
            return;
        };
        let open = self.attached.as_ref().map(|open| (open.page.clone(), open.port));
        let Some((page, port)) = open else { return };
        let active = page.load(word::FLAGS) & pciif::FRONT_ACTIVE != 0;
        if !active || !same_request(&op, &pciif::load_op(&page)) {
            // Its answer goes to whatever is there now: Linux does not look.
            let frontend = self.frontend;
            xen.violation(format!("domain {frontend} took a request back: {op:?}"));
        }
        let (err, value) = self.serve(xen, &op, &page);
        page.store(word::OP_ERR, err.cast_unsigned());
        page.store(word::OP_VALUE, value);
        page.fetch_and(word::FLAGS, !pciif::FRONT_ACTIVE);
        self.served += 1;
        let _: Result<(), _> = xen.notify(DomId::DOM0, port);
        self.look(xen, behaviour, now);
    }

    /// `xen_pcibk_do_one_op`: error and value.
    fn serve(&mut self, xen: &Xen, op: &RawOp, page: &impl SharedPage) -> (i32, u32) {
        let at = Sbdf::from_wire(op.domain, op.bus, op.devfn).map(VirtualBdf);
        let device = at.and_then(|at| self.devices.get(&at)).copied();
        let Some(device) = device else {
            return (OpError::DevNotFound as i32, op.value);
        };
        match op.cmd {
            command::CONF_READ | command::CONF_WRITE => config(xen, device, op),
            command::ENABLE_MSI => self.enable_msi(xen, device),
            command::ENABLE_MSIX => {
                let count = usize::try_from(op.value).unwrap_or(usize::MAX);
                if count > pciif::MAX_MSIX_ENTRIES {
                    return (EINVAL, op.value);
                }
                let mut entries = pciif::load_msix(page, count);
                let result = self.enable_msix(xen, device, &mut entries);
                if result.0 == 0 {
                    pciif::store_msix(page, &entries);
                }
                result
            }
            command::DISABLE_MSI | command::DISABLE_MSIX => self.disable(xen, device),
            _ => (OpError::NotImplemented as i32, op.value),
        }
    }

    fn enable_msi(&mut self, xen: &Xen, device: Sbdf) -> (i32, u32) {
        if self.vectors.contains_key(&device) {
            return (EALREADY, 0);
        }
        match xen.map_msi(DomId::DOM0, self.frontend, device, 0, 0) {
            Ok(pirq) => {
                self.vectors.insert(device, Vectors::Msi(pirq));
                (0, pirq.0.into())
            }
            Err(error) => (error.errno, 0),
        }
    }

    fn enable_msix(
        &mut self,
        xen: &Xen,
        device: Sbdf,
        entries: &mut [RawMsixEntry],
    ) -> (i32, u32) {
        if self.vectors.contains_key(&device) {
            return (EALREADY, EALREADY.cast_unsigned());
        }
        if !xen.decodes_memory(device) {
            return (ENXIO, ENXIO.cast_unsigned());
        }
        let function = xen.function(device);
        let base = function.and_then(|f| f.bar(f.msix?.table_bar).map(|bar| bar.address));
        let mut mapped = Vec::new();
        for entry in &mut *entries {
            let base = base.unwrap_or(0);
            let result =
                xen.map_msi(DomId::DOM0, self.frontend, device, entry.entry, base);
            match result {
                Ok(pirq) => {
                    entry.vector = pirq.0;
                    mapped.push(pirq);
                }
                Err(error) => {
                    for pirq in mapped {
                        let _: Result<(), _> =
                            xen.unmap_pirq(DomId::DOM0, self.frontend, pirq);
                    }
                    // What the Linux of the bed answered: raw errno in both places.
                    return (error.errno, error.errno.cast_unsigned());
                }
            }
        }
        self.vectors.insert(device, Vectors::Msix(mapped));
        set_msix_enable(xen, device, true);
        (0, 0)
    }

    fn disable(&mut self, xen: &Xen, device: Sbdf) -> (i32, u32) {
        let pirqs = match self.vectors.remove(&device) {
            Some(Vectors::Msi(pirq)) => vec![pirq],
            Some(Vectors::Msix(pirqs)) => {
                set_msix_enable(xen, device, false);
                pirqs
            }
            None => Vec::new(),
        };
        for pirq in pirqs {
            let _: Result<(), _> = xen.unmap_pirq(DomId::DOM0, self.frontend, pirq);
        }
        (0, xen.gsi(device).map_or(0, |gsi| gsi.0.into()))
    }

    /// Writes an AER request into the page.
    pub(super) fn report_error(
        &self,
        xen: &Xen,
        device: Sbdf,
        cmd: u32,
        state: i32,
    ) -> bool {
        let at = self.devices.iter().find(|(_, known)| **known == device);
        let (Some((at, _)), Some(Attached { page, port })) = (at, &self.attached) else {
            return false;
        };
        let words = [
            cmd,
            state.cast_unsigned(),
            at.0.segment().into(),
            at.0.bus().into(),
            at.0.devfn().into(),
        ];
        for (n, value) in words.into_iter().enumerate() {
            page.store(word::AER + n, value);
        }
        page.fetch_or(word::FLAGS, pciif::BACK_ACTIVE);
        xen.notify(DomId::DOM0, *port).is_ok()
    }

    /// What the frontend made of it, once it is done.
    pub(super) fn error_answer(&self) -> Option<i32> {
        let page = &self.attached.as_ref()?.page;
        let pending = page.load(word::FLAGS) & pciif::BACK_ACTIVE != 0;
        (!pending).then(|| page.load(word::AER_ERR).cast_signed())
    }
}

/// Whether the slot still holds what was copied out of it.
fn same_request(copied: &RawOp, now: &RawOp) -> bool {
    let asked =
        |op: &RawOp| (op.cmd, op.domain, op.bus, op.devfn, op.offset, op.size, op.value);
    asked(copied) == asked(now)
}

/// `xen_pcibk_config_read` and `_write` behind the checks of `valid_request`.
fn config(xen: &Xen, device: Sbdf, op: &RawOp) -> (i32, u32) {
    let width = u32::try_from(op.size).ok().and_then(Width::from_bytes);
    let offset = u16::try_from(op.offset).ok();
    let register = width.zip(offset).and_then(|(width, at)| Register::new(at, width));
    let Some(register) = register else {
        return (OpError::InvalidOffset as i32, op.value);
    };
    let write = op.cmd == command::CONF_WRITE;
    let access =
        if write { Access::Write(register, op.value) } else { Access::Read(register) };
    let answer =
        xen.with_hardware(device, Hand::Frontend, |backend| backend.access(access));
    match answer {
        Some(Ok(value)) => (0, if write { op.value } else { value }),
        Some(Err(AccessError::NoRegister)) => (OpError::InvalidOffset as i32, 0),
        Some(Err(AccessError::Refused)) => (OpError::AccessDenied as i32, 0),
        Some(Err(_)) => (OpError::OpFailed as i32, 0),
        None => (OpError::DevNotFound as i32, op.value),
    }
}

/// dom0's Linux sets and clears ENABLE itself.
fn set_msix_enable(xen: &Xen, device: Sbdf, on: bool) {
    let control = xen.function(device).and_then(|f| f.msix).map(|msix| msix.control());
    let Some(control) = control else { return };
    xen.with_hardware(device, Hand::Dom0, |backend| {
        let hardware = backend.hardware_mut();
        let [low, high, ..] = hardware.word(control).to_le_bytes();
        let old = u16::from_le_bytes([low, high]);
        let new = if on { old | msix::ENABLE } else { old & !msix::ENABLE };
        hardware.set_bytes(control, &new.to_le_bytes());
    });
}
