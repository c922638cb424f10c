//! The daemon's edge: the one loop that waits, for XenStore, for verbs, for signals and for
//! the next deadline. There is no tick: idle means blocked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use pcidom_script::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::daemon::{Daemon, Env, Found, Protection, remapping_in_log};
use crate::ffi::Xenctrl;
use crate::host::sysfs::Sysfs;
use crate::hypervisor::Hypervisor;
use crate::socket::{SOCKET, Server};
use crate::store::connection::Connection;

/// Held as long as the daemon runs.
const LOCK: &str = "/run/xen/pcidom.lock";

/// The process's nice value: a guest that enables an interrupt waits for the daemon, 1.5 s at
/// most, and must not lose it to whatever else dom0 does.
const PRIORITY: i32 = -10;

/// The wall's time at the start, and steady time from there: numbers made of it aren't used
/// again by the next daemon.
struct Clock {
    base: u64,
    start: std::time::Instant,
}

impl Clock {
    fn new() -> Self {
        let base = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let base = u64::try_from(base.as_nanos()).unwrap_or_default();
        Self { base, start: std::time::Instant::now() }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.base).after(self.start.elapsed())
    }
}

/// Takes the lock, or says who has it.
fn lock(path: &Path) -> anyhow::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| {
            format!("{} can't be made: run pcidomctl daemon as root", directory.display())
        })?;
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| {
            format!("{} can't be opened: run pcidomctl daemon as root", path.display())
        })?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        // Only for the message.
        let _ = file.read_to_string(&mut holder);
        bail!(
            "a pcidomctl daemon runs already (process {}): one per host serves all pcidoms, \
             name them with --pcidom",
            holder.trim()
        );
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

struct Parts {
    xen: Xenctrl,
    host: Sysfs,
    store: Connection,
    clock: Clock,
}

impl Parts {
    fn env(&mut self) -> Env<'_> {
        Env {
            xen: &mut self.xen,
            host: &mut self.host,
            store: &mut self.store,
            now: self.clock.now(),
        }
    }
}

/// What Xen says of itself. What it doesn't say is logged, and unknown.
fn protection(xen: &mut Xenctrl, allow_no_intremap: bool) -> Protection {
    let iommu = match xen.has_directio() {
        Ok(true) => Found::Yes,
        Ok(false) => Found::No,
        Err(error) => {
            log::warn!("whether there is an IOMMU can't be told: {error}");
            Found::Unknown
        }
    };
    let remapping = match xen.console_log() {
        Ok(log) => remapping_in_log(&log),
        Err(error) => {
            log::warn!("Xen's log can't be read: {error}");
            Found::Unknown
        }
    };
    Protection { iommu, remapping, allow_no_intremap }
}

/// Runs the daemon until a signal ends it. Loans live on without it; the next one takes
/// them up.
pub fn run(names: Vec<String>, allow_no_intremap: bool) -> anyhow::Result<()> {
    let _lock = lock(Path::new(LOCK))?;
    let xen = Xenctrl::open()?;
    let store = Connection::open().context("XenStore can't be reached")?;
    let mut parts = Parts { xen, host: Sysfs::default(), store, clock: Clock::new() };
    parts.xen.domain(pcidom_xenbus::DomId::DOM0).context("Xen does not answer")?;
    let mut server = Server::bind(Path::new(SOCKET))
        .with_context(|| format!("{SOCKET} can't be made"))?;
    let (mut signals, signalled) = UnixStream::pair()?;
    signals.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, signalled.try_clone()?)?;
    }
    // Not fatal: it only answers later when dom0 is busy.
    if let Err(error) = rustix::process::setpriority_process(None, PRIORITY) {
        log::warn!("no higher priority for this process: {error}");
    }
    let protection = protection(&mut parts.xen, allow_no_intremap);
    let mut daemon = Daemon::new(names.clone()).protected_by(protection);
    daemon.start(&mut parts.env())?;
    log::info!("serving pcidoms named {}; verbs at {SOCKET}", names.join(", "));
    while matches!(signals.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    {
        let readable = wait(&parts, &server, &signals, daemon.next_deadline())?;
        let fired = parts.store.take_fired(readable).context("XenStore is gone")?;
        for fired in fired {
            daemon.fired(&mut parts.env(), &fired);
        }
        let verbs = server.take_verbs();
        if !verbs.is_empty() {
            // Whoever asks has seen what XenStore says, and so must we.
            for fired in parts.store.catch_up().context("XenStore is gone")? {
                daemon.fired(&mut parts.env(), &fired);
            }
        }
        for (client, verb) in verbs {
            daemon.ask(&mut parts.env(), client, &verb);
        }
        daemon.tick(&mut parts.env());
        while let Some((client, reply)) = daemon.next_reply() {
            server.reply(client, &reply);
        }
        server.flush();
    }
    log::info!("ends; what is lent stays lent, the next daemon takes it up");
    Ok(())
}

/// Waits for something to do; whether it is XenStore that has sent something.
fn wait(
    parts: &Parts,
    server: &Server,
    signals: &UnixStream,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    let mut waiting: Vec<(BorrowedFd<'_>, bool)> =
        vec![(parts.store.as_fd(), false), (signals.as_fd(), false)];
    waiting.extend(server.descriptors());
    let mut descriptors: Vec<PollFd<'_>> = waiting
        .iter()
        .map(|(descriptor, writes)| {
            let writes = if *writes { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::from_borrowed_fd(*descriptor, PollFlags::IN | writes)
        })
        .collect();
    let timeout = if parts.store.has_fired() {
        Some(Duration::ZERO)
    } else {
        deadline.map(|deadline| deadline.since(parts.clock.now()))
    };
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    match poll(&mut descriptors, timeout.as_ref()) {
        Ok(_) => Ok(descriptors.first().is_some_and(|store| !store.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::lock;

    #[test]
    fn a_second_daemon_is_told_who_runs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xen/pcidom.lock");
        let first = lock(&path).unwrap();
        let text = lock(&path).unwrap_err().to_string();
        assert!(text.contains("runs already"), "{text}");
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        assert!(text.contains("--pcidom"), "{text}");
        drop(first);
        lock(&path).unwrap();
    }

    #[test]
    fn where_the_lock_can_not_be_one_is_told_to_be_root() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        // A file where a directory should be, and a directory where a file should be.
        for path in [file.join("lock"), directory.path().into()] {
            let text = lock(&path).unwrap_err().to_string();
            assert!(text.contains("run pcidomctl daemon as root"), "{text}");
        }
    }
}
