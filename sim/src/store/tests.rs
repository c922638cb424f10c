use pcidom_xenbus::DomId;
use pcidom_xenbus::wire::{Kind, Message, encode};

use super::{Connection, Errno, Permissions, XenStore};
use crate::agenda::{Agenda, Happening};
use crate::xen::domains::DomainConfig;
use crate::xen::{Delays, Xen};

struct Bed {
    xen: Xen,
    store: XenStore,
    dom0: Connection,
}

impl Bed {
    fn new() -> Self {
        let xen = Xen::new(&Agenda::new(1), Delays::default());
        let store = XenStore::new(&xen);
        let dom0 = store.connect(DomId::DOM0);
        Self { xen, store, dom0 }
    }

    fn domain(&self) -> (DomId, Connection) {
        let domain = self.xen.create_domain(DomainConfig::default());
        let home = format!("/local/domain/{domain}");
        let own = Permissions::shared(DomId::DOM0, domain);
        self.dom0.make(&home, "", own).unwrap();
        self.dom0
            .make(&format!("{home}/data"), "", Permissions::private(domain))
            .unwrap();
        (domain, self.store.connect(domain))
    }

    /// Lets XenStore serve everything that lies in the rings.
    fn serve(&self) {
        while let Some(at) = self.xen.agenda().next_due() {
            self.xen.agenda().advance(at);
            if let Some(Happening::StoreServes(domain)) = self.xen.agenda().take_due() {
                self.store.serve(domain);
            }
        }
    }
}

fn mail(connection: &Connection) -> Vec<(String, String)> {
    std::iter::from_fn(|| connection.next_mail()).collect()
}

#[test]
fn what_is_made_below_a_node_has_its_permissions_and_belongs_to_its_maker() {
    let bed = Bed::new();
    let (one, own) = bed.domain();
    let (_, other) = bed.domain();
    own.write("data/a/b", "x").unwrap();
    let path = format!("/local/domain/{one}/data/a/b");
    assert_eq!(bed.dom0.permissions(&path).unwrap(), Permissions::private(one));
    assert_eq!(own.directory("data").unwrap(), ["a"]);
    assert_eq!(other.read(&path), Err(Errno::Eacces));
    assert_eq!(own.write("device", "x"), Err(Errno::Eacces));
    assert_eq!(own.read("data/none"), Err(Errno::Enoent));
}

#[test]
fn a_dead_domains_paths_read_as_forbidden_and_not_as_missing() {
    let bed = Bed::new();
    let (guest, _) = bed.domain();
    let (backend, own) = bed.domain();
    let front = format!("/local/domain/{guest}/device/pci/0");
    bed.dom0.make(&front, "", Permissions::shared(guest, backend)).unwrap();
    bed.dom0.write(&format!("{front}/state"), "4").unwrap();
    assert_eq!(own.read(&format!("{front}/state")).unwrap(), "4");
    bed.dom0.remove(&format!("{front}/state")).unwrap();
    assert_eq!(own.read(&format!("{front}/state")), Err(Errno::Enoent));
    bed.dom0.remove(&format!("/local/domain/{guest}")).unwrap();
    assert_eq!(own.read(&format!("{front}/state")), Err(Errno::Eacces));
}

#[test]
fn a_watch_fires_at_once_for_changes_below_and_when_a_parent_goes() {
    let bed = Bed::new();
    let (domain, own) = bed.domain();
    own.watch("data/a", "token").unwrap();
    assert_eq!(mail(&own), [("data/a".into(), "token".into())]);
    own.write("data/a/b", "x").unwrap();
    own.write("data/other", "x").unwrap();
    own.write("data/ab", "x").unwrap();
    assert_eq!(mail(&own), [("data/a/b".into(), "token".into())]);
    bed.dom0.remove(&format!("/local/domain/{domain}/data")).unwrap();
    assert_eq!(mail(&own), [("data/a".into(), "token".into())]);
    own.unwatch("data/a", "token").unwrap();
    bed.dom0.write(&format!("/local/domain/{domain}/data/a"), "x").unwrap();
    assert_eq!(mail(&own), []);
}

#[test]
fn nobody_hears_of_what_he_may_not_read() {
    let bed = Bed::new();
    let (one, own) = bed.domain();
    let (_, other) = bed.domain();
    other.watch(&format!("/local/domain/{one}/data/a"), "spy").unwrap();
    mail(&other);
    own.write("data/a", "secret").unwrap();
    own.write("data/a/b", "secret").unwrap();
    assert_eq!(mail(&other), []);
}

