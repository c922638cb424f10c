//! The PCI devices of a scenario's machine, and where each is.

use anyhow::{Context, Result, bail, ensure};
use std::process::Command;

/// One emulated PCI device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its name in scripts, and an NVMe drive's serial number.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: DeviceKind,
    /// Where it is.
    pub(crate) place: Place,
    /// More properties of QEMU's device, each `NAME=VALUE`.
    pub(crate) properties: Vec<String>,
    /// And of its root port.
    pub(crate) port_properties: Vec<String>,
    /// And of the drive behind it.
    pub(crate) drive_properties: Vec<String>,
}

/// The kinds of devices that work in the bed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    /// An NVMe drive with so many MiB.
    Nvme {
        /// Capacity.
        mebibytes: usize,
    },
    /// A SATA controller with one disk of so many MiB: one message interrupt, by MSI.
    Ahci {
        /// Capacity.
        mebibytes: usize,
    },
    /// A network card on QEMU's own user-mode network.
    E1000e,
    /// The same, as a conventional PCI function: no message interrupts, no PCI Express.
    Rtl8139,
}

/// Where a device is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Behind a root port of its own.
    RootPort,
    /// Behind a switch of its own, below a root port.
    Switch,
    /// On the conventional bus of a bridge of its own, below a root port.
    Bridge,
    /// The next function of another device.
    With(String),
}

/// Where a device has come to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Number of its root port, from 1.
    pub(crate) root: usize,
    /// Its bus number.
    bus: usize,
    /// Its slot there.
    slot: usize,
    /// Its function.
    function: usize,
    /// The address of the port or bridge right above.
    pub(crate) port: String,
    /// Whether another function follows.
    more: bool,
}

impl Spot {
    /// Its address.
    pub(crate) fn address(&self) -> String {
        format!("0000:{:02x}:{:02x}.{}", self.bus, self.slot, self.function)
    }

    /// What QEMU's device has to be told of it.
    pub(crate) fn properties(&self) -> String {
        let more = if self.more { ",multifunction=on" } else { "" };
        format!("bus=below{},addr={:x}.{:x}{more}", self.root, self.slot, self.function)
    }
}

/// Finds the place of every device: root port N is 00:N.0, and firmware numbers the buses
/// as it meets them.
pub(crate) fn spots(devices: &[Device]) -> Vec<Spot> {
    let mut spots: Vec<Spot> = Vec::new();
    let (mut root, mut last_bus) = (0, 0);
    for device in devices {
        if let Place::With(first) = &device.place {
            let of = |name: &str| devices.iter().position(|d| d.name == name);
            let family = |d: &Device| d.name == *first || d.place == device.place;
            let known = devices.iter().take(spots.len());
            let function = known.filter(|d| family(d)).count();
            if let Some(spot) = of(first).and_then(|index| spots.get_mut(index)) {
                spot.more = true;
                let (root, bus, slot, port) =
                    (spot.root, spot.bus, spot.slot, spot.port.clone());
                spots.push(Spot { root, bus, slot, function, port, more: false });
            }
            continue;
        }
        root += 1;
        let above = last_bus;
        let (buses, slot) = match device.place {
            Place::Switch => (3, 0),
            // Slot 0 of the bridge is its own hotplug controller's.
            Place::Bridge => (2, 1),
            Place::RootPort | Place::With(_) => (1, 0),
        };
        last_bus += buses;
        let port = match buses {
            1 => format!("0000:00:{root:02x}.0"),
            _ => format!("0000:{:02x}:00.0", above + buses - 1),
        };
        spots.push(Spot { root, bus: last_bus, slot, function: 0, port, more: false });
    }
    spots
}

/// Adds the ports above a device to QEMU's command line; what is right above has the id
/// `belowN`.
pub(crate) fn add_ports(qemu: &mut Command, device: &Device, root: usize) {
    let mut add = |text: String| {
        qemu.arg("-device").arg(text);
    };
    let id = match device.place {
        Place::With(_) => return,
        Place::RootPort => "below",
        Place::Switch | Place::Bridge => "root",
    };
    let extra: String =
        device.port_properties.iter().map(|property| format!(",{property}")).collect();
    add(format!(
        "pcie-root-port,id={id}{root},chassis={root},slot={root},addr={root:x}{extra}"
    ));
    match device.place {
        Place::Switch => {
            add(format!("x3130-upstream,id=up{root},bus=root{root}"));
            let chassis = root + 100;
            add(format!(
                "xio3130-downstream,id=below{root},bus=up{root},chassis={chassis},slot=0"
            ));
        }
        Place::Bridge => add(format!("pcie-pci-bridge,id=below{root},bus=root{root}")),
        Place::RootPort | Place::With(_) => {}
    }
}

impl DeviceKind {
    /// How large its disk is, if it has one.
    pub(crate) fn disk(&self) -> Option<usize> {
        match self {
            Self::Nvme { mebibytes } | Self::Ahci { mebibytes } => Some(*mebibytes),
            Self::E1000e | Self::Rtl8139 => None,
        }
    }
}

