//! How long something takes to show an effect. Nothing here looks again and again: that takes
//! time from what is measured, on the same CPU.

use crate::console::Log;
use crate::wait::readable;
use crate::{Failure, result};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketType, bind, recv, socket};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The kernel's own messages, not those of a device manager.
const FROM_THE_KERNEL: u32 = 1;

/// Longer than the kernel makes one.
const MESSAGE: usize = 8192;

/// Starts the command and reports when it has ended and when the file has the text, in
/// what was written since.
pub(crate) fn until(
    path: &str,
    text: &str,
    seconds: u64,
    command: &[&str],
) -> Result<(), Failure> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let mut log = Log::open_at_end(path, seconds)?;
    let start = Instant::now();
    let mut child = Command::new(program).args(arguments).spawn()?;
    let process = Pid::from_child(&child);
    let child =
        thread::spawn(move || child.wait().map(|status| (status, start.elapsed())));
    while !log.text.contains(text) {
        if !log.grow()? {
            kill_process(process, Signal::KILL).ok();
            return Err(format!("{path} has no {text} after {seconds} s").into());
        }
    }
    let seen = start.elapsed();
    let (status, ended) = child.join().map_err(|_| "waiting has panicked")??;
    if !status.success() {
        return Err(format!("{program} failed: {status}").into());
    }
    for (metric, time) in [("returned", ended), ("seen", seen)] {
        result(metric, time.as_nanos());
    }
    Ok(())
}

/// Waits until the folder, one of sysfs, has something in it.
pub(crate) fn present(folder: &str, seconds: u64) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    // Before the first look, so that nothing comes in between. The kernel sends a message
    // about a device after its entries are there.
    let events = socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(KOBJECT_UEVENT))?;
    bind(&events, &SocketAddrNetlink::new(0, FROM_THE_KERNEL))?;
    while fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none()) {
        if !readable(&events, deadline)? {
            return Err(format!("{folder} is empty after {seconds} s").into());
        }
        match recv(&events, &mut [0; MESSAGE], RecvFlags::empty()) {
            // More has happened than the kernel kept.
            Ok(_) | Err(Errno::NOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
