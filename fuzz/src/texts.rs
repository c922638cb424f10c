//! Every text that is read out of one node of XenStore, off a command line or off the
//! daemon's socket. The input is the text, and all parsers get it.
//!
//! What is accepted is within its bounds, and comes back from what it is written as.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use pcidom_loan::{
    Allowed, BusPolicy, ConfigFrame, LeaseAnswer, LeaseAsk, LeaseRequest, LoanId,
    LoanOrder, LoanReport, MAX_LOANS, MAX_TEXT, MAX_VECTORS, NodeName, Outcome, repeated,
};
use pcidom_pci::access::EXTENDED_SPACE;
use pcidom_pci::{Method, Sbdf};
use pcidom_toolstack::spec::Spec;
use pcidom_toolstack::verb::Request;
use pcidom_xenbus::{DomId, GrantRef, Mfn, Pirq, Port, XenbusState};

/// Runs one input.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    numbers(&text);
    addresses(&text);
    messages(&text);
    from_people(&text);
}

/// Parses, and parses again what that is written as.
fn both_ways<T: FromStr + Display + Debug + PartialEq>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    let written = value.to_string();
    assert_eq!(written.parse().ok().as_ref(), Some(&value), "{text:?} as {written:?}");
    assert!(written.len() <= MAX_TEXT);
    Some(value)
}

fn numbers(text: &str) {
    let digits = text.trim().strip_prefix('+').unwrap_or(text.trim());
    let read = [
        both_ways::<DomId>(text).map(|n| n.0.into()),
        both_ways::<Pirq>(text).map(|n| n.0.into()),
        both_ways::<GrantRef>(text).map(|n| n.0.into()),
        both_ways::<Port>(text).map(|n| n.0.into()),
        both_ways::<Mfn>(text).map(|n| n.0),
    ];
    for number in read.into_iter().flatten() {
        assert_eq!(
            digits.trim_start_matches('0'),
            number.to_string().trim_start_matches('0')
        );
    }
    let state = XenbusState::parse(Some(text));
    let known = state != XenbusState::Unknown;
    assert_eq!(
        known,
        text.trim().parse().is_ok_and(|n: u8| (1..9).contains(&n))
            && text.trim().len() == 1
    );
    assert!(!known || text.trim() == state.number().to_string());
    if let Some(id) = LoanId::parse(text) {
        assert!(
            LoanId::new(MAX_LOANS).is_none()
                && LoanId::parse(&id.to_string()) == Some(id)
        );
    }
    if let Some(frame) = ConfigFrame::parse(text) {
        assert!(
            frame.0 < 1 << 40 && ConfigFrame::parse(&frame.to_string()) == Some(frame)
        );
    }
}

fn addresses(text: &str) {
    if let Some(device) = both_ways::<Sbdf>(text) {
        in_range(device);
        assert!(
            !text.bytes().any(|byte| !byte.is_ascii_hexdigit() && !b":.".contains(&byte))
        );
    }
    if let Some(NodeName(device)) = NodeName::parse(text) {
        in_range(device);
        assert_eq!(
            NodeName::parse(&NodeName(device).to_string()),
            Some(NodeName(device))
        );
    }
    if let Ok(method) = text.parse::<Method>() {
        assert_eq!(method.word(), text);
    }
    if let Ok(policy) = text.parse::<BusPolicy>() {
        assert_eq!(policy.word(), text);
    }
}

fn in_range(device: Sbdf) {
    assert!(device.device() < 32 && device.function() < 8);
    let again =
        Sbdf::new(device.segment(), device.bus(), device.device(), device.function());
    assert_eq!(again, Some(device));
}

fn messages(text: &str) {
    if let Some(order) = both_ways::<LoanOrder>(text) {
        assert!(order.slot.is_none_or(|slot| slot < 32));
        for Allowed { register, mask } in order.exceptions.allowed() {
            assert!(mask != 0 && mask & !register.width().mask() == 0);
            assert!(register.end() <= EXTENDED_SPACE);
        }
        assert!(text.len() <= MAX_TEXT);
    }
    if let Some(request) = both_ways::<LeaseRequest>(text)
        && let LeaseAsk::MapMsix(entries) = &request.ask
    {
        assert!(!entries.is_empty() && entries.len() <= MAX_VECTORS);
        assert!(entries.iter().all(|entry| *entry < 2048) && repeated(entries).is_none());
    }
    if let Some(answer) = both_ways::<LeaseAnswer>(text) {
        assert!(
            answer.result.is_ok_and(|pirqs| pirqs.len() <= MAX_VECTORS)
                || text.contains("refused")
        );
    }
    // Its text may be cut when it is written, so not `both_ways`.
    if let Ok(report) = text.parse::<LoanReport>() {
        let (Outcome::Ready(words) | Outcome::Returned(words) | Outcome::Failed(words)) =
            &report.outcome;
        assert!(words.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{words:?}");
        let written = report.to_string();
        assert!(written.len() <= MAX_TEXT);
        let again: LoanReport = written.parse().unwrap();
        assert_eq!(again.generation, report.generation);
        assert!(words.len() > 800 || again == report, "{written:?}");
    }
}

fn from_people(text: &str) {
    match Spec::parse(text) {
        Ok(spec) => {
            in_range(spec.device);
            assert!(spec.slot.is_none_or(|slot| slot < 32));
            // The daemon reads what is allowed; a comma would have ended it.
            assert!(spec.wish.allow.iter().all(|item| !item.contains(',')));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // The daemon reads lines of this, from root only.
    let _ = Request::parse(text);
}
