//! A guest that writes anything at any moment.

use std::time::Duration;

use pcidom_xenbus::SharedPage;
use pcidom_xenbus::pciif::{AER_HANDLER, FRONT_ACTIVE, RawOp, command, store_op, word};
use proptest::prelude::*;

use super::{Bed, read};
use crate::interrupt::Mode;

/// Advisory 155: what is checked is the copy.
#[test]
fn each_word_of_a_request_is_loaded_once_even_if_the_page_changes_in_between() {
    let mut bed = Bed::nvme();
    let op = bed.put_entries(&[0, 1, 2]);
    store_op(&bed.page, &op);
    bed.page.fetch_or(word::FLAGS, FRONT_ACTIVE);
    bed.page.shifting.set(true);
    bed.page.take_loads();
    bed.event();
    let loads = bed.page.take_loads();
    for (n, count) in loads.iter().enumerate() {
        let wanted = match n {
            word::FLAGS | word::OP..=word::OP_VALUE => 1,
            _ if (word::MSIX..word::MSIX + 3).contains(&n) => 1,
            _ => 0,
        };
        assert_eq!(*count, wanted, "word {n}");
    }
    // The page says something else by now; the copy is what is served, and the result is
    // dropped.
    bed.page.shifting.set(false);
    bed.settle();
    assert_eq!((bed.daemon.maps, bed.mapped().len()), (1, 0));
    assert_eq!(bed.server.counters().dropped, 1);
}

#[test]
fn only_err_value_and_vectors_are_written_back() {
    let mut bed = Bed::nvme();
    let changes = |before: &[u32], after: &[u32]| -> Vec<usize> {
        (0..before.len()).filter(|n| before[*n] != after[*n]).collect()
    };
    // Everything else in the page is noise that must stay.
    for n in word::OP_VALUE + 1..1024 {
        bed.page.store(n, 0xdead_0000 | u32::try_from(n).unwrap());
    }
    bed.page.fetch_or(word::FLAGS, AER_HANDLER);
    let op = RawOp { err: 77, ..bed.put_entries(&[3, 1]) };
    store_op(&bed.page, &op);
    let before = bed.page.words();
    bed.op(op);
    let after = bed.page.words();
    let changed = [word::OP_ERR, word::OP_VALUE, word::MSIX, word::MSIX + 1];
    assert_eq!(changes(&before, &after), changed);
    let entries = after[word::MSIX..word::MSIX + 2].iter().map(|entry| entry >> 16);
    assert_eq!(entries.collect::<Vec<_>>(), [3, 1]);

    let failing = RawOp { err: 77, value: 500, ..bed.put_entries(&[1]) };
    store_op(&bed.page, &failing);
    let before = bed.page.words();
    bed.op(failing);
    assert_eq!(changes(&before, &bed.page.words()), [word::OP_ERR, word::OP_VALUE]);
}

#[test]
fn commands_that_a_frontend_cannot_send_are_not_implemented() {
    let mut bed = Bed::nvme();
    for cmd in [6, 7, 8, 9, command::ENABLE_MULTI_MSI, 11, u32::MAX] {
        assert_eq!(bed.op(RawOp { cmd, ..read(0, 4) }).0, -4, "{cmd}");
    }
    assert_eq!(bed.server.counters().unknown, 7);
}

/// What a guest may do with the page, and what happens around it.
#[derive(Clone, Debug)]
enum Step {
    Store(usize, u32),
    Flags(u32),
    Event,
    Answer,
    Time(u64),
    Shut,
    Withdraw,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let small = prop_oneof![0..20_u32, any::<u32>()];
    let slot = prop_oneof![
        Just(word::OP),
        Just(word::OP + 4),
        Just(word::OP + 5),
        Just(word::OP + 6),
        Just(word::OP + 7),
        word::OP..word::AER,
    ];
    let step = prop_oneof![
        8 => (slot, small).prop_map(|(word, value)| Step::Store(word, value)),
        6 => (0..8_u32).prop_map(Step::Flags),
        8 => Just(Step::Event),
        12 => Just(Step::Answer),
        2 => (0..3000_u64).prop_map(Step::Time),
        1 => Just(Step::Shut),
        1 => Just(Step::Withdraw),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_leaks_whatever_the_guest_writes(steps in steps(), shifting in any::<bool>()) {
        let mut bed = Bed::nic();
        bed.page.shifting.set(shifting);
        let at = bed.at();
        for step in steps {
            match step {
                Step::Store(word, value) => bed.page.store(word, value),
                Step::Flags(flags) => bed.page.store(word::FLAGS, flags),
                Step::Event => bed.event(),
                Step::Answer if bed.questions.is_empty() => {}
                Step::Answer => bed.answer(),
                Step::Time(millis) => {
                    bed.now = bed.now.after(Duration::from_millis(millis));
                    bed.call(|server, page, now, out| server.on_time(Some(page), now, out));
                }
                Step::Shut => bed.call(|server, _, _, out| server.shut(out)),
                Step::Withdraw => bed.call(|server, _, _, out| server.withdraw(at, out)),
            }
            // What is mapped is on, or on its way.
            let off = bed.server.functions().next().is_some_and(|f| f.mode == Mode::Off);
            if off && bed.server.is_idle() {
                prop_assert!(bed.mapped().is_empty());
            }
        }
        // A slot that never stops changing is one new request after the other.
        bed.page.shifting.set(false);
        bed.settle();
        bed.call(|server, _, _, out| server.shut(out));
        bed.settle();
        prop_assert!(bed.server.is_idle());
        prop_assert!(bed.mapped().is_empty());
        let answers = bed.server.counters();
        let told = answers.succeeded + answers.failed.iter().sum::<u32>();
        prop_assert_eq!(u32::try_from(bed.notified).unwrap(), told);
    }
}
