//! XenStore procedures of the event loop, and what they bring.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pcidom_loan::{
    CONTROL_DIR, ConfigFrame, LeaseAnswer, LoanId, LoanOrder, NodeName, PROTOCOL,
    QUARANTINED, READY, REPORT_DIR,
};
use pcidom_pci::Sbdf;
use pcidom_xenbus::store::{Store, StoreError};
use pcidom_xenbus::{DomId, Mfn};
use vecmap::{VecMap, VecSet};

use super::chain::{LinkDone, LinkId};

/// Where the A-link's front directory is: libxl makes no other.
pub(super) const FRONT_DIR: &str = "device/pci/0";

/// Most nodes read of the A-link's back directory: ten of its own and seven for each of
/// 256 functions (32 slots of vpci).
pub(super) const MAX_BACK_NODES: usize = 10 + 7 * 256;

/// Tokens of our watches.
pub(super) mod token {
    pub(crate) const SHUTDOWN: &str = "shutdown";
    pub(crate) const FRONT: &str = "front";
    pub(crate) const FRONT_STATE: &str = "front-state";
    pub(crate) const BACK: &str = "back";
    pub(crate) const POOL: &str = "pool";
    pub(crate) const ECAM: &str = "ecam";
    pub(crate) const ORDERS: &str = "orders";
    pub(crate) const ANSWERS: &str = "answers";
    pub(crate) const QUERY: &str = "query";
    /// Followed by the guest's domid.
    pub(crate) const GUEST_FRONT: &str = "guest-front ";
    /// Followed by the guest's domid.
    pub(crate) const GUEST_BACK: &str = "guest-back ";
}

/// What a job brought.
#[derive(Debug)]
pub(super) enum Done {
    /// Nothing to tell.
    Nothing,
    /// Our domid is known and all standing watches are set.
    Started(Result<DomId, StoreError>),
    /// A write that nothing waits for.
    Written(String, Result<(), StoreError>),
    /// A guest's directories can't be watched.
    Unwatched(DomId, StoreError),
    /// `control/shutdown` says this.
    Shutdown(Option<String>),
    /// The A-link's backend, if the toolstack made one.
    BackFound(Option<Back>),
    /// Devices that the daemon has taken into quarantine.
    Pool(VecSet<Sbdf>),
    /// Config space pages that the daemon lets us map.
    ConfigFrames(VecMap<Sbdf, Mfn>),
    /// All orders of the daemon, and the version of its protocol if that is not ours.
    Orders(VecMap<LoanId, LoanOrder>, Option<String>),
    /// The daemon's answer for a loan, as it stands.
    Answer(LoanId, LeaseAnswer),
    /// The daemon wants a report with this number.
    Query(Option<String>),
    /// What a link's own work brought.
    Link(LinkId, LinkDone),
}

/// The standing watches, and their tokens.
const WATCHES: [(&str, &str); 8] = [
    ("control/shutdown", token::SHUTDOWN),
    ("device/pci/0/backend", token::FRONT),
    ("device/pci/0/state", token::FRONT_STATE),
    ("pcidom/pool", token::POOL),
    ("pcidom/ecam", token::ECAM),
    ("pcidom/loans", token::ORDERS),
    ("pcidom/answers", token::ANSWERS),
    ("pcidom/query", token::QUERY),
];

/// Sets the standing watches and learns who we are.
pub(super) async fn start(store: Store) -> Done {
    let domid = match store.read("domid").await {
        Ok(domid) => domid,
        Err(error) => return Done::Started(Err(error)),
    };
    for (path, token) in &WATCHES {
        if let Err(error) = store.watch(path, token).await {
            return Done::Started(Err(error));
        }
    }
    Done::Started(domid.parse().map_err(|_| StoreError::BadAnswer))
}

/// Writes one node.
pub(super) async fn write(store: Store, path: String, value: String) -> Done {
    let result = store.write(&path, &value).await;
    Done::Written(path, result)
}

