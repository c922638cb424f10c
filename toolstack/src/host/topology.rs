//! Which port is right above a device, and what else is below that port.
//!
//! sysfs nests devices as they are wired: the directory of a function is in that of the port
//! above it, and on a root bus in that of the host bridge, `pciDDDD:BB`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pcidom_pci::Sbdf;

use super::HostError;

/// How deep bridges may be nested: a bus has one of 256 numbers, and each level takes one.
const MAX_DEPTH: u32 = 256;

/// What is right above a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Above {
    /// The host bridge: a root bus is never reset.
    RootBus,
    /// This port.
    Port(Sbdf),
}

/// A function below a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Below {
    /// Which.
    pub device: Sbdf,
    /// The driver in dom0 that has it, if one does.
    pub driver: Option<String>,
}

fn failed(device: Sbdf) -> impl Fn(io::Error) -> HostError {
    move |error| HostError(format!("{device}: where it is in sysfs: {error}"))
}

/// A directory's name as a function's address, written in full and in no other way. Ports
/// have others beside them, as `0000:00:1c.0:pcie001`.
fn address(path: &Path) -> Option<Sbdf> {
    let name = path.file_name()?.to_str()?;
    name.parse().ok().filter(|device: &Sbdf| device.to_string() == name)
}

/// Whether this is the directory of a host bridge.
fn is_host_bridge(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let numbers = name.strip_prefix("pci").and_then(|rest| rest.split_once(':'));
    let hexadecimal = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    numbers.is_some_and(|(segment, bus)| hexadecimal(segment) && hexadecimal(bus))
}

/// Where the device really is.
fn home(root: &Path, device: Sbdf) -> Result<PathBuf, HostError> {
    let link = root.join("bus/pci/devices").join(device.to_string());
    fs::canonicalize(link).map_err(failed(device))
}

/// What is right above a device, in the sysfs at `root`.
pub(super) fn above(root: &Path, device: Sbdf) -> Result<Above, HostError> {
    let home = home(root, device)?;
    let parent = home.parent().unwrap_or(&home);
    match address(parent) {
        Some(port) => Ok(Above::Port(port)),
        None if is_host_bridge(parent) => Ok(Above::RootBus),
        None => {
            Err(HostError(format!("{device}: nobody knows what is above it in sysfs")))
        }
    }
}

/// All functions below a port, at any depth, by address.
pub(super) fn below(root: &Path, port: Sbdf) -> Result<Vec<Below>, HostError> {
    let mut found = Vec::new();
    collect(&home(root, port)?, MAX_DEPTH, &mut found).map_err(failed(port))?;
    found.sort();
    Ok(found)
}

fn collect(directory: &Path, depth: u32, found: &mut Vec<Below>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        // Links lead elsewhere: to suppliers, to functions of the same device.
        let Some(device) = address(&path).filter(|_| path.is_dir() && !path.is_symlink())
        else {
            continue;
        };
        let driver = fs::read_link(path.join("driver")).ok();
        let driver = driver.and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
        found.push(Below { device, driver });
        match depth.checked_sub(1) {
            Some(depth) => collect(&path, depth, found)?,
            None => return Err(io::Error::other("bridges below bridges without end")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::{Above, Below};
    use crate::host::Host;
    use crate::host::sysfs::Sysfs;

    /// A function in sysfs, below these ones.
    fn function(root: &Path, place: &str, driver: Option<&str>) {
        let home = root.join("devices").join(place);
        fs::create_dir_all(&home).unwrap();
        let devices = root.join("bus/pci/devices");
        fs::create_dir_all(&devices).unwrap();
        let name = home.file_name().unwrap();
        symlink(&home, devices.join(name)).unwrap();
        if let Some(driver) = driver {
            let driver = Path::new("../../../bus/pci/drivers").join(driver);
            symlink(driver, home.join("driver")).unwrap();
        }
    }

    fn tree(root: &Path) {
        let port = "pci0000:00/0000:00:1c.4";
        function(root, "pci0000:00/0000:00:02.0", Some("i915"));
        function(root, port, Some("pcieport"));
        function(root, &format!("{port}/0000:02:00.1"), None);
        function(root, &format!("{port}/0000:02:00.0"), Some("pciback"));
        function(root, &format!("{port}/0000:02:00.0/0000:03:01.0"), Some("nvme"));
        // Neither of them is a function, and a link is none below this port.
        let port = root.join("devices").join(port);
        fs::create_dir_all(port.join("0000:00:1c.4:pcie001")).unwrap();
        fs::create_dir_all(port.join("2:0.7")).unwrap();
        symlink(root.join("devices/pci0000:00/0000:00:02.0"), port.join("0000:00:02.0"))
            .unwrap();
    }

    #[test]
    fn the_port_right_above_a_device_is_its_parent() {
        let root = tempfile::tempdir().unwrap();
        tree(root.path());
        let mut host = Sysfs::at(root.path());
        let mut above = |device: &str| host.above(device.parse().unwrap());
        let port = |port: &str| Ok(Above::Port(port.parse().unwrap()));
        assert_eq!(above("02:00.1"), port("00:1c.4"));
        assert_eq!(above("03:01.0"), port("02:00.0"));
        assert_eq!(above("00:1c.4"), Ok(Above::RootBus));
        assert!(above("05:00.0").is_err(), "it is not there");
        function(root.path(), "platform/0000:07:00.0", None);
        let error = above("07:00.0").unwrap_err().to_string();
        assert!(error.contains("nobody knows what is above it"), "{error}");
        for name in ["pci", "pci0000", "pci0000:", "pci:00", "pci0000:0g", "pcix0:00"] {
            assert!(!super::is_host_bridge(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn everything_below_a_port_counts_with_its_driver() {
        let root = tempfile::tempdir().unwrap();
        tree(root.path());
        let mut host = Sysfs::at(root.path());
        let mut below = |port: &str| host.below(port.parse().unwrap());
        let entry = |device: &str, driver: Option<&str>| Below {
            device: device.parse().unwrap(),
            driver: driver.map(Into::into),
        };
        let all = [
            entry("02:00.0", Some("pciback")),
            entry("02:00.1", None),
            entry("03:01.0", Some("nvme")),
        ];
        assert_eq!(below("00:1c.4"), Ok(all.into()));
        assert_eq!(below("02:00.1"), Ok(Vec::new()));
        assert!(below("05:00.0").is_err());
    }
}