#[test]
fn a_transaction_that_met_another_one_has_to_be_repeated() {
    let bed = Bed::new();
    let (_, own) = bed.domain();
    own.write("data/a", "1").unwrap();
    let inside = own.begin().unwrap();
    assert_eq!(inside.read("data/a").unwrap(), "1");
    inside.write("data/b", "2").unwrap();
    assert_eq!(own.read("data/b"), Err(Errno::Enoent));
    own.write("data/a", "3").unwrap();
    assert_eq!(inside.end(true), Err(Errno::Eagain));
    let inside = own.begin().unwrap();
    inside.write("data/b", "2").unwrap();
    own.watch("data/b", "token").unwrap();
    mail(&own);
    inside.end(true).unwrap();
    assert_eq!(own.read("data/b").unwrap(), "2");
    assert_eq!(mail(&own).len(), 1);
    let dropped = own.begin().unwrap();
    dropped.remove("data").unwrap();
    dropped.end(false).unwrap();
    assert_eq!(own.directory("data").unwrap(), ["a", "b"]);
}

#[test]
fn quotas_bound_what_a_domain_can_take() {
    let bed = Bed::new();
    let (_, own) = bed.domain();
    assert_eq!(own.write("data/long", &"x".repeat(2049)), Err(Errno::Enospc));
    let nodes = (0..2000).map(|n| own.write(&format!("data/{n}"), ""));
    assert!(nodes.filter(Result::is_ok).count() <= 1000);
    assert_eq!(own.write("data/more", ""), Err(Errno::Enospc));
    let watches = (0..200).map(|n| own.watch("data", &n.to_string()));
    assert_eq!(watches.filter(Result::is_ok).count(), 128);
    let open: Vec<_> = (0..20).map(|_| own.begin()).collect();
    assert_eq!(open.iter().filter(|begun| begun.is_ok()).count(), 10);
}

#[test]
fn the_end_of_a_domain_takes_its_nodes_and_watches() {
    let bed = Bed::new();
    let (domain, own) = bed.domain();
    let (other, _) = bed.domain();
    let back = format!("/local/domain/{other}/data/x");
    bed.dom0.make(&back, "", Permissions::private(domain)).unwrap();
    bed.dom0.watch(super::RELEASE, "gone").unwrap();
    mail(&bed.dom0);
    bed.store.release_domain(domain);
    assert_eq!(bed.dom0.read(&back), Err(Errno::Enoent));
    assert_eq!(own.read("data"), Err(Errno::Einval));
    assert_eq!(mail(&bed.dom0), [(super::RELEASE.into(), "gone".into())]);
}

#[test]
fn a_ring_takes_whole_messages_and_gives_long_replies_in_pieces() {
    let bed = Bed::new();
    let (domain, own) = bed.domain();
    own.write("data/long", &"y".repeat(2000)).unwrap();
    let mut ring = bed.store.connect_ring(domain);
    let read = |n, path: &[u8]| encode(Kind::Read, n, 0, &[path, b"\0"]).unwrap();
    assert!(ring.send(&read(1, b"data/long")));
    assert!(ring.send(&encode(Kind::Write, 2, 0, &[b"data/x\0", &[b'v'; 900]]).unwrap()));
    // 926 and some bytes are in the ring: no room for a message of 120.
    assert!(!ring.send(&read(3, &[b'z'; 100])));
    bed.serve();
    assert!(ring.send(&read(3, b"data/none")));
    bed.serve();
    let replies: Vec<Message> = std::iter::from_fn(|| ring.receive())
        .map(|bytes| Message::decode(&bytes).unwrap())
        .collect();
    let summary: Vec<_> =
        replies.iter().map(|m| (m.request, m.kind.unwrap(), m.payload.len())).collect();
    assert_eq!(
        summary,
        [(1, Kind::Read, 2000), (2, Kind::Write, 3), (3, Kind::Error, 7)]
    );
    assert_eq!(replies[2].strings(), ["ENOENT"]);
}

#[test]
fn a_domain_that_takes_no_replies_is_not_served_without_limit() {
    let bed = Bed::new();
    let (domain, own) = bed.domain();
    own.write("data/long", &"y".repeat(2000)).unwrap();
    let mut ring = bed.store.connect_ring(domain);
    let mut sent = 0;
    for n in 0..1000 {
        let message = encode(Kind::Read, n, 0, &[b"data/long\0"]).unwrap();
        sent += u32::from(ring.send(&message));
        bed.serve();
    }
    assert!(sent < 100, "{sent}");
    let mut replies = 0;
    while replies < sent {
        replies += u32::from(ring.receive().is_some());
        bed.serve();
    }
    assert!(ring.send(&encode(Kind::Read, 0, 0, &[b"data/long\0"]).unwrap()));
}
