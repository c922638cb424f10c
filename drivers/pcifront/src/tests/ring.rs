use core::time::Duration;

use pcidom_pci::{Access, AccessError, Register, Sbdf, VirtualBdf, Width};
use pcidom_script::Instant;
use pcidom_xenbus::SharedPage;
use pcidom_xenbus::pciif::{
    AER_HANDLER, BACK_ACTIVE, FRONT_ACTIVE, RawOp, load_op, word,
};

use super::page::{FakePage, Step};
use crate::ring::{OP_DEADLINE, OpSlot, SubmitError};

const START: Instant = Instant::from_nanos(5_000_000_000);

fn at() -> VirtualBdf {
    VirtualBdf(Sbdf::new(0, 0, 3, 1).unwrap())
}

fn read(offset: u16, width: Width) -> Access {
    Access::Read(Register::new(offset, width).unwrap())
}

/// The backend completes whatever is there.
fn complete(page: &FakePage, err: i32, value: u32) {
    page.poke(word::OP_ERR, err.cast_unsigned());
    page.poke(word::OP_VALUE, value);
    page.poke(word::FLAGS, page.peek(word::FLAGS) & !FRONT_ACTIVE);
}

#[test]
fn a_read_is_written_then_flagged_and_its_answer_comes_once() {
    let (page, mut slot) = (FakePage::new(), OpSlot::new());
    assert_eq!(slot.submit(&page, START, at(), read(0x0a, Width::Word)), Ok(()));
    let steps = page.take_steps();
    let stores = (word::OP..word::OP + 8).map(Step::Store);
    let tail = [Step::Barrier, Step::Or(FRONT_ACTIVE)];
    let order: Vec<_> = [Step::Barrier].into_iter().chain(stores).chain(tail).collect();
    assert_eq!(steps, order);
    assert_eq!(
        load_op(&page),
        RawOp {
            cmd: 0,
            err: -5,
            domain: 0,
            bus: 0,
            devfn: 0x19,
            offset: 0x0a,
            size: 2,
            value: 0
        }
    );
    assert_eq!(slot.poll(&page, START), None);
    // Bits beyond the width are nobody's.
    complete(&page, 0, 0xdead_0802);
    assert_eq!(slot.poll(&page, START), Some(Ok(0x0802)));
    assert_eq!(slot.poll(&page, START), None);
    assert!(slot.is_idle());
}

#[test]
fn a_write_carries_only_its_width_and_answers_zero() {
    let (page, mut slot) = (FakePage::new(), OpSlot::new());
    let access = Access::Write(Register::new(0x0d, Width::Byte).unwrap(), 0x1234_5678);
    assert_eq!(slot.submit(&page, START, at(), access), Ok(()));
    let op = load_op(&page);
    assert_eq!((op.cmd, op.offset, op.size, op.value), (1, 0x0d, 1, 0x78));
    complete(&page, 0, 0x78);
    assert_eq!(slot.poll(&page, START), Some(Ok(0)));
}

#[test]
fn other_flags_are_left_alone() {
    let (page, mut slot) = (FakePage::new(), OpSlot::new());
    page.poke(word::FLAGS, AER_HANDLER | BACK_ACTIVE);
    assert_eq!(slot.submit(&page, START, at(), read(0, Width::Dword)), Ok(()));
    assert_eq!(page.peek(word::FLAGS), AER_HANDLER | BACK_ACTIVE | FRONT_ACTIVE);
}

#[test]
fn codes_have_names_only_where_the_protocol_gives_them() {
    for (code, error) in [
        (-1, AccessError::NoDevice),
        (-2, AccessError::NoRegister),
        (-3, AccessError::Refused),
        (-4, AccessError::Failed(-4)),
        (-5, AccessError::Failed(-5)),
        (-19, AccessError::Failed(-19)),
        (0x87, AccessError::Failed(0x87)),
        (i32::MIN, AccessError::Failed(i32::MIN)),
    ] {
        let (page, mut slot) = (FakePage::new(), OpSlot::new());
        assert_eq!(slot.submit(&page, START, at(), read(0, Width::Dword)), Ok(()));
        complete(&page, code, 0);
        assert_eq!(slot.poll(&page, START), Some(Err(error)), "{code}");
    }
}

