//! Foreign code: libxenctrl, the only library we can't do without, and libxencall below it.
//!
//! Its file name carries Xen's version, and the functions used here have had the same
//! prototypes from 4.17 to 4.20, so it is opened at run time: one binary for all of them.
#![expect(
    unsafe_code,
    reason = "libxenctrl is C: the domctls it wraps change with every version of Xen, and \
              only it knows how"
)]

mod library;
mod xencall;
mod xenctrl;

pub use library::{Missing, candidates};
pub use xenctrl::Xenctrl;
