//! Resets of one function by FLR.

mod methods;
mod mishaps;
mod ports;

use core::time::Duration;

use super::{e1000e, nvme};
use crate::access::{Access, AccessError, Register, Width};
use crate::fake::{FakeBackend, Fault, run};
use crate::function::Function;
use crate::reset::{
    Done, FLR_WAIT, Failed, Method, PENDING_DELAYS, Plan, READY_BOUND, ResetError, reset,
};
use crate::scan::scan;

/// What an effective reset gives.
fn done(method: Method) -> Result<Option<Method>, ResetError> {
    Ok(Some(method))
}

fn scanned(backend: &mut FakeBackend) -> Function {
    run(backend, |config| async move { scan(&config).await }).0.unwrap()
}

/// Resets one function by these methods.
fn reset_by(
    backend: &mut FakeBackend,
    function: &Function,
    methods: &[Method],
) -> (Result<Done, Failed>, Duration) {
    let functions = vec![function.clone()];
    let plan = Plan { methods: methods.to_vec(), functions, port: None };
    run(
        backend,
        |config| async move { reset(&config, &plan).await.map_err(|failed| *failed) },
    )
}

/// Resets one function by FLR.
fn flr(
    backend: &mut FakeBackend,
    function: &Function,
) -> (Result<Option<Method>, ResetError>, Duration) {
    let (result, time) = reset_by(backend, function, &[Method::FunctionLevel]);
    let result = result.map(|done| done.method).map_err(|failed| failed.error);
    (result, time)
}

/// Only makes it quiet.
fn quiesce(backend: &mut FakeBackend, function: &Function) -> Result<Done, Failed> {
    reset_by(backend, function, &[]).0
}

const QUIET: Done = Done { method: None, proven: false, useless: Vec::new() };

/// A guest uses it: bus master and MSI-X are on, INTx is off.
fn used(backend: &mut FakeBackend) {
    for (offset, value) in [(0x04, 0x0406), (0x42, 0x8040)] {
        let register = Register::new(offset, Width::Word).unwrap();
        assert_eq!(backend.access(Access::Write(register, value)), Ok(0));
    }
    backend.hardware_mut().take_writes();
}

/// The writes that reached the hardware, as (offset, width in bytes, value).
fn writes(backend: &mut FakeBackend) -> Vec<(u16, u16, u32)> {
    let writes = backend.hardware_mut().take_writes();
    let plain =
        writes.iter().map(|(at, value)| (at.offset(), at.width().bytes(), *value));
    plain.collect()
}

#[test]
fn a_used_nvme_comes_back_as_it_was_scanned() {
    let mut backend = nvme();
    let fresh = backend.hardware().bytes().to_vec();
    let function = scanned(&mut backend);
    used(&mut backend);
    backend.hardware_mut().set_ready_after(Duration::from_millis(350));
    let (result, time) = flr(&mut backend, &function);
    assert_eq!(result, done(Method::FunctionLevel));
    assert_eq!(backend.hardware().resets(), 1);
    assert_eq!(backend.hardware().bytes(), fresh);
    // 100 ms, and then 1 + 2 + 4 + ... + 128 until 350 have passed.
    assert_eq!(time, FLR_WAIT + Duration::from_millis(255));
    assert_eq!(
        writes(&mut backend),
        [
            // MSI-X off in one write of one word; Command; mark.
            (0x42, 2, 0x0040),
            (0x04, 2, 0x0402),
            (0x04, 2, 0x0002),
            (0x0c, 1, 0xa5),
            // FLR, one word.
            (0x88, 2, 0x8000),
            // BAR0, Device Control, decoding.
            (0x10, 4, 0xfe40_0004),
            (0x88, 2, 0x0000),
            (0x04, 2, 0x0002),
        ]
    );
}

/// Advisory 461: its guest could hold up another guest's interrupts by it.
#[test]
fn a_line_that_is_off_is_off_before_and_after_a_reset() {
    for methods in [&[Method::FunctionLevel][..], &[]] {
        let mut backend = nvme();
        let mut function = scanned(&mut backend);
        function.line_off = true;
        used(&mut backend);
        assert!(reset_by(&mut backend, &function, methods).0.is_ok());
        let commands: Vec<u32> =
            writes(&mut backend).iter().filter(|w| w.0 == 0x04).map(|w| w.2).collect();
        assert!(!commands.is_empty() && commands.iter().all(|c| c & 0x0400 != 0));
        assert_eq!(backend.hardware().word(0x04) & 0xffff, 0x0402);
    }
}

#[test]
fn without_a_method_a_function_is_made_quiet() {
    let mut backend = e1000e();
    let function = scanned(&mut backend);
    backend.hardware_mut().set_bytes(0xa2, &[0x04, 0x80]);
    let (result, time) = reset_by(&mut backend, &function, &[]);
    assert_eq!((result, time), (Ok(QUIET), Duration::ZERO));
    assert_eq!(backend.hardware().resets(), 0);
    assert_eq!(writes(&mut backend), [(0xa2, 2, 0x0004)]);
}

#[test]
fn msi_goes_off_too() {
    let mut backend = e1000e();
    let function = scanned(&mut backend);
    backend.hardware_mut().set_bytes(0xd2, &[0x81, 0x00]);
    assert_eq!(quiesce(&mut backend, &function), Ok(QUIET));
    assert_eq!(writes(&mut backend), [(0xd2, 2, 0x0080)]);
}

