//! The methods of a function itself, and functions that lie about them.

use core::time::Duration;

use super::super::{nvme, sbdf};
use super::{QUIET, flr, reset_by, scanned, used, writes};
use crate::fake::{FakeBackend, FakeFunction, Fault};
use crate::reset::{FLR_WAIT, Method, PENDING_DELAYS, POWER_WAIT, ResetError, Useless};

/// A controller that can be reset in each way, with all of them armed.
fn versatile() -> FakeBackend {
    let mut nvme = FakeFunction::builder(0x1b36, 0x0010, 0x01_0802, 2);
    nvme.subsystem(0x1af4, 0x1100)
        .memory_bar(0, 0x4000, true)
        .msix(0x40, 65, 0, 0x2000, 0, 0x3000)
        .losing_pm(0x60)
        .af(0x70)
        .pcie(0x80, true);
    let hardware = nvme.build(&[(0x10, 0xfe40_0000), (0x04, 0x0002)]);
    let mut backend = FakeBackend::new(sbdf(), hardware).armed(Some(0x80));
    backend.arms().quirks.push((0x74, 1));
    backend
}

const OWN: [Method; 3] =
    [Method::FunctionLevel, Method::AdvancedFeatures, Method::PowerState];

#[test]
fn each_method_brings_a_used_function_back_as_it_was_scanned() {
    let minimum = [FLR_WAIT, FLR_WAIT, 2 * POWER_WAIT];
    for (method, minimum) in OWN.into_iter().zip(minimum) {
        let mut backend = versatile();
        let fresh = backend.hardware().bytes().to_vec();
        let function = scanned(&mut backend);
        assert!(method.is_in(&function));
        used(&mut backend);
        backend.hardware_mut().set_ready_after(Duration::from_millis(350));
        let (result, time) = reset_by(&mut backend, &function, &[method]);
        let done = result.unwrap();
        assert_eq!((done.method, done.useless), (Some(method), vec![]));
        assert_eq!(backend.hardware().resets(), 1);
        assert_eq!(backend.hardware().bytes(), fresh, "{method}");
        assert!(time >= minimum && time >= Duration::from_millis(350), "{time:?}");
    }
}

#[test]
fn af_is_one_byte_and_power_goes_down_and_up() {
    let mut backend = versatile();
    let function = scanned(&mut backend);
    backend.hardware_mut().take_writes();
    let (result, _) = reset_by(&mut backend, &function, &[Method::AdvancedFeatures]);
    assert!(result.is_ok());
    assert!(writes(&mut backend).contains(&(0x74, 1, 0x01)));
    let (result, _) = reset_by(&mut backend, &function, &[Method::PowerState]);
    assert!(result.is_ok());
    let power: Vec<_> =
        writes(&mut backend).into_iter().filter(|write| write.0 == 0x64).collect();
    assert_eq!(power, [(0x64, 2, 3), (0x64, 2, 0)]);
}

#[test]
fn a_method_without_effect_is_told_and_the_next_one_is_tried() {
    let mut backend = versatile();
    let function = scanned(&mut backend);
    // dom0 drops what is not armed and says that it was done.
    backend.arms().quirks.clear();
    used(&mut backend);
    let fresh = versatile().hardware().bytes().to_vec();
    let (result, _) = reset_by(&mut backend, &function, &OWN);
    let done = result.unwrap();
    assert_eq!(done.method, Some(Method::PowerState));
    let at = sbdf();
    let useless = [Method::FunctionLevel, Method::AdvancedFeatures];
    assert_eq!(done.useless, useless.map(|method| Useless { method, at }));
    assert_eq!(backend.hardware().bytes(), fresh);
}

#[test]
fn a_function_that_ignores_every_method_is_left_quiet_and_as_it_was() {
    for method in OWN {
        let mut backend = versatile();
        backend.hardware_mut().set_bytes(0x0c, &[0x10]);
        let fresh = backend.hardware().bytes().to_vec();
        let function = scanned(&mut backend);
        used(&mut backend);
        backend.hardware_mut().set_fault(Fault::Ignores(method));
        let (result, _) = reset_by(&mut backend, &function, &[method]);
        let done = result.unwrap();
        assert_eq!((done.method, done.useless.len()), (None, 1));
        assert_eq!(backend.hardware().resets(), 0);
        assert_eq!(backend.hardware().bytes(), fresh, "{method}");
    }
}

