use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::pciif::{AER_HANDLER, BACK_ACTIVE, FRONT_ACTIVE, word};

use super::page::{FakePage, Step};
use crate::aer::{AerReport, AerResult, AerStep, Channel, announce_aer, serve_aer};

fn report(words: [u32; 5]) -> (AerReport, u32) {
    let page = FakePage::new();
    for (n, value) in words.into_iter().enumerate() {
        page.poke(word::AER + n, value);
    }
    page.poke(word::FLAGS, BACK_ACTIVE | FRONT_ACTIVE | AER_HANDLER);
    let report = serve_aer(&page).unwrap();
    // Only the backend's flag is ours to clear, and the answer is there before.
    assert_eq!(page.peek(word::FLAGS), FRONT_ACTIVE | AER_HANDLER);
    let order = [
        Step::Barrier,
        Step::Store(word::AER_ERR),
        Step::Barrier,
        Step::And(!BACK_ACTIVE),
    ];
    assert_eq!(page.take_steps(), order);
    assert_eq!(serve_aer(&page), None);
    (report, page.peek(word::AER_ERR))
}

#[test]
fn every_verdict_is_disconnect() {
    let at = Some(VirtualBdf(Sbdf::new(0, 0, 1, 0).unwrap()));
    for (cmd, step) in
        [(6, AerStep::Detected), (8, AerStep::Mmio), (9, AerStep::SlotReset)]
    {
        let (report, err) = report([cmd, 2, 0, 0, 8]);
        let answer = AerResult::Disconnect;
        assert_eq!(report, AerReport { step, channel: Channel::Frozen, at, answer });
        assert_eq!(err, 4);
    }
    let (report, err) = report([7, 1, 0, 0, 8]);
    assert_eq!((report.step, report.answer, err), (AerStep::Resume, AerResult::None, 1));
}

#[test]
fn it_reads_well() {
    let (report, _) = report([6, 2, 0, 0, 8]);
    assert_eq!(
        report.to_string(),
        "AER for virtual 0000:00:01.0: error detected, link frozen; answered disconnect"
    );
}

#[test]
fn garbage_is_answered_too() {
    let (report, err) = report([u32::MAX; 5]);
    assert_eq!((report.step, report.at, err), (AerStep::Unknown(u32::MAX), None, 1));
    assert_eq!(report.channel, Channel::Unknown(-1));
}

#[test]
fn nothing_is_touched_without_a_request() {
    let page = FakePage::new();
    page.poke(word::FLAGS, FRONT_ACTIVE);
    announce_aer(&page);
    assert_eq!(page.peek(word::FLAGS), FRONT_ACTIVE | AER_HANDLER);
    page.take_steps();
    assert_eq!(serve_aer(&page), None);
    assert_eq!(page.take_steps(), []);
}