#[test]
fn a_bus_master_that_dom0_does_not_know_of_is_stopped() {
    let mut backend = nvme();
    let function = scanned(&mut backend);
    backend.hardware_mut().set_bytes(0x04, &[0x06, 0x00]);
    assert_eq!(quiesce(&mut backend, &function), Ok(QUIET));
    assert_eq!(writes(&mut backend), [(0x04, 2, 0x0002)]);
}

#[test]
fn interrupt_control_that_is_not_armed_is_named() {
    let mut backend = nvme();
    let function = scanned(&mut backend);
    used(&mut backend);
    backend.arms().interrupt_control = false;
    let (result, _) = flr(&mut backend, &function);
    assert_eq!(
        result.unwrap_err().to_string(),
        "writing 0x40 to MSI-X Message Control (0x42) failed: refused by the backend"
    );
    assert_eq!(backend.hardware().resets(), 0);
}

#[test]
fn a_reset_that_dom0_dropped_is_noticed() {
    let mut backend = nvme();
    let function = scanned(&mut backend);
    backend.arms().quirks.clear();
    used(&mut backend);
    let (result, _) = flr(&mut backend, &function);
    assert_eq!(result, Ok(None));
    // The mark does not stay.
    assert_eq!(backend.hardware().word(0x0c) & 0xff, 0);

    let mut backend = nvme();
    backend.hardware_mut().set_fault(Fault::Ignores(Method::FunctionLevel));
    let (result, _) = reset_by(&mut backend, &function, &[Method::FunctionLevel]);
    let useless = result.unwrap().useless;
    assert_eq!(
        useless[0].to_string(),
        "function level reset had no effect on 0000:01:00.0"
    );
}

#[test]
fn a_function_that_never_comes_back_is_given_up() {
    let mut backend = nvme();
    let function = scanned(&mut backend);
    backend.hardware_mut().set_fault(Fault::NeverReady);
    let (result, time) = flr(&mut backend, &function);
    let Err(ResetError::NotReady { value: u32::MAX, waited, .. }) = result else {
        panic!("{result:?}");
    };
    assert_eq!(FLR_WAIT + waited, time);
    assert!(waited > READY_BOUND && waited < READY_BOUND + Duration::from_secs(2));
}

#[test]
fn another_function_that_comes_back_is_an_error() {
    for (fault, offset) in
        [(Fault::Identity(0x0200_0001), 0x08), (Fault::Subsystem(0x1100_1af5), 0x2c)]
    {
        let mut backend = nvme();
        let function = scanned(&mut backend);
        backend.hardware_mut().set_fault(fault);
        let (result, _) = flr(&mut backend, &function);
        let Err(ResetError::Changed { register, .. }) = result else {
            panic!("{result:?}");
        };
        assert_eq!(register.offset, offset);
    }
}

#[test]
fn pending_transactions_delay_a_reset_and_do_not_prevent_it() {
    let mut backend = nvme();
    let function = scanned(&mut backend);
    backend.hardware_mut().set_fault(Fault::AlwaysPending);
    let (result, time) = flr(&mut backend, &function);
    assert_eq!(result, done(Method::FunctionLevel));
    assert_eq!(time, PENDING_DELAYS.iter().sum::<Duration>() + FLR_WAIT);
}

#[test]
fn function_mask_after_a_reset_is_an_error_and_the_next_reset_clears_it() {
    let mut backend = nvme();
    let function = scanned(&mut backend);
    backend.hardware_mut().set_fault(Fault::MaskedAfterReset);
    let (result, _) = flr(&mut backend, &function);
    let Err(ResetError::StillOn { register, value: 0x4040, .. }) = result else {
        panic!("{result:?}");
    };
    assert_eq!(register.offset, 0x42);
    // Xen ORs it back in whatever is written; that must not stand in a reset's way.
    backend.hardware_mut().set_fault(Fault::MaskHeld);
    let (result, _) = flr(&mut backend, &function);
    assert_eq!(result, done(Method::FunctionLevel));
}

#[test]
fn device_control_is_put_back_as_it_was_scanned() {
    let mut backend = nvme();
    backend.hardware_mut().set_bytes(0x88, &[0x10, 0x28]);
    let function = scanned(&mut backend);
    // A guest's own value does not outlive its loan.
    backend.hardware_mut().set_bytes(0x88, &[0x10, 0x58]);
    let (result, _) = flr(&mut backend, &function);
    assert_eq!(result, done(Method::FunctionLevel));
    assert_eq!(backend.hardware().word(0x88) & 0xffff, 0x2810);
    let flr = writes(&mut backend).into_iter().find(|write| write.0 == 0x88);
    assert_eq!(flr, Some((0x88, Width::Word.bytes(), 0xa810)));
}

#[test]
fn a_dead_link_ends_it_at_once() {
    for error in [AccessError::LinkDown, AccessError::TimedOut] {
        let mut backend = nvme();
        let function = scanned(&mut backend);
        backend.fail_with(Some(error));
        let (result, time) = flr(&mut backend, &function);
        let Err(ResetError::Read { error: seen, .. }) = result else {
            panic!("{result:?}");
        };
        assert_eq!((seen, time), (error, Duration::ZERO));
    }
}

#[test]
fn a_device_that_is_gone_is_reported_by_register() {
    let mut backend = nvme();
    let function = scanned(&mut backend);
    backend.hardware_mut().set_fault(Fault::Gone);
    let (result, _) = flr(&mut backend, &function);
    assert_eq!(
        result.unwrap_err().to_string(),
        "it does not answer: Revision ID and Class Code (0x08) reads all ones"
    );
}
