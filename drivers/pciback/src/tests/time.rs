//! Deadlines, and answers that come late.

use std::time::Duration;

use pcidom_pci::regs::{header, msix};
use pcidom_xenbus::SharedPage;
use pcidom_xenbus::pciif::{FRONT_ACTIVE, command, load_op, word};

use super::{Bed, read};
use crate::interrupt::Mode;
use crate::serve::{ANSWER_LIMIT, DEADLINE};

impl Bed {
    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.call(|server, page, now, out| server.on_time(Some(page), now, out));
    }

    fn answered(&self) -> bool {
        self.page.load(word::FLAGS) & FRONT_ACTIVE == 0
    }
}

#[test]
fn an_operation_is_answered_at_its_deadline_and_not_before() {
    let mut bed = Bed::nvme();
    bed.request(read(0x06, 2));
    assert_eq!(bed.server.deadline(), Some(bed.now.after(DEADLINE)));
    bed.pass(DEADLINE - Duration::from_millis(1));
    assert!(!bed.answered());
    bed.pass(Duration::from_millis(1));
    assert_eq!(bed.result(), (-5, u32::MAX));
    assert_eq!((bed.notified, bed.server.deadline()), (1, None));
    assert!(DEADLINE < ANSWER_LIMIT);
    // Its own answer, when it comes, goes nowhere.
    bed.settle();
    assert_eq!((bed.notified, bed.server.is_idle()), (1, true));
}

#[test]
fn a_late_grant_is_unmapped_and_never_turned_on() {
    let mut bed = Bed::nvme();
    let op = bed.put_entries(&[0, 1]);
    bed.request(op);
    bed.pass(DEADLINE);
    assert_eq!(bed.result(), (-5, 0));
    bed.settle();
    assert_eq!((bed.daemon.maps, bed.mapped().len()), (1, 0));
    assert_eq!(bed.server.functions().next().unwrap().mode, Mode::Off);
    let control = bed.function.msix.unwrap().control();
    let turned_on = |(register, value): &(pcidom_pci::Register, u32)| {
        register.offset() == control && value & u32::from(msix::ENABLE) != 0
    };
    assert!(!bed.dom0.hardware().writes().iter().any(turned_on));
}

#[test]
fn an_enable_that_ends_too_late_in_hardware_is_undone() {
    let mut bed = Bed::nvme();
    let op = bed.put_entries(&[0]);
    bed.request(op);
    // The grant, the control word, COMMAND; then the write of ENABLE hangs.
    for _ in 0..3 {
        bed.answer();
    }
    bed.pass(DEADLINE);
    bed.settle();
    assert_eq!((bed.mapped().len(), bed.notified), (0, 1));
    let control = bed.function.msix.unwrap().control();
    assert_eq!(bed.hardware(control) & msix::ENABLE, 0);
    assert_eq!(bed.server.counters().late, 1);
}

#[test]
fn the_next_operation_waits_for_the_old_procedure_with_its_own_deadline() {
    let mut bed = Bed::nvme();
    bed.request(read(0x06, 2));
    bed.pass(DEADLINE);
    bed.request(read(header::COMMAND, 2));
    assert_eq!(bed.questions.len(), 1, "still the old question");
    assert_eq!(bed.server.deadline(), Some(bed.now.after(DEADLINE)));
    bed.settle();
    assert_eq!(bed.result().0, 0);
    // And once more, with an old procedure that doesn't end.
    bed.request(read(0x06, 2));
    bed.pass(DEADLINE);
    bed.request(read(header::COMMAND, 2));
    bed.pass(DEADLINE);
    assert_eq!((bed.result(), bed.server.counters().late), ((-5, u32::MAX), 3));
    bed.settle();
    assert_eq!(bed.read(0x00, 2), 0x1b36);
}

#[test]
fn a_result_for_a_request_that_is_no_longer_there_is_dropped() {
    for changed in [word::OP, word::OP + 2, word::OP + 3, word::OP + 4, word::OP + 5] {
        let mut bed = Bed::nvme();
        bed.request(read(0x06, 2));
        // The frontend has given up and used the slot again, without clearing the flag.
        bed.page.store(changed, 0x77);
        let before = load_op(&bed.page);
        bed.answer();
        assert_eq!(bed.server.counters().dropped, 1, "word {changed}");
        // What is there now is taken up as a request of its own.
        assert_eq!(
            bed.server.counters().failed.iter().sum::<u32>()
                + bed.server.counters().succeeded,
            1
        );
        let after = load_op(&bed.page);
        assert_eq!((after.cmd, after.offset), (before.cmd, before.offset));
    }
}

#[test]
fn a_result_is_dropped_when_the_frontend_has_cleared_its_flag() {
    let mut bed = Bed::nvme();
    bed.request(read(0x06, 2));
    bed.page.fetch_and(word::FLAGS, !FRONT_ACTIVE);
    let before = bed.page.words();
    bed.settle();
    assert_eq!((bed.page.words(), bed.notified), (before, 0));
}

#[test]
fn interrupts_that_the_guest_was_not_told_of_are_turned_off_again() {
    let mut bed = Bed::nvme();
    let op = bed.put_entries(&[0]);
    bed.request(op);
    bed.page.fetch_and(word::FLAGS, !FRONT_ACTIVE);
    bed.settle();
    assert_eq!((bed.daemon.maps, bed.mapped().len(), bed.notified), (1, 0, 0));
    assert_eq!(bed.server.functions().next().unwrap().mode, Mode::Off);
}

#[test]
fn events_without_a_request_are_spurious() {
    let mut bed = Bed::nvme();
    bed.event();
    assert_eq!((bed.spurious, bed.notified), (1, 0));
    bed.request(read(0x06, 2));
    bed.event();
    assert_eq!(bed.spurious, 2);
    bed.settle();
    assert_eq!(bed.notified, 1);
    assert_eq!(bed.interrupt(command::DISABLE_MSIX).0, 0);
}

#[test]
fn a_request_in_service_when_the_link_shuts_ends_without_the_page() {
    let mut bed = Bed::nvme();
    let op = bed.put_entries(&[0]);
    bed.request(op);
    bed.call(|server, _, _, out| server.shut(out));
    assert_eq!(bed.server.deadline(), None);
    bed.settle();
    assert!(bed.server.is_idle());
    assert_eq!((bed.notified, bed.mapped().len()), (0, 0));
}
