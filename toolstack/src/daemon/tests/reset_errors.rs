//! The rows of docs/errors.md on resets and ports.

use pcidom_pci::reset::Method;

use super::bed::{Bed, device, port};
use super::errors::{attach, refused, status};
use super::reset::reset;
use crate::verb::{Bdf, Verb, Wish};

const BUS: Option<Method> = Some(Method::SecondaryBus);
const SLOT: Option<Method> = Some(Method::Slot);

fn of(device: pcidom_pci::Sbdf) -> Verb {
    Verb::Reset { device: Bdf(device), method: None, force: true, pcidom: None }
}

fn attach_port() -> Verb {
    Verb::Attach {
        guest: "g1".into(),
        owner: None,
        device: Bdf(port()),
        slot: None,
        bus: None,
        share_line: false,
        lax: true,
        wait: None,
        wish: Wish::default(),
        pcidom: None,
    }
}

#[test]
fn a_port_is_never_lent() {
    let mut bed = Bed::new();
    bed.give_port(&[1]);
    let text = refused(&mut bed, &attach_port());
    assert!(
        text.contains("0000:00:02.0 is a port") && text.contains("never lent"),
        "{text}"
    );
    assert!(text.contains("pcidomctl status"), "{text}");
}

#[test]
fn a_port_is_not_reset_but_what_is_below_it() {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    let text = refused(&mut bed, &of(port()));
    assert!(text.contains("is a port") && text.contains("(0000:01:00.0, 0000:02:00.0)"));
    assert!(text.contains("pcidomctl reset 0000:01:00.0 --method bus"), "{text}");
    let mut bed = Bed::new();
    bed.give_port(&[]);
    let text = refused(&mut bed, &of(port()));
    assert!(text.contains("is a port") && text.contains("nothing is"), "{text}");
}

#[test]
fn what_is_not_in_the_pool_or_not_served_is_not_reset() {
    let mut bed = Bed::new();
    let text = refused(&mut bed, &of(device(3)));
    assert!(text.contains("0000:03:00.0 is not in the pool"), "{text}");
    assert!(text.contains("xl pci-assignable-add 0000:03:00.0"), "{text}");
    let mut other = reset(1, None, false);
    if let Verb::Reset { pcidom, .. } = &mut other {
        *pcidom = Some("other".into());
    }
    assert!(refused(&mut bed, &other).contains("serves pcidom, not other"));
    bed.set("/local/domain/1/data/pcidom/state", "");
    bed.settle();
    let text = refused(&mut bed, &of(device(1)));
    assert!(text.contains("pcidom 1 does not serve yet: look at xl console 1"), "{text}");
}

#[test]
fn what_is_lent_is_not_reset_without_force() {
    let mut bed = Bed::lent();
    let text = refused(&mut bed, &reset(1, None, false));
    assert!(text.contains("0000:01:00.0 is lent to g1: pcidomctl detach g1"), "{text}");
    assert!(text.contains("--force"), "{text}");
}

#[test]
fn a_neighbour_that_is_lent_is_not_taken_along_without_force() {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    bed.attach("g1", 1);
    bed.done();
    for (method, name) in [(BUS, "secondary bus reset"), (SLOT, "slot reset")] {
        let text = refused(&mut bed, &reset(2, method, false));
        let cause = format!("a {name} of 0000:02:00.0 takes 0000:01:00.0 along");
        assert!(text.contains(&cause) && text.contains("which is lent to g1"), "{text}");
        assert!(text.contains("pcidomctl detach g1 0000:01:00.0"), "{text}");
        assert!(text.contains("--force"), "{text}");
    }
}

#[test]
fn a_method_that_needs_a_port_is_refused_where_there_is_none() {
    for (method, name) in [(BUS, "secondary bus reset"), (SLOT, "slot reset")] {
        let mut bed = Bed::new();
        let mut refused = |change: &dyn Fn(&mut Bed), cause: &str, next: &str| {
            change(&mut bed);
            // Force is for guests, not for what is not ours.
            for force in [false, true] {
                let text = refused(&mut bed, &reset(1, method, force));
                let begin = format!("0000:01:00.0 can't have a {name}: ");
                assert!(text.starts_with(&begin), "{text}");
                assert!(text.contains(cause) && text.contains(next), "{text}");
            }
        };
        refused(&|_| {}, "it is on a root bus", "never reset");
        refused(
            &|bed| bed.wire(&[1]),
            "0000:00:02.0, the port above it, is not in the pool",
            "xl pci-assignable-add 0000:00:02.0",
        );
        refused(
            &|bed| {
                bed.give_port(&[1, 8]);
                bed.host.drivers.insert(device(8), "e1000e".into());
            },
            "0000:08:00.0 is below the same port 0000:00:02.0",
            "not in the pool (driver e1000e)",
        );
    }
}

#[test]
fn a_port_that_was_unfit_is_found_out_before_it_is_lent_or_reset() {
    for verb in [of(port()), attach_port()] {
        let mut bed = Bed::new();
        bed.give_port(&[1]);
        bed.host.devices.get_mut(&port()).unwrap().on_pciback = false;
        bed.unwatch_everything();
        bed.start();
        bed.host.devices.get_mut(&port()).unwrap().on_pciback = true;
        bed.ask(&verb);
        assert!(bed.failed().contains("0000:00:02.0 is a port"));
        assert_eq!(bed.order(0), None);
    }
}

#[test]
fn a_pcidom_of_another_version_is_refused_by_name() {
    let mut bed = Bed::new();
    // The word comes before the state does.
    bed.set("/local/domain/1/data/pcidom/protocol", "2\x1b[2J and much more than that");
    bed.set("/local/domain/1/data/pcidom/state", "ready");
    bed.settle();
    let cause = "pcidom speaks version 2\\u{1b}[2J and m of the loan protocol, and this \
                 daemon 1: install both of one release, restart the daemon, then xl shutdown \
                 pcidom and xl create pcidom.cfg";
    for verb in [attach("g1", 1, None), reset(1, None, false)] {
        assert_eq!(refused(&mut bed, &verb), cause);
    }
    assert!(!status(&mut bed).pcidoms[0].ready);
    // The right one came instead.
    bed.set("/local/domain/1/data/pcidom/protocol", "1");
    bed.set("/local/domain/1/data/pcidom/state", "ready");
    bed.attach("g1", 1);
    bed.done();
}
