//! A scenario: a folder in `ci/scenarios/` with a `scenario.conf` and scripts.

use super::device::Device;
use super::niceness::Niceness;
use crate::soak::Soak;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Emulated CPUs without a word about them: one for dom0, one for whom it waits for.
const CPUS: u8 = 2;

/// Emulated CPUs run as threads of the host, and more than this only wait for each other.
const MOST_CPUS: u8 = 8;

/// One scenario, as its folder describes it.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// The folder's name.
    pub(crate) name: String,
    /// One sentence for people.
    pub(crate) about: String,
    /// Where its scripts are.
    pub(crate) folder: PathBuf,
    /// The run is killed after this; it is a hang guard, not an expectation.
    pub(crate) timeout: Duration,
    /// Whether the project's own programs are needed in dom0.
    pub(crate) needs_pcidom: bool,
    /// Whether it has a command of its own and is no part of `cargo xtask test`.
    pub(crate) on_demand: bool,
    /// Whether its deadlines or figures are of a kind that another machine beside it spoils.
    pub(crate) alone: bool,
    /// Whether dom0 has a serial port whose other end is pcidom's.
    pub(crate) types_on_com2: bool,
    /// Whether dom0 gets the frontend that asks what Linux never asks.
    pub(crate) needs_front: bool,
    /// Whether guests have `lspci` and `setpci`.
    pub(crate) lspci: bool,
    /// How many config spaces must be compared with the register table.
    pub(crate) config: usize,
    /// How many rounds of random work, and from which seed.
    pub(crate) soak: Option<Soak>,
    /// A test variant of the image that must be in dom0 too.
    pub(crate) image: Option<String>,
    /// A test variant of `pcidomctl` that must be in dom0 too.
    pub(crate) tool: Option<String>,
    /// What Xen's command line has at its end.
    pub(crate) xen: String,
    /// How many CPUs the machine has.
    pub(crate) cpus: u8,
    /// Which of them let the others go first.
    pub(crate) nice: Vec<Niceness>,
    /// The PCI devices of the machine, in bus order.
    pub(crate) devices: Vec<Device>,
    /// How many regions guests must report per disk, at least.
    pub(crate) regions: Vec<(String, usize)>,
}

impl Scenario {
    /// Reads one scenario.
    pub(crate) fn load(workspace: &Workspace, name: &str) -> Result<Self> {
        let folder = workspace.ci("scenarios").join(name);
        let path = folder.join("scenario.conf");
        let text = fs::read_to_string(&path).with_context(|| {
            format!("there is no scenario {name} ({})", path.display())
        })?;
        Self::parse(name, &folder, &text)
            .with_context(|| format!("in {}", path.display()))
    }

    /// Reads all of them, in the order of their names.
    pub(crate) fn load_all(workspace: &Workspace) -> Result<Vec<Self>> {
        let mut names = Vec::new();
        let folder = workspace.ci("scenarios");
        for entry in fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
        {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        names.iter().map(|name| Self::load(workspace, name)).collect()
    }

    /// Whether anything has to be built for it besides what a host gets.
    pub(crate) fn needs_more_built(&self) -> bool {
        self.needs_front || self.image.is_some() || self.tool.is_some()
    }

    fn parse(name: &str, folder: &Path, text: &str) -> Result<Self> {
        let mut scenario = Self {
            name: name.to_owned(),
            about: String::new(),
            folder: folder.to_owned(),
            timeout: Duration::from_secs(240),
            needs_pcidom: true,
            on_demand: false,
            alone: false,
            needs_front: false,
            lspci: false,
            types_on_com2: false,
            config: 0,
            soak: None,
            image: None,
            tool: None,
            xen: String::new(),
            cpus: CPUS,
            nice: Vec::new(),
            devices: Vec::new(),
            regions: Vec::new(),
        };
        for (number, line) in (1_u32..).zip(text.lines()) {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                scenario
                    .setting(line)
                    .with_context(|| format!("line {number}: {line}"))?;
            }
        }
        ensure!(!scenario.about.is_empty(), "`about` is missing");
        Device::check(&scenario.devices)?;
        for nice in &scenario.nice {
            ensure!(nice.cpu() < scenario.cpus, "`nice` names CPU {}", nice.cpu());
        }
        for (disk, _) in &scenario.regions {
            let known = scenario.devices.iter().any(|d| d.name == *disk);
            ensure!(known, "`regions` names {disk}, which is no device");
        }
        Ok(scenario)
    }

