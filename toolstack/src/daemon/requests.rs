//! Resets that another toolstack asks for, by a node of XenStore that only dom0 can write.
//! docs/resets.md has the form.

use pcidom_loan::MAX_TEXT;
use pcidom_pci::Sbdf;

use super::reset::Wanted;
use super::resets::Asker;
use super::{Daemon, Env, Failure, paths};

/// Requests at one time: more than anybody needs, fewer than would be a burden.
const MAX_REQUESTS: usize = 16;
/// Longest name of a request.
const MAX_NAME: usize = 64;
/// What the result says until there is one.
const RUNNING: &str = "running";
const STALE: &str =
    "it was asked for before the daemon was started: remove the request, and ask again";
const FORM: &str = "malformed request: write DDDD:BB:SS.F[ method=flr|af|pm|slot|bus][ force]\
    [ pcidom=NAME]";

/// Reads a request.
fn parse(text: &str) -> Option<Wanted<'_>> {
    let mut words = text.trim_end_matches(['\0', '\n']).split(' ');
    let device: Sbdf = words.next()?.parse().ok()?;
    let mut wanted = Wanted { device, method: None, force: false, pcidom: None };
    for word in words {
        match word.split_once('=') {
            Some(("method", method)) if wanted.method.is_none() => {
                wanted.method = Some(method.parse().ok()?);
            }
            Some(("pcidom", name)) if wanted.pcidom.is_none() && !name.is_empty() => {
                wanted.pcidom = Some(name);
            }
            None if word == "force" && !wanted.force => wanted.force = true,
            _ => return None,
        }
    }
    Some(wanted).filter(|_| text.len() <= MAX_TEXT)
}

impl Daemon {
    /// Makes the directory, and answers what was asked before: of what an earlier daemon had
    /// begun nobody knows what came, and who asked when no daemon ran may wait no more, and
    /// may use the device by now.
    pub(super) fn take_up_requests(&self, env: &mut Env<'_>) -> Result<(), Failure> {
        if env.store.read(paths::REQUESTS)?.is_none() {
            // Below the record, so it is dom0's alone like that.
            env.store.write(paths::REQUESTS, "")?;
        }
        for name in env.store.list(paths::REQUESTS)? {
            let asked = env.store.read(&paths::request_for_reset(&name))?;
            let text = match env.store.read(&paths::result(&name))?.as_deref() {
                Some(RUNNING) => "the daemon was started anew meanwhile: ask again",
                None if asked.is_some_and(|text| !text.is_empty()) => STALE,
                _ => continue,
            };
            log::info!("request {:.64}: {text}", name.escape_default().to_string());
            self.answer_request(env, &name, Err(text.into()));
        }
        Ok(())
    }

    /// A request has changed, or all of them may have.
    pub(super) fn look_at_requests(
        &mut self,
        env: &mut Env<'_>,
        path: &str,
    ) -> Result<(), Failure> {
        let rest = path.strip_prefix(paths::REQUESTS).unwrap_or_default();
        match rest.trim_matches('/') {
            "" => {
                for name in env.store.list(paths::REQUESTS)? {
                    self.serve_request(env, &name)?;
                }
                Ok(())
            }
            // The result, most likely.
            rest if rest.contains('/') => Ok(()),
            name => self.serve_request(env, name),
        }
    }

    fn serve_request(&mut self, env: &mut Env<'_>, name: &str) -> Result<(), Failure> {
        let Some(text) = env.store.read(&paths::request_for_reset(name))? else {
            return Ok(());
        };
        // A directory that is being made, or a request that has its answer.
        if text.is_empty() || env.store.read(&paths::result(name))?.is_some() {
            return Ok(());
        }
        if name.len() > MAX_NAME {
            let text = format!("the name of a request has at most {MAX_NAME} characters");
            log::info!("request {name:.64}...: {text}");
            self.answer_request(env, name, Err(text));
            return Ok(());
        }
        log::debug!("asked by {name}: {text:?}");
        let Some(wanted) = parse(&text) else {
            self.answer_request(env, name, Err(FORM.into()));
            return Ok(());
        };
        if self.resets.len() >= MAX_REQUESTS {
            let text =
                format!("{MAX_REQUESTS} resets are under way: wait for one to end");
            self.answer_request(env, name, Err(text));
            return Ok(());
        }
        // First, so that no daemon begins it again.
        env.store.write(&paths::result(name), RUNNING)?;
        if let Err(error) = self.reset(env, Asker::Node(name.into()), wanted) {
            let text = error.to_string();
            log::info!("refused: {text}");
            self.answer_request(env, name, Err(text));
        }
        Ok(())
    }

    /// Writes the result, unless whoever asked has taken the request away.
    pub(super) fn answer_request(
        &self,
        env: &mut Env<'_>,
        name: &str,
        result: Result<String, String>,
    ) {
        let mut text = match result {
            Ok(text) => format!("ok {text}"),
            Err(text) => format!("failed {text}"),
        };
        let end =
            (0..=MAX_TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        let written = env.store.transaction(&mut |nodes| {
            if nodes.read(&paths::request_for_reset(name))?.is_some() {
                nodes.write(&paths::result(name), &text)?;
            }
            Ok(())
        });
        if let Err(error) = written {
            log::error!("the result of {name}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use pcidom_pci::reset::Method;

    use super::parse;

    #[test]
    fn requests_are_read_whole_or_not_at_all() {
        let wanted = parse("0000:01:00.0").unwrap();
        assert_eq!(wanted.device, "01:00.0".parse().unwrap());
        assert!(wanted.method.is_none() && !wanted.force && wanted.pcidom.is_none());
        let wanted = parse("01:00.0 force method=bus pcidom=other\n").unwrap();
        assert_eq!(wanted.method, Some(Method::SecondaryBus));
        assert!(wanted.force && wanted.pcidom == Some("other"));
        let long = format!("01:00.0 pcidom={}", "x".repeat(1000));
        for text in [
            "",
            "nonsense",
            "01:00.8",
            " 01:00.0",
            "01:00.0  force",
            "01:00.0 force force",
            "01:00.0 force=1",
            "01:00.0 method=kick",
            "01:00.0 method=bus method=bus",
            "01:00.0 pcidom=",
            "01:00.0 fly",
            &long,
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
