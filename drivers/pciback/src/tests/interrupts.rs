//! Message interrupts: leases, hardware and what the guest is told stay together.

use pcidom_loan::{LeaseAsk, LeaseRefusal};
use pcidom_pci::regs::{command as bits, header, msi, msix};
use pcidom_xenbus::Pirq;
use pcidom_xenbus::pciif::{RawOp, command};

use super::Bed;
use crate::interrupt::{Kind, LeaseError, Mode};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    EnableMsi,
    DisableMsi,
    EnableMsix(usize),
    DisableMsix,
}

const OPS: [Op; 5] = [
    Op::EnableMsi,
    Op::DisableMsi,
    Op::EnableMsix(1),
    Op::EnableMsix(4),
    Op::DisableMsix,
];

fn sequences(length: u32) -> impl Iterator<Item = Vec<Op>> {
    let count = OPS.len().pow(length);
    (0..count).map(move |n| {
        (0..length).map(|place| OPS[n / OPS.len().pow(place) % OPS.len()]).collect()
    })
}

impl Bed {
    fn perform(&mut self, op: Op) -> (i32, u32) {
        match op {
            Op::EnableMsi => self.interrupt(command::ENABLE_MSI),
            Op::DisableMsi => self.interrupt(command::DISABLE_MSI),
            Op::DisableMsix => self.interrupt(command::DISABLE_MSIX),
            Op::EnableMsix(count) => {
                let entries: Vec<u16> = (0..5).rev().take(count).collect();
                self.enable_msix(&entries)
            }
        }
    }

    fn mode(&self) -> Mode {
        self.server.functions().next().unwrap().mode
    }

    /// Daemon, hardware and our own record agree.
    pub(super) fn check(&mut self) {
        // What is asked for here doesn't count.
        let counted = (self.fail_at.take(), self.asked);
        let (msi_at, msix_at) =
            (self.function.msi.unwrap().control(), self.function.msix.unwrap().control());
        let (msi_on, msix_on, leases) = match self.mode() {
            Mode::Off => (false, false, 0),
            Mode::On(Kind::Msi, count) => (true, false, count),
            Mode::On(Kind::Msix, count) => (false, true, count),
            Mode::Between => panic!("between two operations"),
        };
        assert_eq!(self.mapped().len(), leases, "leases live and mapped");
        assert_eq!(self.hardware(msi_at) & msi::ENABLE != 0, msi_on, "MSI in hardware");
        assert_eq!(
            self.hardware(msix_at) & msix::ENABLE != 0,
            msix_on,
            "MSI-X in hardware"
        );
        assert_eq!(self.hardware(msix_at) & msix::MASKALL, 0);
        assert_eq!(self.read(msi_at, 2) & 1 != 0, msi_on, "MSI as the guest sees it");
        assert_eq!(
            self.read(msix_at, 2) >> 15 != 0,
            msix_on,
            "MSI-X as the guest sees it"
        );
        let intx_off = self.hardware(header::COMMAND) & bits::INTX_DISABLE != 0;
        assert_eq!(intx_off, msi_on || msix_on, "INTx");
        (self.fail_at, self.asked) = counted;
    }
}

/// Advisory 157, and what stock frontends do: every order of operations works.
#[test]
fn every_sequence_of_five_operations_keeps_daemon_hardware_and_record_together() {
    for sequence in sequences(5) {
        let mut bed = Bed::nic();
        for op in &sequence {
            let maps = bed.daemon.maps;
            let (err, value) = bed.perform(*op);
            assert_eq!(err, 0, "{op:?} in {sequence:?}");
            bed.check();
            let mapped = bed.mapped();
            match op {
                Op::EnableMsi => {
                    assert_eq!(bed.mode(), Mode::On(Kind::Msi, 1));
                    assert_eq!(mapped, [u16::try_from(value).unwrap()]);
                }
                Op::EnableMsix(count) => {
                    assert_eq!(bed.mode(), Mode::On(Kind::Msix, *count));
                    assert_eq!((value, bed.vectors(*count)), (0, mapped));
                }
                Op::DisableMsi | Op::DisableMsix => {
                    assert_eq!(bed.mode(), Mode::Off);
                    assert_eq!(value, bed.function.interrupt_line.into());
                }
            }
            let enables = matches!(op, Op::EnableMsi | Op::EnableMsix(_));
            assert_eq!(
                bed.daemon.maps,
                maps + u32::from(enables),
                "every enable maps anew"
            );
        }
    }
}