#[test]
fn a_power_state_that_is_not_taken_is_no_reset_even_without_a_mark() {
    let mut nvme = FakeFunction::builder(0x1b36, 0x0010, 0x01_0802, 2);
    // Cache Line Size is read-only, and so is the power state.
    nvme.losing_pm(0x60).allow(0x0c, &[0]).allow(0x64, &[0]);
    let mut backend = FakeBackend::new(sbdf(), nvme.build(&[])).armed(None);
    let function = scanned(&mut backend);
    let (result, _) = reset_by(&mut backend, &function, &[Method::PowerState]);
    assert_eq!(result.unwrap().method, None);
}

#[test]
fn a_function_that_keeps_its_state_in_d3hot_has_no_power_state_reset() {
    let function = scanned(&mut nvme());
    assert!(!Method::PowerState.is_in(&function));
    assert!(!Method::AdvancedFeatures.is_in(&function));
    assert!(!Method::SecondaryBus.is_in(&function));
}

#[test]
fn pending_transactions_are_waited_for_where_af_shows_them() {
    let mut nic = FakeFunction::builder(0x8086, 0x10d3, 0x02_0000, 0);
    let mut backend = FakeBackend::new(sbdf(), nic.af(0x70).build(&[]));
    backend.arms().quirks.push((0x74, 1));
    let function = scanned(&mut backend);
    backend.hardware_mut().set_fault(Fault::AlwaysPending);
    let methods = [Method::AdvancedFeatures];
    let (result, time) = reset_by(&mut backend, &function, &methods);
    assert_eq!(result.unwrap().method, Some(Method::AdvancedFeatures));
    assert_eq!(time, PENDING_DELAYS.iter().sum::<Duration>() + FLR_WAIT);
}

#[test]
fn a_function_that_comes_back_without_its_bars_is_an_error_where_that_can_be_seen() {
    let mut backend = versatile();
    let function = scanned(&mut backend);
    backend.hardware_mut().set_fault(Fault::LosesBars);
    let Err(ResetError::Changed { register, is, .. }) = flr(&mut backend, &function).0
    else {
        panic!("the BAR is gone");
    };
    assert_eq!((register.offset, is), (0x10, 4));
    // One above 4 GiB has lost its upper half only.
    let mut high = FakeFunction::builder(0x1b36, 0x0010, 0x01_0802, 2);
    high.memory_bar(0, 0x4000, true).pcie(0x80, true);
    let high = high.build(&[(0x10, 0), (0x14, 1), (0x04, 0x0002)]);
    let mut high = FakeBackend::new(sbdf(), high).armed(Some(0x80));
    let found = scanned(&mut high);
    high.hardware_mut().set_fault(Fault::LosesBars);
    let result = flr(&mut high, &found).0;
    let Err(ResetError::Changed { register, was: 1, is: 0 }) = result else {
        panic!("{result:?}");
    };
    assert_eq!(register.offset, 0x14);
    // dom0's backend shows what it remembers; the daemon looks again before it lends.
    backend.set_window(false);
    assert_eq!(flr(&mut backend, &function).0, Ok(Some(Method::FunctionLevel)));
}

#[test]
fn device_control_that_is_not_taken_back_and_interrupts_that_stay_on_are_errors() {
    let mut backend = versatile();
    backend.hardware_mut().set_bytes(0x88, &[0x10]);
    let function = scanned(&mut backend);
    backend.hardware_mut().set_fault(Fault::LosesControl);
    let Err(ResetError::Changed { register, was, is }) = flr(&mut backend, &function).0
    else {
        panic!("Device Control is not what it was");
    };
    assert_eq!((register.offset, was, is), (0x88, 0x10, 0));
    let mut backend = versatile();
    backend.hardware_mut().set_fault(Fault::KeepsMsix);
    let (result, _) = flr(&mut backend, &function);
    assert!(matches!(result, Err(ResetError::StillOn { .. })), "{result:?}");
}

#[test]
fn without_a_method_function_mask_must_be_off_as_well() {
    let mut backend = versatile();
    let function = scanned(&mut backend);
    assert_eq!(reset_by(&mut backend, &function, &[]).0, Ok(QUIET));
    backend.hardware_mut().set_fault(Fault::MaskHeld);
    let failed = reset_by(&mut backend, &function, &[]).0.unwrap_err();
    assert_eq!(
        failed.to_string(),
        "0000:01:00.0: MSI-X Message Control (0x42) is 0x4040: \
         MSI-X Enable or Function Mask stayed on"
    );
    // A method that did nothing is no reason not to try the next one.
    backend.arms().quirks.clear();
    let methods = [Method::FunctionLevel, Method::PowerState];
    let (result, _) = reset_by(&mut backend, &function, &methods);
    assert_eq!(result.unwrap().method, Some(Method::PowerState));
}
