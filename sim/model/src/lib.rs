//! Both links in all states that they can get into, with toolstacks that change them and
//! peers that stop, die and come back.
//!
//! The state machines are those of the image, [`pcifront::Link`] and
//! [`pciback::link::Link`]; XenStore, what the image does around a link, the peers and the
//! toolstacks are small models. A test says which properties hold in how many states, and
//! that a mistake in any one transition ([`mutation`]) breaks one.
//!
//! An own search instead of a crate: "never stuck" is that what must happen comes to an end,
//! in a good state. That takes the whole graph of states, with a difference between steps
//! that are taken in the end and those that may never be.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "numbers of devices and states are the model's own"
)]

pub mod alink;
pub mod blink;
pub mod mutation;
pub mod search;
mod store;
