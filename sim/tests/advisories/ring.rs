//! The request slot: numbers that are too high, words that change, and answers that are logged.

use std::time::Duration;

use pcidom_xenbus::SharedPage;
use pcidom_xenbus::pciif::{FRONT_ACTIVE, OpError, RawOp, command, store_op, word};

use super::{Raw, lines_for_people};

#[test]
fn xsa_043_a_guest_whose_every_enable_fails_does_not_fill_a_log() {
    let mut raw = Raw::new(0);
    let enable = RawOp { cmd: command::ENABLE_MSI, ..RawOp::default() };
    // All parts of it have been found out and said once.
    assert_eq!(raw.op(enable, &[]).err, OpError::OpFailed as i32);
    let (lines, begun) = (lines_for_people(), raw.scene.world.now());
    for _ in 0..600 {
        assert_eq!(raw.op(enable, &[]).err, OpError::OpFailed as i32);
    }
    let seconds = usize::try_from(raw.scene.world.now().since(begun).as_secs()).unwrap();
    let lines = lines_for_people() - lines;
    // pcidom's lines and the daemon's: of each 64 in a row, and then one a second; the
    // daemon's have two parts.
    assert!(lines <= 3 * (64 + seconds + 1), "{lines} lines in {seconds} s");
    assert!(lines < 600, "{lines} lines for 600 operations");
}

#[test]
fn xsa_155_words_that_change_while_they_are_read_are_used_as_they_were_read_once() {
    for second in 0..12 {
        let mut raw = Raw::new(4);
        let from = raw.records();
        let read = RawOp { cmd: command::CONF_READ, size: 4, ..RawOp::default() };
        store_op(&raw.page, &read);
        raw.page.store(word::MSIX, 0);
        let before: Vec<u32> = (0..9).map(|n| raw.page.loads(word::OP + n)).collect();
        // What was a read of register 0 is something else as soon as it was looked at.
        raw.page.set_hook(Some(Box::new(move |at| match at {
            word::OP => Some(second),
            at if at > word::OP_ERR && at < word::OP + 8 => Some(0xffff_ff00 | second),
            _ => None,
        })));
        raw.page.fetch_or(word::FLAGS, FRONT_ACTIVE);
        raw.scene.world.xen().notify(raw.guest, raw.port).unwrap();
        raw.scene.world.run_for(Duration::from_secs(2));
        raw.page.set_hook(None);
        // Once to take it, once to see whether it is still the same request; and so again
        // for what stands there now, which is a request of its own.
        for (n, before) in before.iter().enumerate() {
            let loads = raw.page.loads(word::OP + n) - before;
            assert!(loads <= 4, "word {n} of the request: {loads} loads");
        }
        // The interrupt operation that nobody asked for in one piece was not done, and the
        // answer to the read did not get into another request.
        assert_eq!(raw.maps(from), 0, "command {second}");
        let ids = u32::from(raw.function.device) << 16 | u32::from(raw.function.vendor);
        assert_ne!(raw.page.peek(word::OP_VALUE), ids);
        raw.scene.check();
    }
}

#[test]
fn xsa_164_entries_and_counts_beyond_the_table_reach_nothing() {
    let mut raw = Raw::new(8);
    let from = raw.records();
    let table = raw.function.msix.as_ref().unwrap().table_size;
    for (count, entries) in [
        (1, vec![table]),
        (1, vec![0xffff]),
        (2, vec![0, 2048]),
        (2, vec![1, 1]),
        (0, vec![]),
        (129, (0..128).collect()),
        (0x8000_0001, vec![0]),
        (u32::MAX, vec![0]),
    ] {
        let op = RawOp { cmd: command::ENABLE_MSIX, value: count, ..RawOp::default() };
        let aer = raw.page.peek(word::AER);
        assert!(raw.op(op, &entries).err < 0, "{count} entries {entries:?}");
        assert_eq!(raw.page.peek(word::AER), aer, "what is behind the table of vectors");
    }
    assert_eq!(raw.maps(from), 0);
    raw.scene.check();
}

#[test]
fn xsa_458_several_messages_by_msi_are_not_offered() {
    let mut raw = Raw::new(8);
    let from = raw.records();
    for value in [0, 1, 2, 4, 32, u32::MAX] {
        let op = RawOp { cmd: command::ENABLE_MULTI_MSI, value, ..RawOp::default() };
        assert_eq!(raw.op(op, &[]).err, OpError::NotImplemented as i32);
    }
    assert_eq!(raw.maps(from), 0);
}
