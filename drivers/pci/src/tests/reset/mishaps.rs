//! Everything that can go wrong, at every access of every method, and every kind of liar.

use core::time::Duration;

use super::ports::{BELOW, PORT, at, bytes, card, plan, run};
use crate::access::AccessError;
use crate::fake::{FakeTree, Fault, Mishap};
use crate::reset::{Done, Failed, Method, Plan};

/// Every function of the plan is as it was, answers, and has been reset if that is claimed.
fn check_done(tree: &FakeTree, plan: &Plan, fresh: &[Vec<u8>], done: &Done, why: &str) {
    for (backend, fresh) in tree.backends().iter().zip(fresh) {
        let sbdf = backend.sbdf();
        if !plan.functions.iter().any(|function| function.sbdf == sbdf) {
            continue;
        }
        assert_eq!(backend.hardware().bytes(), fresh, "{sbdf}: {why}");
        assert!(!backend.hardware().is_silent(), "{sbdf}: {why}");
        let reset = backend.hardware().resets() > 0;
        assert!(reset || done.method.is_none(), "{sbdf}: {why}");
    }
}

/// The bus is not held, the slot's events are on, and no function sleeps.
fn check_port(tree: &FakeTree, fresh: &[Vec<u8>], why: &str) {
    let port = tree.backends()[0].hardware();
    assert!(!port.holds_bus(), "{why}");
    assert_eq!(port.bytes()[0x68..0x6a], fresh[0][0x68..0x6a], "{why}");
    let mut below = tree.backends().iter().skip(1);
    assert!(below.all(|nic| nic.hardware().word(0xcc) & 3 == 0), "{why}: D3hot");
}

#[test]
fn whatever_access_goes_wrong_a_reset_ends_in_a_good_device_or_an_error() {
    let mut mishaps = vec![
        Mishap::FailsFromNowOn(AccessError::LinkDown),
        Mishap::FailsFromNowOn(AccessError::TimedOut),
        Mishap::FailsFromNowOn(AccessError::NoDevice),
        Mishap::SeemsToFail(AccessError::TimedOut),
        Mishap::SeemsToFail(AccessError::Failed(-5)),
    ];
    let once = [
        AccessError::TimedOut,
        AccessError::LinkDown,
        AccessError::NoDevice,
        AccessError::NoRegister,
        AccessError::Refused,
        AccessError::Failed(-5),
    ];
    mishaps.extend(once.map(Mishap::Fails));
    mishaps.extend([PORT, BELOW[0], BELOW[1]].map(at).map(Mishap::Unplugged));
    let mut errors = 0;
    for method in Method::ALL {
        let mut tree = card();
        let fresh = bytes(&tree);
        let plan = plan(&mut tree, method);
        let mut whole = tree.clone();
        whole.set_mishap(usize::MAX, Mishap::Fails(AccessError::Refused));
        assert_eq!(run(&mut whole, &plan).0.unwrap().method, Some(method));
        assert!(whole.accesses() > 20, "{method}: {}", whole.accesses());
        for (n, mishap) in
            (0..whole.accesses()).flat_map(|n| mishaps.iter().map(move |m| (n, *m)))
        {
            let why = format!("{method}, access {n}: {mishap:?}");
            let mut tree = tree.clone();
            tree.set_mishap(n, mishap);
            let (result, _) = run(&mut tree, &plan);
            let temporary = matches!(mishap, Mishap::Fails(_) | Mishap::SeemsToFail(_));
            match (&result, mishap) {
                // Who is gone after the last look at him is not noticed by it.
                (Ok(_), Mishap::Unplugged(gone)) if gone != at(PORT) => {
                    assert_eq!(tree.asked_of_gone(), 0, "{why}");
                }
                (Ok(done), _) => check_done(&tree, &plan, &fresh, done, &why),
                (Err(_), _) => errors += 1,
            }
            if temporary {
                check_port(&tree, &fresh, &why);
            }
            if matches!(mishap, Mishap::Unplugged(_)) {
                continue;
            }
            // Once it is over, the same again works.
            let backends = tree.backends_mut().iter_mut();
            backends.for_each(|backend| backend.elapse(Duration::from_secs(1)));
            tree.set_mishap(usize::MAX, mishap);
            let (again, _) = run(&mut tree, &plan);
            let done = again.unwrap_or_else(|failed| panic!("{why}: {failed}"));
            assert_eq!(done.method, Some(method), "{why}");
            check_done(&tree, &plan, &fresh, &done, &why);
            check_port(&tree, &fresh, &why);
        }
    }
    assert!(errors > 1000, "{errors} of all runs have failed");
}

/// Runs a reset with one function of the card lying.
fn with_liar(method: Method, liar: usize, fault: Fault) -> Result<Done, Failed> {
    let mut tree = card();
    let fresh = bytes(&tree);
    let plan = plan(&mut tree, method);
    let device = tree.get_mut(at(BELOW[liar])).unwrap();
    device.hardware_mut().set_fault(fault);
    let (result, _) = run(&mut tree, &plan);
    let why = format!("{method}, function {liar}: {fault:?}");
    if fault != Fault::Sleeps {
        check_port(&tree, &fresh, &why);
    }
    if let Ok(done) = &result {
        check_done(&tree, &plan, &fresh, done, &why);
    }
    result
}

#[test]
fn a_function_that_lies_is_never_taken_for_a_good_one() {
    let broken = [
        Fault::NeverReady,
        Fault::Identity(0x0200_0002),
        Fault::Subsystem(0x0002_8086),
        Fault::LosesBars,
        Fault::LosesControl,
        Fault::Sleeps,
        Fault::KeepsMsix,
        Fault::MaskedAfterReset,
        Fault::Gone,
    ];
    for method in Method::ALL {
        let scope = if method.is_of_port() { 2 } else { 1 };
        for (liar, device) in BELOW.into_iter().enumerate().take(scope) {
            for fault in broken {
                let result = with_liar(method, liar, fault);
                let named = result.map_err(|failed| failed.at);
                assert_eq!(named, Err(at(device)), "{method} {fault:?}");
            }
            // A slot reset is one of the secondary bus.
            for other in Method::ALL.into_iter().filter(|other| *other != Method::Slot) {
                let result = with_liar(method, liar, Fault::Ignores(other));
                let same = other == method
                    || method == Method::Slot && other == Method::SecondaryBus;
                let expected = if same { None } else { Some(method) };
                assert_eq!(result.unwrap().method, expected, "{method} {other}");
            }
            for fault in [Fault::AlwaysPending, Fault::MaskHeld] {
                let result = with_liar(method, liar, fault);
                assert_eq!(result.unwrap().method, Some(method), "{method} {fault:?}");
            }
        }
    }
}
