//! What a guest may see and change of a function's config space: a table of registers.
//!
//! [`Field`] is a row, `table` builds the rows of a function from what its scan
//! recorded, and `VirtualFunction::plan` turns one access of a guest into a local
//! answer, one hardware read under a [`View`], or a few hardware writes.

mod address;
mod dropped;
mod field;
mod function;
mod table;

pub use dropped::{Dropped, DroppedWrite, MAX_DROPPED};
pub use field::{Field, ReadRule, View, WriteRule};
pub(crate) use function::Plan;
pub use function::VirtualFunction;
