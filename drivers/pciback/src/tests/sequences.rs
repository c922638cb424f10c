//! The table of operations in docs/interrupts.md: what each is answered in each state, what
//! it does, and what the operator is told. The rows are numbered as they are there.

use pcidom_loan::LeaseRefusal;
use pcidom_pci::fake::FakeFunction;
use pcidom_pci::regs::{capability, header};
use pcidom_xenbus::pciif::{RawOp, command};

use super::Bed;
use crate::interrupt::{Kind, Mode};

const OFF: Mode = Mode::Off;
const MSI: Mode = Mode::On(Kind::Msi, 1);
const MSIX: Mode = Mode::On(Kind::Msix, 2);

/// What the answer's `value` is.
enum Value {
    /// The new pirq.
    Pirq,
    /// 0: pirqs are in the entries.
    Zero,
    /// The line that is left.
    Line,
    /// An error; its text has this.
    Failed(&'static str),
}
use Value::{Failed, Line, Pirq, Zero};

/// A NIC with MSI and with MSI-X of 200 entries.
fn big_nic() -> Bed {
    let mut nic = FakeFunction::builder(0x8086, 0x10d3, 0x02_0000, 0);
    nic.put(header::INTERRUPT_LINE, &[10, 1])
        .memory_bar(0, 0x4000, false)
        .capability(0xd0, capability::MSI, &[0x80, 0x00], &[0x01, 0x00])
        .msix(0xa0, 200, 0, 0, 0, 0x2000);
    Bed::new(nic.build(&[(header::bar(0), 0xfe64_0000), (header::COMMAND, 0x0002)]))
}

impl Bed {
    /// Brings the function into a mode.
    fn enter(&mut self, mode: Mode) {
        match mode {
            Mode::On(Kind::Msi, _) => drop(self.interrupt(command::ENABLE_MSI)),
            Mode::On(Kind::Msix, _) => drop(self.enable_msix(&[1, 0])),
            Mode::Off | Mode::Between => {}
        }
        assert_eq!(self.status().0, mode);
    }

    fn status(&self) -> (Mode, String) {
        let status = self.server.functions().next().unwrap();
        (status.mode, status.trouble.map(|t| t.to_string()).unwrap_or_default())
    }

    fn msix(&mut self, entries: impl IntoIterator<Item = u16>) -> (i32, u32) {
        let entries: Vec<u16> = entries.into_iter().collect();
        self.enable_msix(&entries)
    }

    fn count(&mut self, value: u32) -> (i32, u32) {
        self.op(RawOp { cmd: command::ENABLE_MSIX, value, ..RawOp::default() })
    }
}

/// A row: its number, the operation, the answer, and the mode it leads to; `None` for one
/// that touches nothing.
type Row = (u32, fn(&mut Bed) -> (i32, u32), Value, Option<Mode>);

const ROWS: &[Row] = &[
    (1, |bed| bed.interrupt(command::ENABLE_MSI), Pirq, Some(MSI)),
    (2, |bed| bed.msix([0]), Zero, Some(Mode::On(Kind::Msix, 1))),
    (3, |bed| bed.msix((72..200).rev()), Zero, Some(Mode::On(Kind::Msix, 128))),
    (4, |bed| bed.interrupt(command::DISABLE_MSI), Line, Some(OFF)),
    (5, |bed| bed.interrupt(command::DISABLE_MSIX), Line, Some(OFF)),
    (6, |bed| bed.msix([]), Failed("0 vectors were asked for"), None),
    (7, |bed| bed.count(129), Failed("limit its driver's queues"), None),
    (7, |bed| bed.count(u32::MAX), Failed("4294967295 vectors"), None),
    (9, |bed| bed.msix([0, 200]), Failed("entry 200 was asked for"), None),
    (10, |bed| bed.msix([3, 4, 3]), Failed("there twice"), None),
    (
        11,
        |bed| refused(bed, LeaseRefusal::OutOfVectors),
        Failed("raise extra_guest_irqs="),
        Some(OFF),
    ),
    (
        12,
        |bed| refused(bed, LeaseRefusal::Failed),
        Failed("see the daemon's log"),
        Some(OFF),
    ),
    (
        13,
        |bed| refused(bed, LeaseRefusal::NotAllowed),
        Failed("see the daemon's log"),
        Some(OFF),
    ),
    (15, decode_off, Zero, Some(MSIX)),
];

fn refused(bed: &mut Bed, refusal: LeaseRefusal) -> (i32, u32) {
    bed.daemon.refuse = Some(refusal);
    bed.msix([0, 1, 2])
}

fn decode_off(bed: &mut Bed) -> (i32, u32) {
    assert_eq!(bed.write(header::COMMAND, 2, 0), 0);
    assert_eq!(bed.read(header::COMMAND, 2), 0);
    bed.msix([5, 6])
}

#[test]
fn every_row_of_the_table_of_operations_holds_in_every_state() {
    for before in [OFF, MSI, MSIX] {
        for (row, act, value, after) in ROWS {
            let about = format!("row {row} from {before}");
            let mut bed = big_nic();
            bed.enter(before);
            let (mapped, asked) = (bed.mapped(), bed.asked);
            let (err, got) = act(&mut bed);
            let (mode, trouble) = bed.status();
            assert_eq!(mode, after.unwrap_or(before), "{about}");
            match value {
                Failed(text) => {
                    assert_eq!((err, got), (-5, 0), "{about}");
                    assert!(trouble.contains(text), "{about}: {trouble}");
                    assert_eq!(bed.troubles, 1, "{about}: the log");
                }
                _ => assert_eq!((err, trouble.as_str()), (0, ""), "{about}"),
            }
            let line = bed.function.interrupt_line.into();
            match value {
                Pirq => {
                    assert_eq!(
                        [u16::try_from(got).unwrap()],
                        bed.mapped()[..],
                        "{about}"
                    );
                }
                Zero => assert_eq!(
                    (got, bed.vectors(bed.mapped().len())),
                    (0, bed.mapped()),
                    "{about}"
                ),
                Line => assert_eq!(got, line, "{about}"),
                Failed(_) => {}
            }
            if after.is_none() {
                assert_eq!(
                    (bed.mapped(), bed.asked),
                    (mapped, asked),
                    "{about}: touched"
                );
            } else if *after == Some(OFF) {
                assert_eq!(bed.mapped(), [0; 0], "{about}");
            } else {
                let kept = bed.mapped().iter().any(|pirq| mapped.contains(pirq));
                assert!(!kept, "{about}: every enable maps anew");
            }
            bed.check();
        }
    }
}

#[test]
fn more_vectors_than_the_table_has_and_a_kind_that_is_not_there() {
    // Row 8.
    let mut bed = Bed::nic();
    bed.enter(MSIX);
    assert_eq!(bed.msix(0..6), (-5, 0));
    assert_eq!((bed.status().0, bed.troubles), (MSIX, 1));
    assert!(bed.status().1.starts_with("6 vectors were asked for, more than the table"));
    // Row 14.
    let mut bed = Bed::nvme();
    bed.enter(MSIX);
    assert_eq!(bed.interrupt(command::ENABLE_MSI), (-5, 0));
    assert_eq!((bed.status().0, bed.troubles), (MSIX, 1));
    assert!(bed.status().1.contains("no interrupts of the kind"));
}