    fn setting(&mut self, line: &str) -> Result<()> {
        let (key, value) = line.split_once('=').context("expected `key = value`")?;
        let (key, value) = (key.trim(), value.trim());
        match key {
            "about" => value.clone_into(&mut self.about),
            "timeout" => self.timeout = Duration::from_secs(value.parse()?),
            "image" => self.image = Some(value.to_owned()),
            "tool" => self.tool = Some(value.to_owned()),
            "xen" => value.clone_into(&mut self.xen),
            "cpus" => {
                self.cpus = value.parse()?;
                ensure!((1..=MOST_CPUS).contains(&self.cpus), "1 to {MOST_CPUS} CPUs");
            }
            "device" => self.devices.push(Device::parse(value)?),
            "pcidom" => self.needs_pcidom = yes_or_no(value)?,
            "on_demand" => self.on_demand = yes_or_no(value)?,
            "alone" => self.alone = yes_or_no(value)?,
            "lspci" => self.lspci = yes_or_no(value)?,
            "front" => self.needs_front = yes_or_no(value)?,
            "config" => self.config = value.parse()?,
            "com2" => self.types_on_com2 = yes_or_no(value)?,
            "soak" => self.soak = Some(Soak::parse(value)?),
            "nice" => self.nice.push(Niceness::parse(value)?),
            "regions" => {
                let (disk, count) =
                    value.split_once(' ').context("expected `DISK COUNT`")?;
                self.regions.push((disk.to_owned(), count.trim().parse()?));
            }
            _ => bail!("unknown key {key}"),
        }
        Ok(())
    }
}

fn yes_or_no(word: &str) -> Result<bool> {
    match word {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => bail!("expected yes or no"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::DeviceKind;
    use super::*;

    fn parse(text: &str) -> Result<Scenario> {
        Scenario::parse("x", Path::new("/x"), text)
    }

    #[test]
    fn reads_everything() {
        let scenario = parse(
            "# a remark\nabout = two things\ntimeout = 60\npcidom = no\n\
             image = probe-bar\ntool = cached-pirqs\nfront = yes\n\
             device = disk0 nvme 16M msix_qsize=129\ndevice = net0 e1000e\n\
             regions = disk0 2\non_demand = yes\nalone = yes\nsoak = 8 1\n\
             xen = iommu=0 extra_guest_irqs=4\ncpus = 4\nnice = 3 10\n",
        )
        .unwrap();
        assert!(scenario.on_demand && scenario.alone);
        assert_eq!(scenario.xen, "iommu=0 extra_guest_irqs=4");
        assert_eq!((scenario.cpus, scenario.nice.len()), (4, 1));
        assert_eq!(scenario.soak, Some(Soak { rounds: 8, seed: 1 }));
        assert_eq!(scenario.about, "two things");
        assert_eq!(scenario.timeout, Duration::from_secs(60));
        assert!(!scenario.needs_pcidom);
        assert_eq!(scenario.image.as_deref(), Some("probe-bar"));
        assert_eq!(scenario.devices.len(), 2);
        assert_eq!(scenario.devices[0].kind, DeviceKind::Nvme { mebibytes: 16 });
        assert_eq!(scenario.devices[0].properties, ["msix_qsize=129"]);
        assert!(scenario.needs_front && scenario.devices[1].properties.is_empty());
        assert_eq!(scenario.tool.as_deref(), Some("cached-pirqs"));
        assert_eq!(scenario.regions, [("disk0".to_owned(), 2)]);
    }

    #[test]
    fn every_scenario_can_be_read_and_has_its_script() {
        let scenarios = Scenario::load_all(&Workspace::find().unwrap()).unwrap();
        assert!(scenarios.len() > 10);
        for scenario in scenarios {
            assert!(scenario.folder.join("dom0.sh").is_file(), "{}", scenario.name);
        }
    }

    #[test]
    fn refuses_nonsense() {
        for text in [
            "",
            "about",
            "about = x\ncolour = red",
            "about = x\ndevice = d nvme 16",
            "about = x\ndevice = d-0 e1000e",
            "about = x\ndevice = d igb",
            "about = x\ndevice = d e1000e behind=wall",
            "about = x\ndevice = d e1000e with=d",
            "about = x\ndevice = d e1000e mac=1,addr=2",
            "about = x\npcidom = maybe",
            "about = x\nsoak = 8",
            "about = x\ncpus = 0",
            "about = x\ncpus = 9",
            "about = x\nnice = 2 10",
            "about = x\nregions = disk0 1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
