//! Which pcidom a person means.

use pcidom_xenbus::DomId;

use super::{Daemon, Failure};

/// A pcidom's name if a verb names none: the one in `pcidom.cfg`.
const DEFAULT_NAME: &str = "pcidom";

impl Daemon {
    /// The pcidom a verb names; if it names none, the one of the usual name, or the only one.
    pub(super) fn find_pcidom(&self, name: Option<&str>) -> Result<DomId, Failure> {
        let running: Vec<&str> =
            self.pcidoms.values().map(|pcidom| pcidom.name.as_str()).collect();
        let name = match (name, running.as_slice(), self.names.as_slice()) {
            (Some(name), ..) => name,
            (None, all, _) if all.contains(&DEFAULT_NAME) => DEFAULT_NAME,
            (None, [only], _) => only,
            (None, [], [only]) => only,
            (None, [], _) => {
                return Err(Failure::Refused(format!(
                    "none of the pcidoms {} runs: start one with: xl create NAME.cfg",
                    self.names.join(", ")
                )));
            }
            (None, all, _) => {
                return Err(Failure::Refused(format!(
                    "several pcidoms run ({}): say which one with --pcidom NAME",
                    all.join(", ")
                )));
            }
        };
        let mut all = self.pcidoms.iter();
        match all.find(|(_, pcidom)| pcidom.name == name) {
            Some((domain, _)) => Ok(*domain),
            None if self.names.iter().any(|known| known == name) => {
                Err(Failure::Refused(format!(
                    "no domain named {name} runs: start it with: xl create {name}.cfg"
                )))
            }
            None => Err(Failure::Refused(format!(
                "the daemon serves {}, not {name}: if that is a pcidom, restart the daemon \
                 with one more option: pcidomctl daemon --pcidom {name}",
                self.names.join(", ")
            ))),
        }
    }
}
