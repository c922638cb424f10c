//! Attacks by what is published: grants and ports that are none.
//!
//! `done` counts what the backend connected to: nothing, if it is right.

use alloc::format;
use alloc::string::String;

use pcidom_xenbus::pciif::{MAGIC, RawOp, command};
use pcidom_xenbus::{DomId, GrantRef, Port, XenbusState};

use super::Enemy;
use crate::ask::put;

/// A reference that was never published, and ones that can't be.
const BAD_REFERENCES: [&str; 6] =
    ["300", "511", "4294967295", "4294967296", "-1", "none"];
/// Of ports.
const BAD_PORTS: [&str; 6] = ["0", "4095", "4294967295", "4294967296", "-1", "none"];
const BAD_MAGIC: [&str; 3] = ["6", "", "seven"];

impl Enemy<'_> {
    /// Publishes keys that the backend must refuse.
    fn bad(&mut self, reference: &str, port: &str, magic: &str) {
        if !self.goes_on() {
            return;
        }
        self.count.tries += 1;
        match self.offer(reference, port, magic) {
            Some(XenbusState::Connected) => self.count.done += 1,
            Some(_) => self.count.refused += 1,
            None => self.count.unanswered += 1,
        }
    }

    fn bad_grant(&mut self, reference: &str) {
        let port = text(self.link.port.0);
        self.bad(reference, &port, MAGIC);
    }

    fn bad_port(&mut self, port: &str) {
        let reference = text(self.link.reference.0);
        self.bad(&reference, port, MAGIC);
    }

    /// A grant that is taken back while it is mapped, with a request in it.
    fn revoked(&mut self) {
        if !self.goes_on() {
            return;
        }
        self.count.tries += 1;
        let Ok((reference, page)) = self.xen.grants.grant(self.link.peer) else { return };
        let port = text(self.link.port.0);
        let state = self.offer(&text(reference.0), &port, MAGIC);
        self.xen.forged.revoke(reference);
        if state == Some(XenbusState::Connected) {
            let op = RawOp { cmd: command::CONF_READ, size: 4, ..RawOp::default() };
            put(self.link, &op, &[]);
        }
        self.xen.grants.end_grant(&page);
    }
}

/// Pages that aren't granted to the backend, or not to be written, or not for long.
pub(super) fn grants(enemy: &mut Enemy<'_>) {
    let peer = enemy.link.peer;
    let read_only = enemy.xen.forged.read_only(peer);
    let foreign = enemy.xen.forged.foreign(peer);
    let elsewhere = enemy.xen.grants.grant(DomId::DOM0);
    while enemy.goes_on() {
        for reference in BAD_REFERENCES {
            enemy.bad_grant(reference);
        }
        for GrantRef(reference) in [read_only, foreign] {
            enemy.bad_grant(&text(reference));
        }
        if let Ok((reference, _)) = &elsewhere {
            let reference = text(reference.0);
            enemy.bad_grant(&reference);
        }
        enemy.revoked();
    }
    if let Ok((_, page)) = &elsewhere {
        enemy.xen.grants.end_grant(page);
    }
}

/// Ports that aren't there, are somebody else's, or are in use.
pub(super) fn ports(enemy: &mut Enemy<'_>) {
    let elsewhere = enemy.xen.events.alloc_unbound(DomId::DOM0).ok();
    let closed = enemy.xen.events.alloc_unbound(enemy.link.peer).ok();
    if let Some(closed) = closed {
        enemy.xen.events.close(closed);
    }
    let store = Some(enemy.xen.store.port());
    while enemy.goes_on() {
        for port in BAD_PORTS {
            enemy.bad_port(port);
        }
        for Port(port) in [elsewhere, closed, store].into_iter().flatten() {
            enemy.bad_port(&text(port));
        }
        for magic in BAD_MAGIC {
            let (reference, port) =
                (text(enemy.link.reference.0), text(enemy.link.port.0));
            enemy.bad(&reference, &port, magic);
        }
    }
    if let Some(elsewhere) = elsewhere {
        enemy.xen.events.close(elsewhere);
    }
}

fn text(number: u32) -> String {
    format!("{number}")
}
