//! What a server counts, for `pcidomctl status`.

use pcidom_xenbus::pciif::command;

use crate::request::Copied;

/// Counts of one guest's link since it was made. They stop at the top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Config space reads.
    pub reads: u32,
    /// Config space writes.
    pub writes: u32,
    /// Requests to turn interrupts on or off.
    pub interrupts: u32,
    /// Requests with another command.
    pub unknown: u32,
    /// Answers without error.
    pub succeeded: u32,
    /// Answers with an error code, by that code: -1 to -5.
    pub failed: [u32; 5],
    /// Requests given up at their deadline.
    pub late: u32,
    /// Results that were not written, since the slot held another request by then.
    pub dropped: u32,
    /// Events that had nothing to do.
    pub spurious: u32,
    /// Failures to turn interrupts on or off.
    pub trouble: u32,
}

impl Counters {
    pub(crate) fn took(&mut self, copied: &Copied) {
        let counter = match copied.raw.cmd {
            command::CONF_READ => &mut self.reads,
            command::CONF_WRITE => &mut self.writes,
            command::ENABLE_MSI..=command::DISABLE_MSIX => &mut self.interrupts,
            _ => &mut self.unknown,
        };
        *counter = counter.saturating_add(1);
    }

    pub(crate) fn answered(&mut self, err: i32) {
        let index = err.checked_neg().and_then(|code| usize::try_from(code).ok());
        let counter = match index.and_then(|code| code.checked_sub(1)) {
            Some(code) => self.failed.get_mut(code),
            None => Some(&mut self.succeeded),
        };
        if let Some(counter) = counter {
            *counter = counter.saturating_add(1);
        }
    }
}
