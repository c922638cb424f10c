//! State machines with one transition that is wrong.
//!
//! The machine itself is the one of the image: what it is told, or what it asks for, is
//! changed on the way. The search has to find each.

mod back;
mod front;

pub use back::BackMutation;
pub use front::FrontMutation;