/// Each question of each sequence fails once, the answer lost after the deed was done.
#[test]
fn a_failure_at_any_point_leaks_nothing_once_dom0_answers_again() {
    for sequence in sequences(3) {
        // Twice each: the access was done all the same, or not.
        for n in 2.. {
            let fail_at = n / 2;
            let mut bed = Bed::nic();
            (bed.fail_at, bed.fails_after) = (Some(fail_at), n % 2 == 0);
            for op in &sequence {
                let (err, _) = bed.perform(*op);
                assert!(err == 0 || err == -5, "{err}");
                if err == 0 && matches!(op, Op::EnableMsi | Op::EnableMsix(_)) {
                    bed.check();
                }
            }
            let reached = bed.asked >= fail_at;
            bed.fail_at = None;
            assert_eq!(
                bed.perform(Op::DisableMsi).0,
                0,
                "{sequence:?} failing at {fail_at}"
            );
            bed.check();
            assert_eq!(bed.perform(Op::EnableMsix(2)).0, 0);
            bed.check();
            if !reached {
                break;
            }
        }
    }
}

#[test]
fn the_order_of_linux_5_17_and_later_gets_msix_again() {
    let mut bed = Bed::nvme();
    assert_eq!(bed.enable_msix(&[0]), (0, 0));
    assert_eq!(bed.interrupt(command::DISABLE_MSI).0, 0);
    assert_eq!(bed.enable_msix(&[0, 1, 2]), (0, 0));
    assert_eq!(bed.vectors(3), bed.mapped());
    // Without any disable, too: stock pciback answers EALREADY here.
    assert_eq!(bed.enable_msix(&[5, 4]), (0, 0));
    assert_eq!(bed.vectors(2), bed.mapped());
}

#[test]
fn enable_msix_is_one_word_that_changes_nothing_but_enable() {
    let mut bed = Bed::nvme();
    let control = bed.function.msix.unwrap().control();
    bed.enable_msix(&[0]);
    let writes = bed.dom0.hardware_mut().take_writes();
    let written: Vec<_> = writes.iter().filter(|(r, _)| r.offset() == control).collect();
    let [(register, value)] = written.as_slice() else { panic!("{writes:?}") };
    assert_eq!((register.width().bytes(), *value), (2, 0x8040));
}

#[test]
fn counts_and_entries_beyond_the_table_touch_nothing() {
    let mut bed = Bed::nvme();
    bed.enable_msix(&[0]);
    let (asked, mapped) = (bed.asked, bed.mapped());
    let many: Vec<u16> = (0..65).chain([0]).collect();
    for entries in [vec![], vec![65], vec![0, 0], vec![u16::MAX], many] {
        assert_eq!(bed.enable_msix(&entries), (-5, 0), "{entries:?}");
    }
    for value in [129, 0x1_0001, u32::MAX] {
        let op = RawOp { cmd: command::ENABLE_MSIX, value, ..RawOp::default() };
        assert_eq!(bed.op(op), (-5, 0), "{value}");
    }
    assert_eq!((bed.asked, bed.mapped()), (asked, mapped));
    // A capability that isn't there.
    assert_eq!(bed.interrupt(command::ENABLE_MSI), (-5, 0));
    assert_eq!(bed.asked, asked);
    // All of the table is fine.
    let all: Vec<u16> = (0..65).collect();
    assert_eq!(bed.enable_msix(&all), (0, 0));
}

#[test]
fn a_refusal_of_the_daemon_is_op_failed_and_its_reason_is_kept() {
    let mut bed = Bed::nvme();
    bed.daemon.refuse = Some(LeaseRefusal::OutOfVectors);
    assert_eq!(bed.enable_msix(&[0, 1]), (-5, 0));
    assert_eq!(bed.troubles, 1);
    let status = bed.server.functions().next().unwrap();
    assert!(status.trouble.unwrap().to_string().contains("extra_guest_irqs"));
    assert_eq!(status.mode, Mode::Off);
    assert_eq!(bed.vectors(2), [0xffff, 0xffff]);
    bed.daemon.refuse = None;
    assert_eq!(bed.enable_msix(&[0, 1]), (0, 0));
    assert_eq!(bed.server.functions().next().unwrap().trouble, None);
}

#[test]
fn an_enable_that_fails_after_another_leaves_the_line_usable() {
    let mut bed = Bed::nic();
    assert_eq!(bed.enable_msix(&[0]), (0, 0));
    assert_ne!(bed.hardware(header::COMMAND) & bits::INTX_DISABLE, 0);
    bed.daemon.refuse = Some(LeaseRefusal::OutOfVectors);
    assert_eq!(bed.enable_msix(&[0, 1]), (-5, 0));
    // What was on was ended first; the driver falls back to INTx now.
    bed.check();
    assert_eq!(bed.mode(), Mode::Off);
}

#[test]
fn leases_that_only_the_daemon_remembers_are_ended_first() {
    let mut bed = Bed::nvme();
    let stale = bed.daemon.serve(bed.at(), &LeaseAsk::MapMsix(vec![0])).unwrap();
    assert_eq!(bed.enable_msix(&[0]), (0, 0));
    assert_ne!(bed.vectors(1), [stale[0].0]);
}