/// Says that we serve, and in which version, in this order.
pub(super) async fn serve(store: Store) -> Done {
    let words = [("protocol", PROTOCOL), ("state", READY)];
    for (node, word) in words {
        let path = format!("{REPORT_DIR}/{node}");
        if let Err(error) = store.write(&path, word).await {
            return Done::Written(path, Err(error));
        }
    }
    Done::Nothing
}

/// Removes nodes.
pub(super) async fn remove(store: Store, paths: Vec<String>) -> Done {
    for path in &paths {
        if let Err(error) = store.remove(path).await {
            return Done::Written(path.clone(), Err(error));
        }
    }
    Done::Written(String::new(), Ok(()))
}

/// Reads `control/shutdown`, and acknowledges it by emptying it, as Xen's toolstack waits for.
pub(super) async fn shutdown(store: Store) -> Done {
    let request =
        store.read("control/shutdown").await.ok().filter(|text| !text.is_empty());
    if let Some(request) = &request
        && matches!(request.as_str(), "poweroff" | "reboot" | "halt")
        && let Err(error) = store.write("control/shutdown", "").await
    {
        return Done::Written("control/shutdown".into(), Err(error));
    }
    Done::Shutdown(request)
}

/// Finds the A-link's backend and watches its state. A watch outlives its node, and one
/// that is there already is refused, so none is ever taken away: an unwatch would race with
/// the search that finds the directory made anew. Should the backend ever move, its old
/// place wakes us for nothing.
pub(super) async fn find_back(store: Store) -> Done {
    let found = store.find(&format!("{FRONT_DIR}/backend")).await.ok().flatten();
    let found = found.and_then(|dir| {
        let back = Back::parse(dir.clone());
        if back.is_none() {
            log::error!("{FRONT_DIR}/backend names no backend's directory: {dir}");
        }
        back
    });
    if let Some(Back { dir, .. }) = &found {
        drop(store.watch(&format!("{dir}/state"), token::BACK).await);
    }
    Done::BackFound(found)
}

/// Where the A-link's other end is: dom0, or another pcidom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Back {
    /// Its directory in XenStore.
    pub(super) dir: String,
    /// Its domain, for grants and event channels.
    pub(super) domain: DomId,
}

impl Back {
    /// The directory says whose it is: `/local/domain/DOMID/backend/pci/...`.
    fn parse(dir: String) -> Option<Self> {
        let (domain, _) = dir.strip_prefix("/local/domain/")?.split_once("/backend/")?;
        let domain = DomId(domain.parse().ok()?);
        Some(Self { dir, domain })
    }
}

/// Reads which devices the daemon has quarantined.
pub(super) async fn pool(store: Store) -> Done {
    let path = format!("{CONTROL_DIR}/pool");
    let nodes = store.snapshot(&path, |_| true, MAX_BACK_NODES).await;
    let quarantined =
        nodes.unwrap_or_default().into_iter().filter_map(|(name, value)| {
            NodeName::parse(&name).filter(|_| value == QUARANTINED).map(|name| name.0)
        });
    Done::Pool(quarantined.collect())
}

/// Reads which config space pages we may map.
pub(super) async fn ecam(store: Store) -> Done {
    let path = format!("{CONTROL_DIR}/ecam");
    let nodes = store.snapshot(&path, |_| true, MAX_BACK_NODES).await;
    let frames = nodes.unwrap_or_default().into_iter().filter_map(|(name, value)| {
        let ConfigFrame(frame) = ConfigFrame::parse(&value)?;
        NodeName::parse(&name).map(|name| (name.0, Mfn(frame)))
    });
    Done::ConfigFrames(frames.collect())
}

