//! Tests that take two domains, one folder or file for each subject. One program, since each would
//! have the whole simulator linked into it.

mod advisories;
mod attach_waits;
mod bus;
mod chaos;
mod deadlines;
mod documents;
mod ends;
mod exceptions;
mod flood;
mod flow;
mod garbage;
mod handshake;
mod hostile;
mod hostile_pcidom;
mod lease_times;
mod limits;
mod monitor;
mod on_demand;
mod own_link;
mod pcidom_ends;
mod pirq_rules;
mod pool;
mod pool_hotplug;
mod pool_link;
mod random_hotplug;
mod resets;
mod restart;
mod stubdom;
mod two_guests;
mod walk;
mod windows;
