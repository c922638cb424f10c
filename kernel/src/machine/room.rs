//! Memory that lists have needed once, given back when nobody needs them.
//!
//! What pcidom holds when it has no guest is then the same however many it has had, and a
//! leak can be seen in a single number.

use super::Machine;
use crate::platform::Platform;

impl<P: Platform> Machine<P> {
    /// Nothing moves any more: without guests and work, lists become as short as they are.
    pub(super) fn give_back_room(&mut self) {
        let idle = self.loans.is_empty()
            && self.guests.is_empty()
            && self.store.is_idle()
            && self.tasks.is_idle();
        if core::mem::replace(&mut self.roomy, !idle) && idle {
            self.loans.shrink_to_fit();
            self.guests.shrink_to_fit();
            self.access_answers.shrink_to_fit();
            self.lease_answers.shrink_to_fit();
            self.bus.give_back_room();
            self.tasks.give_back_room();
            self.alink.give_back_room();
            self.store.give_back_room();
        }
    }
}
