//! Xen's debug keys and its log: what `xl debug-keys` and `xl dmesg` do, in one process that has no
//! libraries to load, and only what was not taken before.
#![expect(unsafe_code, reason = "hypercalls")]

use std::fs;
use std::io::{self, ErrorKind, Write};

use crate::Failure;
use crate::privcmd::Privcmd;

/// Xen: `__HYPERVISOR_sysctl`, and of its commands `XEN_SYSCTL_readconsole` and `_debug_keys`.
const SYSCTL: u64 = 35;
const READ_CONSOLE: u32 = 1;
const DEBUG_KEYS: u32 = 7;

/// `XEN_SYSCTL_INTERFACE_VERSION` of the releases of Xen that the bed boots, and a few more: these
/// two commands have not changed. Xen refuses any version but its own.
const VERSIONS: std::ops::RangeInclusive<u32> = 0x15..=0x1f;

/// Taken at one time.
const ROOM: usize = 64 << 10;

/// Xen: `struct xen_sysctl`, its union as the words of the two commands.
#[repr(C)]
struct Sysctl {
    command: u32,
    version: u32,
    words: [u64; 16],
}

/// Presses the keys one after the other, if any, and prints what Xen's log has that was not taken
/// before. Where that begins is in the file `mark`.
pub(crate) fn print(keys: &str, mark: &str) -> Result<(), Failure> {
    let xen = Privcmd::open()?;
    if !keys.is_empty() {
        let mut words = [0; 16];
        words[0] = keys.as_ptr().addr().try_into()?;
        words[1] = keys.len().try_into()?;
        sysctl(&xen, DEBUG_KEYS, words)?;
    }
    let mut index: u32 = match fs::read_to_string(mark) {
        Ok(text) => text.trim().parse()?,
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(error.into()),
    };
    // Not zeros, which would be no memory yet.
    let mut room = vec![b' '; ROOM];
    let mut out = io::stdout().lock();
    loop {
        let mut words = [0; 16];
        // `incremental`, and from where.
        words[0] = 1 << 8 | u64::from(index) << 32;
        words[1] = room.as_mut_ptr().addr().try_into()?;
        words[2] = room.len().try_into()?;
        let [first, _, count, ..] = sysctl(&xen, READ_CONSOLE, words)?;
        index = u32::try_from(first >> 32)?;
        let count = usize::try_from(count & u64::from(u32::MAX))?;
        let text = room.get(..count).ok_or("Xen says that it wrote beyond the end")?;
        out.write_all(text)?;
        if count < ROOM {
            break;
        }
    }
    out.flush()?;
    fs::write(mark, index.to_string())?;
    Ok(())
}

/// The command's words afterwards.
fn sysctl(xen: &Privcmd, command: u32, words: [u64; 16]) -> Result<[u64; 16], Failure> {
    for version in VERSIONS {
        let mut sysctl = Sysctl { command, version, words };
        // SAFETY: that is how `xen_sysctl` is laid out, and its pointer is to memory of `print`,
        // of the length beside it, that was written before.
        match unsafe { xen.call(SYSCTL, None, &mut sysctl) } {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            result => return Ok(result.map(|()| sysctl.words)?),
        }
    }
    Err(format!("this Xen's sysctl has none of the versions {VERSIONS:#x?}").into())
}
