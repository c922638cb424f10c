//! What the verbs and the daemon say over the daemon's socket: one line of JSON each way.

use std::collections::BTreeMap;

use pcidom_loan::BusPolicy;
use pcidom_pci::Sbdf;
use pcidom_pci::reset::Method;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Version of what is said. A daemon and a tool of different versions part with a message.
/// 2: an attach may name an owner, which a daemon that knows of none must not overlook.
pub const VERSION: u32 = 2;

/// Longest request, in bytes: names, an address and a few options.
pub const MAX_REQUEST: usize = 4096;
/// Longest reply, in bytes: `status` of all loans with all vectors and pcidom's report.
pub const MAX_REPLY: usize = 4 << 20;

/// A device's address as text, `DDDD:BB:SS.F`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bdf(pub Sbdf);

impl Serialize for Bdf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bdf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// A reset method by its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetMethod(pub Method);

impl Serialize for ResetMethod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.word())
    }
}

impl<'de> Deserialize<'de> for ResetMethod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// A bus policy by its word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bus(pub BusPolicy);

impl Serialize for Bus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.word())
    }
}

impl<'de> Deserialize<'de> for Bus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// What a person lets a guest write beyond pcidom's register table, as it was typed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// All that can be allowed.
    pub permissive: bool,
    /// Registers: `NAME[:MASK]` or `OFFSET:BYTES[:MASK]`.
    pub allow: Vec<String>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Verb {
    /// Lend a device.
    Attach {
        /// The guest, by name or domid.
        guest: String,
        /// Whose stub domain it is, if it is one: that guest's the device will be.
        #[serde(default)]
        owner: Option<String>,
        /// The device.
        device: Bdf,
        /// The virtual slot, if one is asked for.
        slot: Option<u8>,
        /// How the guest's bus is laid out, for its first device.
        #[serde(default)]
        bus: Option<Bus>,
        /// Give it its line although another guest has that.
        #[serde(default)]
        share_line: bool,
        /// Lend it although it could only be made quiet, where no reset method works.
        #[serde(default)]
        lax: bool,
        /// So many seconds a running guest may take to connect.
        #[serde(default)]
        wait: Option<u16>,
        /// What its guest may write beyond pcidom's register table.
        #[serde(default)]
        wish: Wish,
        /// Whose pool it is in; if none is named, the only one's.
        pcidom: Option<String>,
    },
    /// Take a device back.
    Detach {
        /// The guest, by name or domid.
        guest: String,
        /// The device.
        device: Bdf,
        /// Don't ask the guest's driver.
        force: bool,
        /// Whose pool it is in; if none is named, the only one's.
        pcidom: Option<String>,
    },
    /// Reset a device.
    Reset {
        /// The device.
        device: Bdf,
        /// Only by this method; by the first that works if none is named.
        method: Option<ResetMethod>,
        /// Although guests have it, or something that is reset with it.
        force: bool,
        /// Whose pool it is in; if none is named, the only one's.
        pcidom: Option<String>,
    },
    /// What is lent.
    List {
        /// To this guest only.
        guest: Option<String>,
        /// Out of this one's pool; if none is named, the only one's.
        pcidom: Option<String>,
    },
    /// All the daemon knows.
    Status {
        /// Of this pcidom; of all of them if it isn't named.
        pcidom: Option<String>,
    },
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`] of the tool.
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub verb: Verb,
}

/// One lent device in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListLine {
    /// The guest's name.
    pub guest: String,
    /// Device and function the guest sees, as pcidom says; none before it is exported.
    pub virtual_device: Option<String>,
    /// The device.
    pub device: Bdf,
    /// Whose stub domain the guest is, if it is one.
    #[serde(default)]
    pub owner: Option<String>,
}

/// The guest that a stub domain has a device for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerLine {
    /// Its name.
    pub name: String,
    /// Its domid.
    pub domid: u16,
}

/// One device of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolLine {
    /// The device.
    pub device: Bdf,
    /// `free`, `lent`, `resetting`, `port`, `unfit` or `leaving`.
    pub state: String,
    /// More about that, for people.
    pub note: Option<String>,
    /// The port by which it can have a bus reset, and a slot reset if that has such a slot.
    #[serde(default)]
    pub port: Option<Bdf>,
    /// Why there is none, if it is no port itself.
    #[serde(default)]
    pub no_port: Option<String>,
    /// What dom0's pciback lets through for it because of an exception, and until when.
    #[serde(default)]
    pub armed: Vec<String>,
}

/// One loan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoanLine {
    /// The loan's slot.
    pub id: String,
    /// Which loan of that slot.
    pub generation: u64,
    /// The device.
    pub device: Bdf,
    /// The guest's name.
    pub guest: String,
    /// Its domid.
    pub domid: u16,
    /// Whose stub domain it is, if it is one: the device and the pirqs are that guest's.
    #[serde(default)]
    pub owner: Option<OwnerLine>,
    /// How far it has come.
    pub phase: String,
    /// The pirqs that are mapped for it.
    pub pirqs: Vec<u16>,
    /// Why its guest can't use its interrupt line, if it can't.
    #[serde(default)]
    pub no_line: Option<String>,
    /// How its guest's bus is laid out.
    #[serde(default)]
    pub bus: Bus,
    /// It is lent even if it could not be reset (`no-strict-reset=1`).
    #[serde(default)]
    pub no_strict_reset: bool,
    /// What pcidom holds instead, if that is something else, and what to do.
    #[serde(default)]
    pub difference: Option<String>,
    /// Its exceptions, as they were typed.
    #[serde(default)]
    pub exceptions: Vec<String>,
    /// What its guest wrote and pcidom did not do as asked, by pcidom's word.
    #[serde(default)]
    pub denied: Vec<DeniedLine>,
}

/// Writes to one register that were denied or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedLine {
    /// The register's name, if it has one.
    pub register: Option<String>,
    /// Where it is.
    pub offset: u16,
    /// How wide it is.
    pub bytes: u16,
    /// The last value that was written.
    pub wanted: u32,
    /// How often.
    pub times: u32,
    /// The option of attach that would allow more of it, if there is one.
    pub exception: Option<String>,
    /// What that risks; without an option, why there is none.
    pub why: String,
}

/// One pcidom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PcidomLine {
    /// Its name.
    pub name: String,
    /// Its domid.
    pub domid: u16,
    /// Whether it says that it serves.
    pub ready: bool,
    /// Its pool.
    pub pool: Vec<PoolLine>,
    /// Its loans.
    pub loans: Vec<LoanLine>,
    /// What it says of itself, node by node; none if it did not answer in time.
    pub report: Option<BTreeMap<String, String>>,
}

/// All the daemon knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub daemon: String,
    /// Names that make a domain a pcidom.
    pub names: Vec<String>,
    /// What the host lacks, and what to do about it.
    pub trouble: Option<String>,
    /// Those that run.
    pub pcidoms: Vec<PcidomLine>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Reply {
    /// It goes on; another reply follows.
    Progress {
        /// How far it is.
        text: String,
    },
    /// Done; the text says what, if there is more to say.
    Done {
        /// For people.
        text: String,
    },
    /// Not done, and nothing is left of the try.
    Failed {
        /// Why, and what to do.
        text: String,
    },
    /// The answer to a list.
    List {
        /// By guest and device.
        lines: Vec<ListLine>,
    },
    /// The answer to a status.
    Status {
        /// All of it.
        status: Status,
    },
}

impl Request {
    /// Reads a request's line; if something is wrong with it, the reply says what.
    pub fn parse(line: &str) -> Result<Self, Reply> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let failed = |text: String| Reply::Failed { text };
        match serde_json::from_str::<Versioned>(line) {
            Ok(Versioned { version: VERSION }) => {}
            Ok(Versioned { version }) => {
                return Err(failed(format!(
                    "the daemon speaks version {VERSION} and this tool version {version}: \
                     restart the daemon with the same pcidomctl"
                )));
            }
            Err(error) => return Err(failed(format!("not a request: {error}"))),
        }
        serde_json::from_str(line)
            .map_err(|error| failed(format!("not a request: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::{Bdf, Bus, BusPolicy, Reply, Request, VERSION, Verb, Wish};

    #[test]
    fn a_request_is_one_line_and_comes_back() {
        let verb = Verb::Attach {
            guest: "g\n1".into(),
            owner: Some("hvm".into()),
            device: Bdf("01:00.0".parse().unwrap()),
            slot: Some(3),
            bus: Some(Bus(BusPolicy::Slot)),
            share_line: true,
            lax: true,
            wait: Some(5),
            wish: Wish { permissive: true, allow: vec!["DEVCTL:0x7000".into()] },
            pcidom: Some("pcidom".into()),
        };
        let request = Request { version: VERSION, verb };
        let line = serde_json::to_string(&request).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(Request::parse(&line), Ok(request));
    }

    #[test]
    fn another_version_and_nonsense_are_told_apart() {
        let text = |line: &str| match Request::parse(line) {
            Err(Reply::Failed { text }) => text,
            other => panic!("{other:?}"),
        };
        for other in [VERSION - 1, VERSION + 1] {
            let line = format!(r#"{{"version":{other},"verb":"fly"}}"#);
            assert!(text(&line).contains(&format!("tool version {other}")), "{line}");
        }
        let line = format!(r#"{{"version":{VERSION},"verb":"fly"}}"#);
        assert!(text(&line).contains("not a request"));
        assert!(text("\0").contains("not a request"));
    }
}
