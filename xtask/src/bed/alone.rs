//! One command at a time runs machines on a host.

use crate::progress;
use anyhow::{Context, Result};
use std::env;
use std::fs::File;

/// No other command of this kind runs machines while this is held: its emulated CPUs would share
/// the host's with ours, miss deadlines that the product keeps, and write to our folders.
#[derive(Debug)]
pub(crate) struct Alone {
    _lock: File,
}

impl Alone {
    /// Waits until the others have ended.
    pub(crate) fn wait() -> Result<Self> {
        let path = env::temp_dir().join("pcidom-bed.lock");
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
        if lock.try_lock().is_err() {
            progress::say("another bed runs on this host: waiting for it to end");
            lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Self { _lock: lock })
    }
}
