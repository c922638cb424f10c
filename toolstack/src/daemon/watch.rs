//! Which nodes the daemon watches, and where it looks when one has changed.

use pcidom_loan::LoanId;
use pcidom_xenbus::{DomId, XenbusState};

use super::{Daemon, Env, Failure, Loan, Record, Stage, paths};
use crate::store::Fired;

/// What a watch is for; its text is the watch's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    /// Domains come and go.
    Domains,
    /// libxl's locks on devices.
    Locks,
    /// Resets that other toolstacks ask for.
    Requests,
    /// A pcidom's pool.
    Pool(DomId),
    /// What a pcidom says.
    Said(DomId),
    /// A guest's end of its link, and pcidom's.
    Link(DomId),
    /// A guest that has devices by way of a stub domain.
    Owner(DomId),
}

impl Token {
    pub(super) fn text(self) -> String {
        match self {
            Self::Domains => "domains".into(),
            Self::Locks => "locks".into(),
            Self::Requests => "requests".into(),
            Self::Pool(pcidom) => format!("pool/{pcidom}"),
            Self::Said(pcidom) => format!("said/{pcidom}"),
            Self::Link(guest) => format!("link/{guest}"),
            Self::Owner(owner) => format!("owner/{owner}"),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (kind, domain) = text.split_once('/').unwrap_or((text, "0"));
        let domain = domain.parse().ok()?;
        match kind {
            "domains" => Some(Self::Domains),
            "locks" => Some(Self::Locks),
            "requests" => Some(Self::Requests),
            "pool" => Some(Self::Pool(domain)),
            "said" => Some(Self::Said(domain)),
            "link" => Some(Self::Link(domain)),
            "owner" => Some(Self::Owner(domain)),
            _ => None,
        }
    }
}

/// Whether a watch that has fired may tell of the answer to this order. The first event of
/// a new watch tells of everything.
pub(super) fn may_be_about(fired: &Fired, id: LoanId, pcidom: DomId) -> bool {
    let answer = paths::said_of_loan(pcidom, id);
    Token::parse(&fired.token) == Some(Token::Said(pcidom))
        && (fired.path == answer || answer.starts_with(&format!("{}/", fired.path)))
}

impl Daemon {
    pub(super) fn watch_domains(&self, env: &mut Env<'_>) -> Result<(), Failure> {
        for path in ["@introduceDomain", "@releaseDomain"] {
            env.store.watch(path, &Token::Domains.text())?;
        }
        env.store.watch(paths::LOCKS, &Token::Locks.text())?;
        Ok(())
    }

    pub(super) fn watch_requests(&self, env: &mut Env<'_>) -> Result<(), Failure> {
        Ok(env.store.watch(paths::REQUESTS, &Token::Requests.text())?)
    }

    /// Watches a pcidom, or stops to.
    pub(super) fn watch_pcidom(
        &self,
        env: &mut Env<'_>,
        pcidom: DomId,
        on: bool,
    ) -> Result<(), Failure> {
        let watches = [
            (paths::pool_link(pcidom), Token::Pool(pcidom)),
            (paths::said(pcidom), Token::Said(pcidom)),
        ];
        for (path, token) in watches {
            if on {
                env.store.watch(&path, &token.text())?;
            } else {
                env.store.unwatch(&path, &token.text())?;
            }
        }
        Ok(())
    }

    /// Watches a guest's link, or stops to.
    pub(super) fn watch_link(
        &self,
        env: &mut Env<'_>,
        (pcidom, guest): (DomId, DomId),
        on: bool,
    ) -> Result<(), Failure> {
        let token = Token::Link(guest).text();
        let front = format!("{}/state", paths::front(guest));
        for path in [front, paths::back(pcidom, guest)] {
            if on {
                env.store.watch(&path, &token)?;
            } else {
                env.store.unwatch(&path, &token)?;
            }
        }
        Ok(())
    }

    /// Watches the home of an owner, which goes before Xen begins to take the domain apart,
    /// or stops to, unless another loan has the same owner. A guest without a stub domain
    /// has its link there, which is watched.
    pub(super) fn watch_owner(
        &self,
        env: &mut Env<'_>,
        record: &Record,
        on: bool,
    ) -> Result<(), Failure> {
        if record.owner.is_none() {
            return Ok(());
        }
        let owner = record.owner();
        let (path, token) = (paths::vm(owner), Token::Owner(owner).text());
        if on {
            env.store.watch(&path, &token)?;
            return Ok(());
        }
        let others = |loan: &Loan| {
            loan.record.generation != record.generation
                && loan.record.owner.is_some()
                && loan.record.owner() == owner
        };
        if !self.loans.values().any(others) {
            env.store.unwatch(&path, &token)?;
        }
        Ok(())
    }

