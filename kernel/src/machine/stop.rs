//! The end of the domain, as `xl shutdown` and `xl reboot` ask for it: the daemon ends all
//! loans first, so guests' drivers let go of devices that still work.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use pcidom_loan::{REPORT_DIR, STOPPING};
use pcidom_script::Instant;

use super::{Halt, Machine, jobs};
use crate::platform::Platform;

/// How long the end waits for loans. The daemon gives drivers 5 s and frontends 10 s; a person
/// who waits at `xl shutdown -w` has more patience than the sum.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);

/// What was asked for at `control/shutdown`.
#[derive(Debug, Default)]
pub(super) struct Stop {
    /// How to end, and when at the latest.
    how: Option<(Halt, Instant)>,
    /// The last request that was not granted.
    refused: Option<String>,
}

/// Why the domain can't be saved or migrated.
const NO_SUSPEND: &str = "it can't be saved or migrated: guests' devices and the pages \
                          shared with them stay on this host. xl cancels this by itself";

impl<P: Platform> Machine<P> {
    /// `control/shutdown` says this.
    pub(super) fn shutdown(&mut self, request: Option<&str>, now: Instant) {
        let how = match request {
            None => return,
            Some("poweroff" | "halt") => Halt::PowerOff,
            Some("reboot") => Halt::Reboot,
            Some(other) => {
                let why = match other {
                    "suspend" => NO_SUSPEND,
                    _ => "this domain does not know it",
                };
                let other: String =
                    other.chars().take(32).filter(char::is_ascii_graphic).collect();
                let text = format!("`{other}` is not acknowledged: {why}");
                log::error!("{text}");
                self.stop.refused = Some(text);
                return;
            }
        };
        let until = match self.stop.how {
            Some((_, until)) => until,
            None => now.after(STOP_TIMEOUT),
        };
        self.stop.how = Some((how, until));
        let what = request.unwrap_or_default();
        log::info!("asked to {what}, {} loan(s) to end first", self.loans.len());
        self.stop_if_possible(now);
        if self.halt.is_none() {
            let path = format!("{REPORT_DIR}/state");
            self.store.run(move |store| jobs::write(store, path, STOPPING.into()));
        }
    }

    /// Ends the domain if that was asked for and nothing is lent any more, or nobody ends
    /// the loans.
    pub(super) fn stop_if_possible(&mut self, now: Instant) {
        let Some((how, until)) = self.stop.how else { return };
        if until <= now && !self.loans.is_empty() {
            let left = self.loans.len();
            log::error!("{left} loan(s) have not ended; is the daemon there?");
        }
        if until <= now || self.loans.is_empty() {
            self.halt = Some(how);
        }
    }

    /// When it ends whatever is lent.
    pub(super) fn stop_deadline(&self) -> Option<Instant> {
        self.stop.how.filter(|_| self.halt.is_none()).map(|(_, until)| until)
    }

    /// What `status` shows of all this.
    pub(super) fn stop_report(&self) -> Option<String> {
        match self.stop.how {
            Some((how, _)) => Some(format!("{how:?} when the loans have ended")),
            None => self.stop.refused.clone(),
        }
    }
}
