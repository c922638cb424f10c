//! What a guest may see and change of a function's config space: a table of registers.
//!
//! [`registers`] is the policy, [`lists`] says which capabilities are shown, `table` makes
//! rows ([`Field`]) of both for what a function's scan has recorded, and
//! `VirtualFunction::plan` turns one access of a guest into a local answer, one hardware read
//! under a [`View`], or a few [`Step`]s. [`expect`] tells tools what must come of it,
//! and [`doc`] people.

mod address;
pub mod doc;
mod dropped;
pub mod expect;
mod field;
mod function;
pub mod lists;
pub mod registers;
mod step;
mod table;

pub use dropped::{Dropped, DroppedWrite, MAX_DROPPED};
pub use field::{Field, ReadRule, View, WriteRule};
pub(crate) use function::Plan;
pub use function::VirtualFunction;
pub use step::{Merge, Step};