impl Device {
    /// Reads `NAME nvme 16M`, `NAME ahci 16M`, `NAME e1000e` or `NAME rtl8139`, and properties after it:
    /// `behind=switch`, `behind=bridge` and `with=NAME` say where it is, `port.KEY=VALUE` is
    /// for its root port, `drive.KEY=VALUE` for what keeps its data, all others are for the device.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (options, words): (Vec<_>, Vec<_>) =
            text.split_whitespace().partition(|word| word.contains('='));
        let (name, kind) = match words.as_slice() {
            [name, kind @ ("nvme" | "ahci"), size] => {
                let size = size.strip_suffix('M').context("expected a size like 16M")?;
                let mebibytes = size.parse()?;
                let is_nvme = *kind == "nvme";
                let nvme = DeviceKind::Nvme { mebibytes };
                (name, if is_nvme { nvme } else { DeviceKind::Ahci { mebibytes } })
            }
            [name, "e1000e"] => (name, DeviceKind::E1000e),
            [name, "rtl8139"] => (name, DeviceKind::Rtl8139),
            _ => bail!("expected `NAME nvme|ahci SIZE` or `NAME e1000e|rtl8139`"),
        };
        // The name becomes part of a shell variable and of QEMU options.
        ensure!(
            name.chars().all(|c| c.is_ascii_alphanumeric()),
            "a device's name has letters and digits only"
        );
        // A comma would begin another option of QEMU.
        ensure!(!text.contains(','), "one word for each property");
        let mut device = Self {
            name: (*name).to_owned(),
            kind,
            place: Place::RootPort,
            properties: Vec::new(),
            port_properties: Vec::new(),
            drive_properties: Vec::new(),
        };
        for option in options {
            match option.split_once('=') {
                Some(("behind", "switch")) => device.place = Place::Switch,
                Some(("behind", "bridge")) => device.place = Place::Bridge,
                Some(("behind", other)) => {
                    bail!("behind is switch or bridge, not {other}")
                }
                Some(("with", first)) => device.place = Place::With(first.to_owned()),
                _ => device.property(option),
            }
        }
        Ok(device)
    }

    fn property(&mut self, text: &str) {
        let (properties, property) = match text.split_once('.') {
            Some(("port", property)) => (&mut self.port_properties, property),
            Some(("drive", property)) => (&mut self.drive_properties, property),
            _ => (&mut self.properties, text),
        };
        properties.push(property.to_owned());
    }

    /// Refuses a device that is to be with one that does not come before it.
    pub(crate) fn check(devices: &[Self]) -> Result<()> {
        for (index, device) in devices.iter().enumerate() {
            if let Place::With(first) = &device.place {
                let before = devices.iter().take(index).find(|d| d.name == *first);
                let before = before.with_context(|| {
                    format!("{} is with {first}, which is not above it", device.name)
                })?;
                ensure!(
                    !matches!(before.place, Place::With(_)),
                    "{first} is itself with another one"
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &[&str]) -> Vec<Device> {
        lines.iter().map(|line| Device::parse(line).unwrap()).collect()
    }

    #[test]
    fn devices_of_their_own_ports_sit_on_consecutive_buses() {
        let devices =
            all(&["a e1000e", "b nvme 16M x-a.b=129 port.hotplug=off drive.c.d=8"]);
        assert_eq!(devices[1].properties, ["x-a.b=129"]);
        assert_eq!(devices[1].port_properties, ["hotplug=off"]);
        assert_eq!(devices[1].drive_properties, ["c.d=8"]);
        let spots = spots(&devices);
        let address = |n: usize| (spots[n].address(), spots[n].port.clone());
        assert_eq!(address(0), ("0000:01:00.0".into(), "0000:00:01.0".into()));
        assert_eq!(address(1), ("0000:02:00.0".into(), "0000:00:02.0".into()));
    }

    #[test]
    fn switches_and_bridges_take_buses_and_functions_take_none() {
        let devices = all(&[
            "a nvme 16M behind=switch",
            "b rtl8139 behind=bridge",
            "c nvme 16M",
            "d e1000e with=c",
            "e e1000e with=c",
        ]);
        let spots = spots(&devices);
        let found: Vec<_> = spots.iter().map(|s| (s.address(), s.port.clone())).collect();
        let expected = [
            ("0000:03:00.0", "0000:02:00.0"),
            ("0000:05:01.0", "0000:04:00.0"),
            ("0000:06:00.0", "0000:00:03.0"),
            ("0000:06:00.1", "0000:00:03.0"),
            ("0000:06:00.2", "0000:00:03.0"),
        ];
        for ((address, port), (a, p)) in found.iter().zip(expected) {
            assert_eq!((address.as_str(), port.as_str()), (a, p));
        }
        assert_eq!(spots[2].properties(), "bus=below3,addr=0.0,multifunction=on");
        assert_eq!(spots[4].properties(), "bus=below3,addr=0.2");
    }

    #[test]
    fn a_device_is_only_with_one_before_it() {
        assert!(Device::check(&all(&["a e1000e", "b e1000e with=a"])).is_ok());
        for lines in [["a e1000e with=b", "b e1000e"], ["a e1000e", "b e1000e with=c"]] {
            assert!(Device::check(&all(&lines)).is_err());
        }
    }
}
