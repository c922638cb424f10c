//! Memory that lists have needed once, given back when nothing waits in them.
//!
//! What pcidom holds is then a matter of what it has, guests and loans, and not of what has been
//! asked of it: a leak can be seen in a single number.

use super::Machine;
use crate::platform::Platform;

impl<P: Platform> Machine<P> {
    /// Nothing moves any more: after work with XenStore or on devices, lists become as short
    /// as they are. What guests do in their rings alone makes no list longer.
    pub(super) fn give_back_room(&mut self) {
        let idle = self.store.is_idle() && self.tasks.is_idle();
        if core::mem::replace(&mut self.roomy, !idle) && idle {
            self.loans.shrink_to_fit();
            self.guests.shrink_to_fit();
            for guest in self.guests.values_mut() {
                guest.give_back_room();
            }
            self.access_answers.shrink_to_fit();
            self.lease_answers.shrink_to_fit();
            self.bus.give_back_room();
            self.tasks.give_back_room();
            self.alink.give_back_room();
            self.store.give_back_room();
        }
    }
}
