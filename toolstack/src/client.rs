//! The other end of the daemon's socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::socket::SOCKET;
use crate::verb::{MAX_REPLY, Reply, Request, VERSION, Verb};

/// The daemon's own deadlines, all of them one after the other, and some more.
const PATIENCE: Duration = Duration::from_secs(150);

/// Asks the daemon and waits for its reply; `progress` hears how far it is meanwhile.
pub fn ask(verb: &Verb, progress: &mut dyn FnMut(&str)) -> anyhow::Result<Reply> {
    ask_at(Path::new(SOCKET), verb, progress)
}

/// The same, at another place.
pub fn ask_at(
    path: &Path,
    verb: &Verb,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<Reply> {
    let mut stream = UnixStream::connect(path).map_err(|error| explain(path, &error))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = Request { version: VERSION, verb: verb.clone() };
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let limit = u64::try_from(MAX_REPLY).unwrap_or(u64::MAX);
    let mut lines = BufReader::new(stream.take(limit));
    loop {
        let mut reply = String::new();
        lines.read_line(&mut reply).map_err(|error| {
            anyhow::anyhow!("the daemon did not answer ({error}): look at its log")
        })?;
        if reply.is_empty() {
            anyhow::bail!("the daemon hung up: look at its log");
        }
        let reply = serde_json::from_str(&reply).map_err(|error| {
            anyhow::anyhow!(
                "the daemon's answer makes no sense ({error}): restart it with the same \
                 pcidomctl"
            )
        })?;
        match reply {
            Reply::Progress { text } => progress(&text),
            reply => return Ok(reply),
        }
    }
}

fn explain(path: &Path, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{} is for root only: run pcidomctl as root", path.display())
        }
        _ => anyhow::anyhow!(
            "the daemon does not run ({}: {error}): start it with: pcidomctl daemon",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::{ask_at, explain};
    use crate::verb::Verb;

    #[test]
    fn without_a_daemon_the_tool_says_how_to_start_it() {
        let directory = tempfile::tempdir().unwrap();
        let verb = Verb::Status { pcidom: None };
        let path = directory.path().join("sock");
        let error = ask_at(&path, &verb, &mut |_| {}).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("the daemon does not run"), "{text}");
        assert!(text.contains("start it with: pcidomctl daemon"), "{text}");
    }

    #[test]
    fn who_may_not_ask_is_told_to_be_root() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        let text = explain(Path::new("/run/xen/pcidom.sock"), &error).to_string();
        assert!(text.contains("/run/xen/pcidom.sock is for root only"), "{text}");
        assert!(text.contains("run pcidomctl as root"), "{text}");
    }
}