/// Reads all orders. One that makes no sense is as good as none, and the daemon, which
/// wrote it, waits in vain and says so.
pub(super) async fn orders(store: Store) -> Done {
    // First: an order is not to be obeyed before it is known what it means.
    let spoken = store.read(&format!("{CONTROL_DIR}/protocol")).await.ok();
    let foreign = spoken.filter(|spoken| spoken != PROTOCOL);
    let limit = pcidom_loan::MAX_LOANS.into();
    let path = format!("{CONTROL_DIR}/loans");
    let nodes = store.snapshot(&path, |_| true, limit).await;
    let orders = nodes.unwrap_or_default().into_iter().filter_map(|(name, value)| {
        let order =
            value.parse().inspect_err(|error| log::error!("order {name}: {error}"));
        LoanId::parse(&name).zip(order.ok())
    });
    Done::Orders(orders.collect(), foreign)
}

/// Reads the answer for a loan.
pub(super) async fn answer(store: Store, loan: LoanId) -> Done {
    let Ok(text) = store.read(&format!("{CONTROL_DIR}/answers/{loan}")).await else {
        return Done::Nothing;
    };
    match text.parse() {
        Ok(answer) => Done::Answer(loan, answer),
        Err(error) => {
            log::error!("answer for loan {loan}: {error}");
            Done::Nothing
        }
    }
}

/// Reads the daemon's query.
pub(super) async fn query(store: Store) -> Done {
    Done::Query(store.read(&format!("{CONTROL_DIR}/query")).await.ok())
}

/// What is watched in a guest's two directories, and the tokens. Two watches: XenStore lets a
/// domain have 128, so this bounds how many guests a pcidom can have. Devices that come are
/// noticed by their loan's order.
fn guest_watches(guest: DomId) -> [(String, String); 2] {
    let (front, back) = (guest_front(guest), guest_back(guest));
    [
        (format!("{back}/state"), format!("{}{guest}", token::GUEST_BACK)),
        (format!("{front}/state"), format!("{}{guest}", token::GUEST_FRONT)),
    ]
}

/// Watches a guest's two directories.
pub(super) async fn watch_guest(store: Store, guest: DomId) -> Done {
    for (path, token) in guest_watches(guest) {
        if let Err(error) = store.watch(&path, &token).await {
            return Done::Unwatched(guest, error);
        }
    }
    Done::Nothing
}

/// Ends the watches on a guest's directories.
pub(super) async fn unwatch_guest(store: Store, guest: DomId) -> Done {
    for (path, token) in guest_watches(guest) {
        if let Err(error) = store.unwatch(&path, &token).await {
            return Done::Written(guest_front(guest), Err(error));
        }
    }
    Done::Nothing
}

/// The directory of a guest's frontend. The daemon makes it there and nowhere else, so it
/// is computed, not read from a node.
pub(super) fn guest_front(guest: DomId) -> String {
    format!("/local/domain/{guest}/device/pci/0")
}

/// The directory of our backend for a guest, relative to our home.
pub(super) fn guest_back(guest: DomId) -> String {
    format!("backend/pci/{guest}/0")
}

/// Writes a report anew: what an earlier one said of devices and guests is removed.
pub(super) async fn replace(store: Store, nodes: Vec<(String, String)>) -> Done {
    let root = format!("{REPORT_DIR}/report");
    if let Err(error) = store.remove(&root).await {
        return Done::Written(root, Err(error));
    }
    for (path, value) in &nodes {
        if let Err(error) = store.write(path, value).await {
            return Done::Written(path.clone(), Err(error));
        }
    }
    Done::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_the_backend_says_whose_it_is() {
        let back = |dir: &str| Back::parse(dir.into()).map(|back| back.domain);
        assert_eq!(back("/local/domain/0/backend/pci/3/0"), Some(DomId(0)));
        assert_eq!(back("/local/domain/12/backend/pci/3/0"), Some(DomId(12)));
        for wrong in [
            "",
            "backend/pci/3/0",
            "/local/domain/x/backend/pci/3/0",
            "/local/domain/70000/backend/",
        ] {
            assert_eq!(back(wrong), None, "{wrong}");
        }
    }
}
