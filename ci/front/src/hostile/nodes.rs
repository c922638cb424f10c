//! Attacks by XenStore, in the guest's own folder.

use alloc::format;

use super::Enemy;
use crate::link::front;

/// All there are, and what is none.
const STATES: [&str; 13] =
    ["1", "2", "3", "4", "5", "6", "7", "8", "0", "9", "4294967297", "", "four"];

/// Nodes of the frontend.
const KEYS: [&str; 6] =
    ["state", "pci-op-ref", "event-channel", "magic", "backend", "backend-id"];
/// What they hold afterwards.
const VALUES: [&str; 5] = ["3", "", "0", "/local/domain/0", "none"];

/// Writes as much where nobody looks: what the requests alone cost.
pub(super) fn noise(enemy: &mut Enemy<'_>) {
    while enemy.goes_on() {
        for state in STATES {
            let _ = crate::nodes::write(enemy.xen, "data/noise", state);
            enemy.count.tries += 1;
        }
    }
}

/// Goes through all states, as fast as XenStore lets it.
pub(super) fn states(enemy: &mut Enemy<'_>) {
    while enemy.goes_on() {
        for state in STATES {
            enemy.write("state", state);
            enemy.count.tries += 1;
        }
    }
}

/// Removes the frontend's nodes and makes them again, with other values; more of them, too.
pub(super) fn nodes(enemy: &mut Enemy<'_>) {
    while enemy.goes_on() {
        for key in KEYS {
            let _ = crate::nodes::remove(enemy.xen, &front(key));
            let value = enemy.random.pick(&VALUES).unwrap_or("");
            enemy.write(key, value);
            enemy.count.tries += 1;
        }
        let more = enemy.random.next() % 16;
        enemy.write(&format!("more-{more}"), "3");
    }
}