#[test]
fn one_op_at_a_time() {
    let (page, mut slot) = (FakePage::new(), OpSlot::new());
    assert_eq!(slot.submit(&page, START, at(), read(0, Width::Dword)), Ok(()));
    let before = load_op(&page);
    let second = slot.submit(&page, START, at(), read(8, Width::Dword));
    assert_eq!(second, Err(SubmitError::Busy));
    // An answer that was not fetched yet is not written over either.
    complete(&page, 0, 7);
    let second = slot.submit(&page, START, at(), read(8, Width::Dword));
    assert_eq!(second, Err(SubmitError::Busy));
    assert_eq!(load_op(&page).offset, before.offset);
    assert_eq!(slot.poll(&page, START), Some(Ok(7)));
}

#[test]
fn a_late_answer_never_becomes_the_answer_of_the_next_op() {
    let (page, mut slot) = (FakePage::new(), OpSlot::new());
    assert_eq!(slot.submit(&page, START, at(), read(0, Width::Dword)), Ok(()));
    let deadline = slot.deadline().unwrap();
    assert_eq!(deadline, START.after(OP_DEADLINE));
    let just_before = START.after(OP_DEADLINE - Duration::from_nanos(1));
    assert_eq!(slot.poll(&page, just_before), None);
    assert_eq!(slot.poll(&page, deadline), Some(Err(AccessError::TimedOut)));
    assert_eq!((slot.deadline(), slot.is_stuck()), (None, true));

    // The request stays with the backend, and new ones fail fast.
    let op = load_op(&page);
    page.take_steps();
    for _ in 0..3 {
        let next = slot.submit(&page, deadline, at(), read(8, Width::Dword));
        assert_eq!(next, Err(SubmitError::Stuck));
        assert_eq!(next.map_err(AccessError::from), Err(AccessError::TimedOut));
        assert_eq!(slot.poll(&page, deadline), None);
    }
    assert_eq!((load_op(&page), page.load(word::FLAGS)), (op, FRONT_ACTIVE));
    assert!(page.take_steps().iter().all(|step| *step == Step::Barrier));

    complete(&page, 0, 0xbad);
    assert_eq!(slot.poll(&page, deadline), None);
    assert!(slot.is_idle());
    assert_eq!(slot.submit(&page, deadline, at(), read(8, Width::Dword)), Ok(()));
    complete(&page, 0, 0x900d);
    assert_eq!(slot.poll(&page, deadline), Some(Ok(0x900d)));
}

#[test]
fn a_stuck_slot_is_usable_the_moment_the_old_op_is_complete() {
    let (page, mut slot) = (FakePage::new(), OpSlot::new());
    assert_eq!(slot.submit(&page, START, at(), read(0, Width::Dword)), Ok(()));
    let deadline = slot.deadline().unwrap();
    assert_eq!(slot.poll(&page, deadline), Some(Err(AccessError::TimedOut)));
    complete(&page, 0, 0xbad);
    // The event of that completion has not been seen yet.
    assert_eq!(slot.submit(&page, deadline, at(), read(8, Width::Dword)), Ok(()));
    assert_eq!(slot.poll(&page, deadline), None);
}

#[test]
fn an_answer_at_the_deadline_still_counts() {
    let (page, mut slot) = (FakePage::new(), OpSlot::new());
    assert_eq!(slot.submit(&page, START, at(), read(0, Width::Dword)), Ok(()));
    complete(&page, 0, 1);
    assert_eq!(slot.poll(&page, START.after(OP_DEADLINE * 2)), Some(Ok(1)));
}

#[test]
fn an_op_in_flight_from_an_earlier_life_is_waited_for() {
    let (page, mut slot) = (FakePage::new(), OpSlot::new());
    page.poke(word::FLAGS, FRONT_ACTIVE);
    let submitted = slot.submit(&page, START, at(), read(0, Width::Dword));
    assert_eq!(submitted, Err(SubmitError::Stuck));
    complete(&page, 0, 3);
    assert_eq!(slot.poll(&page, START), None);
    assert_eq!(slot.submit(&page, START, at(), read(0, Width::Dword)), Ok(()));
}
