//! Waits for the kernel to have something to read.

use crate::Failure;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::time::Instant;

/// Until there is something to read; false if there is nothing at the deadline.
pub(crate) fn readable(from: impl AsFd, deadline: Instant) -> Result<bool, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec {
        tv_sec: i64::try_from(left.as_secs())?,
        tv_nsec: left.subsec_nanos().into(),
    };
    Ok(poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&left))? > 0)
}
