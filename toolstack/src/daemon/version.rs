//! Which version of the loan protocol a pcidom speaks.

use pcidom_loan::{PROTOCOL, PROTOCOL_UNSAID};
use pcidom_xenbus::DomId;

use super::{Env, Failure, paths};

/// Longest version that is repeated to people.
const MAX_VERSION: usize = 16;

/// Its version, if it is not ours. It is pcidom's word, which may be anything: few characters,
/// and only plain ones.
pub(super) fn foreign(
    env: &mut Env<'_>,
    pcidom: DomId,
) -> Result<Option<String>, Failure> {
    let spoken = env.store.read(&format!("{}/protocol", paths::said(pcidom)))?;
    let spoken = spoken.as_deref().unwrap_or(PROTOCOL_UNSAID);
    let differs = spoken != PROTOCOL;
    Ok(differs.then(|| spoken.escape_default().take(MAX_VERSION).collect()))
}

/// Why it is not served then.
pub(super) fn other(name: &str, spoken: &str) -> String {
    format!(
        "{name} speaks version {spoken} of the loan protocol, and this daemon {PROTOCOL}: \
         install both of one release, restart the daemon, then xl shutdown {name} and \
         xl create {name}.cfg"
    )
}