#[test]
fn a_grant_that_does_not_fit_is_ended_and_refused() {
    for bad in [vec![], vec![7], vec![7, 7], vec![0, 7], vec![7, 8, 9]] {
        let mut bed = Bed::nvme();
        let op = bed.put_entries(&[0, 1]);
        bed.request(op);
        let pirqs = bad.iter().copied().map(Pirq).collect();
        bed.questions.clear();
        bed.call(|server, page, now, out| {
            server.on_lease(Some(page), Ok(pirqs), now, out);
        });
        let asks_unmap = bed.questions.iter().any(|question| {
            matches!(question, crate::serve::Action::Lease(_, LeaseAsk::Unmap))
        });
        assert!(asks_unmap, "{bad:?}");
        bed.settle();
        assert_eq!(bed.result(), (-5, 0));
    }
}

#[test]
fn without_a_daemon_enabling_fails_and_intx_stays() {
    let mut bed = Bed::nvme();
    let op = bed.put_entries(&[0]);
    bed.request(op);
    while bed.questions.pop_front().is_some() {
        let answer = Err(LeaseError::Unavailable);
        bed.call(|server, page, now, out| server.on_lease(Some(page), answer, now, out));
    }
    assert_eq!(bed.result(), (-5, 0));
    assert_eq!(bed.hardware(header::COMMAND) & bits::INTX_DISABLE, 0);
    // It may have been mapped after all, so the next enable unmaps first.
    bed.daemon.serve(bed.at(), &LeaseAsk::MapMsix(vec![0])).unwrap();
    assert_eq!(bed.enable_msix(&[0]), (0, 0));
    assert_eq!(bed.vectors(1), bed.mapped());
}

#[test]
fn a_device_that_fell_off_the_bus_is_not_written_to() {
    let mut bed = Bed::nvme();
    bed.dom0.hardware_mut().set_bytes(bed.function.msix.unwrap().control(), &[0xff; 2]);
    bed.dom0.hardware_mut().take_writes();
    assert_eq!(bed.enable_msix(&[0]), (-5, 0));
    assert_eq!(bed.dom0.hardware().writes(), []);
    assert_eq!(bed.mapped(), [0; 0]);
}

#[test]
fn leases_end_even_if_the_device_no_longer_responds() {
    let mut bed = Bed::nvme();
    bed.enable_msix(&[0, 1]);
    bed.dom0.hardware_mut().set_bytes(bed.function.msix.unwrap().control(), &[0xff; 2]);
    assert_eq!(bed.interrupt(command::DISABLE_MSIX), (-5, 0));
    assert_eq!(bed.mapped(), [0; 0]);
    assert_eq!(bed.mode(), Mode::Between, "ENABLE may still be on");
}

#[test]
fn a_closing_link_leaves_functions_without_interrupts_dma_and_leases() {
    let mut bed = Bed::nvme();
    bed.write(header::COMMAND, 2, 0x0006);
    bed.enable_msix(&[0, 1]);
    bed.call(|server, _, _, out| server.shut(out));
    assert!(!bed.server.is_idle());
    bed.settle();
    assert!(bed.server.is_idle());
    assert_eq!((bed.mapped().len(), bed.mode()), (0, Mode::Off));
    let control = bed.function.msix.unwrap().control();
    assert_eq!(bed.hardware(control) & msix::ENABLE, 0);
    let command = bed.hardware(header::COMMAND);
    assert_eq!(command & (bits::BUS_MASTER | bits::MEMORY), bits::MEMORY);
    // The next guest driver on this link starts from a reset value.
    assert_eq!(bed.read(header::COMMAND, 2), 0);
    assert_eq!(bed.enable_msix(&[0]), (0, 0));
}

#[test]
fn a_withdrawn_function_is_absent_at_once_and_quiet_when_it_is_reported() {
    let mut bed = Bed::nvme();
    bed.write(header::COMMAND, 2, 0x0006);
    bed.enable_msix(&[0]);
    let at = bed.at();
    bed.call(|server, _, _, out| server.withdraw(at, out));
    assert_eq!(bed.server.functions().count(), 0);
    bed.request(super::read(0, 4));
    assert_eq!(bed.result(), (-1, u32::MAX));
    assert_eq!(bed.withdrawn, 0);
    bed.settle();
    assert_eq!((bed.withdrawn, bed.mapped().len()), (1, 0));
    assert_eq!(bed.hardware(header::COMMAND) & bits::BUS_MASTER, 0);
    bed.call(|server, _, _, out| server.withdraw(at, out));
    assert_eq!(bed.withdrawn, 2);
}

#[test]
fn after_the_end_of_a_loan_nothing_is_asked_about_its_device() {
    let mut bed = Bed::nvme();
    let op = bed.put_entries(&[0]);
    bed.request(op);
    let at = bed.at();
    bed.server.remove(at);
    bed.dom0.hardware_mut().take_writes();
    // The grant comes after all; the daemon has unmapped it by ending the loan.
    bed.answer();
    assert!(bed.server.is_idle());
    assert_eq!(bed.result(), (-5, 0));
    assert_eq!((bed.dom0.hardware().writes(), bed.troubles), ([].as_slice(), 0));
}