    pub(super) fn look(
        &mut self,
        env: &mut Env<'_>,
        fired: &Fired,
    ) -> Result<(), Failure> {
        match Token::parse(&fired.token) {
            Some(Token::Domains) => {
                self.scan_domains(env)?;
                self.advance_all(env, |_| true);
            }
            Some(Token::Locks) => self.check_locks(env, &fired.path)?,
            Some(Token::Requests) => self.look_at_requests(env, &fired.path)?,
            Some(Token::Pool(pcidom)) => self.pool_changed(env, pcidom, &fired.path)?,
            Some(Token::Said(pcidom)) => self.listen(env, pcidom, &fired.path)?,
            Some(Token::Link(guest)) => {
                if self.is_news(env, guest, &fired.path)? {
                    self.advance_all(env, |loan| loan.record.guest() == guest);
                }
            }
            Some(Token::Owner(owner)) => {
                self.advance_all(env, |loan| loan.record.owner() == owner);
            }
            None => log::debug!("a watch of an earlier daemon: {}", fired.token),
        }
        Ok(())
    }

    /// Whether a change of a guest's link can be what one of its loans waits for. While a guest
    /// connects, a dozen nodes are written, and each look takes time of the CPU that it may be
    /// waiting for.
    fn is_news(
        &self,
        env: &mut Env<'_>,
        guest: DomId,
        path: &str,
    ) -> Result<bool, Failure> {
        let of_guest = |loan: &&Loan| loan.record.guest() == guest;
        let mut loans = self.loans.values().filter(of_guest);
        let Some(first) = loans.next() else { return Ok(false) };
        let back = paths::back(first.record.pcidom(), guest);
        let name = path.strip_prefix(&back).and_then(|rest| rest.strip_prefix('/'));
        if name.is_some_and(|name| name != "state" && !name.starts_with("state-")) {
            // The address that the guest sees, and the like.
            return Ok(false);
        }
        let front = format!("{}/state", paths::front(guest));
        let is_state = name == Some("state") || path == front;
        if !is_state || first.record.stage != Stage::Lent {
            return Ok(true);
        }
        if loans.any(|loan| loan.record.stage != Stage::Lent) {
            return Ok(true);
        }
        // A loan that is lent waits for Connected, or for an end.
        let now = XenbusState::parse(env.store.read(path)?.as_deref());
        let on_its_way = matches!(
            now,
            XenbusState::Initialising | XenbusState::InitWait | XenbusState::Initialised
        );
        Ok(!on_its_way)
    }

    /// pcidom has said something: the node's name tells what about, and no more than that.
    fn listen(
        &mut self,
        env: &mut Env<'_>,
        pcidom: DomId,
        path: &str,
    ) -> Result<(), Failure> {
        let said = paths::said(pcidom);
        let rest = path.strip_prefix(&said).unwrap_or_default().trim_matches('/');
        let (kind, name) = rest.split_once('/').unwrap_or((rest, ""));
        let id = LoanId::parse(name).filter(|id| {
            self.loans.get(id).is_some_and(|loan| loan.record.pcidom() == pcidom)
        });
        match (kind, id) {
            ("requests", Some(id)) => self.serve_lease(env, id)?,
            ("loans", Some(id)) => self.advance(env, id),
            // Its number is the last that is written.
            ("report", _) if matches!(name, "" | "number") => self.answer_queries(env),
            ("state", _) => self.greet(env, pcidom)?,
            // The watch is new: look at everything once.
            ("", _) => {
                self.greet(env, pcidom)?;
                let ours = self.loans.iter().filter(|(_, l)| l.record.pcidom() == pcidom);
                let mut ids: Vec<_> =
                    ours.map(|(id, l)| (l.leases.is_none(), *id)).collect();
                // What is held first. A daemon may have died between an unmap and the word
                // of it: then the record holds numbers that are free, and the same request
                // is here again. Once it is served, another loan may get these numbers.
                ids.sort_unstable();
                for (_, id) in ids {
                    self.serve_lease(env, id)?;
                    self.advance(env, id);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Token;
    use pcidom_xenbus::DomId;

    #[test]
    fn tokens_come_back() {
        for token in [
            Token::Domains,
            Token::Locks,
            Token::Requests,
            Token::Pool(DomId(1)),
            Token::Said(DomId(2)),
            Token::Link(DomId(7)),
            Token::Owner(DomId(8)),
        ] {
            assert_eq!(Token::parse(&token.text()), Some(token));
        }
        assert_eq!(Token::parse("link/x"), None);
    }
}
