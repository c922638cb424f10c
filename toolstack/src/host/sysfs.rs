//! dom0's sysfs.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use pcidom_pci::Sbdf;
use pcidom_xenbus::DomId;

use super::{
    Above, Armed, Below, EcamRegion, Host, HostError, Quirk, RawDevice, topology,
};

/// Linux's name for xen-pciback.
const DRIVER: &str = "bus/pci/drivers/pciback";
/// Its list of devices for which it lets everything through that it has no rule for.
const PERMISSIVE: &str = "permissive";
/// The firmware's table of config space in memory.
const MCFG: &str = "firmware/acpi/tables/MCFG";
/// pciback shows its lists as far as one page goes: a list about that long may be cut.
const PAGE_NEARLY: usize = 4000;

/// COMMAND (PCI 3.0, 6.2.2), and its bit Bus Master.
const COMMAND: u64 = 4;
const BUS_MASTER: u16 = 1 << 2;
const INTX_DISABLE: u16 = 1 << 10;

/// Where libxl keeps its records of domains.
const LIBXL: &str = "/var/lib/xen";

/// dom0's sysfs, below `root`, and libxl's records.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
    libxl: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self { root: "/sys".into(), libxl: LIBXL.into() }
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn failed(what: &str) -> impl Fn(io::Error) -> HostError {
    move |error| HostError(format!("{what}: {error}"))
}

impl Sysfs {
    /// A tree elsewhere, for tests.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { libxl: root.clone(), root }
    }

    fn driver(&self, file: &str) -> PathBuf {
        self.root.join(DRIVER).join(file)
    }

    fn show(&self, file: &str) -> Result<String, HostError> {
        fs::read_to_string(self.driver(file))
            .map_err(failed(&format!("pciback's {file} (is xen-pciback loaded?)")))
    }

    fn tell(&self, file: &str, line: &str) -> Result<(), HostError> {
        fs::write(self.driver(file), line)
            .map_err(failed(&format!("pciback's {file} took no `{line}`")))
    }
}

/// Whether the text of `quirks` has this field for the device: a line with its address
/// (without the segment), then lines with blanks in front, `offset:size:mask` each.
fn has_quirk(shown: &str, device: Sbdf, quirk: Quirk) -> bool {
    let wanted = format!("{:08x}:{:x}:{:08x}", quirk.offset, quirk.bytes, quirk.mask());
    fields(shown, device).any(|field| field == wanted)
}

/// The fields of one device in the text of `quirks`.
fn fields(shown: &str, device: Sbdf) -> impl Iterator<Item = &str> {
    let mut ours = false;
    let named = Sbdf::new(0, device.bus(), device.device(), device.function());
    shown.lines().filter_map(move |line| {
        if line.starts_with(|c: char| c.is_ascii_whitespace()) {
            return ours.then(|| line.trim());
        }
        ours = line.trim().parse().ok() == named;
        None
    })
}

/// A field that pciback was told of. Its own are in the list, too, without a mask.
fn quirk(field: &str) -> Option<Quirk> {
    let mut parts = field.split(':').map(|part| u32::from_str_radix(part, 16).ok());
    let [offset, bytes, mask] = [parts.next()??, parts.next()??, parts.next()??];
    // The line with a device's ids has four.
    let last = parts.next().is_none();
    let (offset, bytes) = (offset.try_into().ok()?, bytes.try_into().ok()?);
    (last && mask != 0).then_some(Quirk { offset, bytes })
}

/// Whether a list of addresses has this one.
fn lists(text: &str, device: Sbdf) -> bool {
    text.lines().any(|line| line.trim().parse() == Ok(device))
}

impl Sysfs {
    /// Changes bits of COMMAND in hardware, if the device is there and answers.
    fn change_command(
        &self,
        device: Sbdf,
        change: impl FnOnce(u16) -> u16,
    ) -> Result<(), HostError> {
        let path =
            self.root.join("bus/pci/devices").join(device.to_string()).join("config");
        let what = format!("{device}: COMMAND in sysfs");
        let file = match fs::OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&what)(error)),
        };
        let mut command = [0; 2];
        file.read_exact_at(&mut command, COMMAND).map_err(failed(&what))?;
        let command = u16::from_le_bytes(command);
        let changed = change(command);
        if command == u16::MAX || command == changed {
            return Ok(());
        }
        file.write_all_at(&changed.to_le_bytes(), COMMAND).map_err(failed(&what))
    }
}

impl Host for Sysfs {
    fn domain_config(&mut self, domain: DomId, uuid: &str) -> Option<String> {
        let is_uuid = uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let name = format!("userdata-d.{domain}.{uuid}.libxl-json");
        fs::read_to_string(self.libxl.join(name)).ok().filter(|_| is_uuid)
    }

    fn device(&mut self, device: Sbdf) -> Result<RawDevice, HostError> {
        let directory = self.root.join("bus/pci/devices").join(device.to_string());
        let text = |file: &str| {
            fs::read_to_string(directory.join(file))
                .map_err(failed(&format!("{device}: {file} in sysfs")))
        };
        let line = |line: &str| {
            let mut words = line.split_ascii_whitespace().map(number);
            Some([words.next()??, words.next()??, words.next()??])
        };
        let config =
            fs::read(directory.join("config")).map_err(failed("config in sysfs"))?;
        let resources: Option<Vec<_>> = text("resource")?.lines().map(line).collect();
        let irq = text("irq")?.trim().parse().ok();
        let (Some(resources), Some(irq)) = (resources, irq) else {
            return Err(HostError(format!("{device}: sysfs makes no sense")));
        };
        let driver = fs::read_link(directory.join("driver")).unwrap_or_default();
        let on_pciback = driver.file_name().is_some_and(|name| name == "pciback");
        Ok(RawDevice { resources, irq, config, on_pciback })
    }

    fn above(&mut self, device: Sbdf) -> Result<Above, HostError> {
        topology::above(&self.root, device)
    }

    fn below(&mut self, port: Sbdf) -> Result<Vec<Below>, HostError> {
        topology::below(&self.root, port)
    }

    fn ecam(&mut self) -> Result<Vec<EcamRegion>, HostError> {
        match fs::read(self.root.join(MCFG)) {
            Ok(table) => Ok(EcamRegion::parse(&table)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(MCFG)(error)),
        }
    }

    fn stop_dma(&mut self, device: Sbdf) -> Result<(), HostError> {
        self.change_command(device, |command| command & !BUS_MASTER)
    }

    fn disable_line(&mut self, device: Sbdf) -> Result<(), HostError> {
        self.change_command(device, |command| command | INTX_DISABLE)
    }

    fn arm(&mut self, device: Sbdf, quirks: &[Quirk]) -> Result<(), HostError> {
        const CONTROL: &str = "allow_interrupt_control";
        if !lists(&self.show(CONTROL)?, device) {
            self.tell(CONTROL, &device.to_string())?;
            if !lists(&self.show(CONTROL)?, device) {
                return Err(HostError(format!("pciback's {CONTROL} did not take")));
            }
        }
        self.arm_port(device, quirks)
    }

    fn arm_port(&mut self, device: Sbdf, quirks: &[Quirk]) -> Result<(), HostError> {
        for quirk in quirks {
            if has_quirk(&self.show("quirks")?, device, *quirk) {
                continue;
            }
            let Quirk { offset, bytes } = *quirk;
            let line = format!("{device}-{offset:08x}:{bytes:x}:{:08x}", quirk.mask());
            // Told twice, pciback keeps the first.
            self.tell("quirks", &line)?;
            let shown = self.show("quirks")?;
            if !has_quirk(&shown, device, *quirk) && shown.len() < PAGE_NEARLY {
                return Err(HostError(format!("pciback did not keep the quirk {line}")));
            }
        }
        Ok(())
    }

    fn permit(&mut self, device: Sbdf) -> Result<(), HostError> {
        if lists(&self.show(PERMISSIVE)?, device) {
            return Ok(());
        }
        self.tell(PERMISSIVE, &device.to_string())
    }

    fn armed(&mut self, device: Sbdf) -> Result<Armed, HostError> {
        let permissive = lists(&self.show(PERMISSIVE)?, device);
        let shown = self.show("quirks")?;
        let quirks = fields(&shown, device).filter_map(quirk).collect();
        Ok(Armed { permissive, quirks })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::{Sysfs, has_quirk};
    use crate::host::{Host, Quirk};

    #[test]
    fn a_device_is_read_from_sysfs() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("bus/pci/devices/0000:01:00.0");
        fs::create_dir_all(&device).unwrap();
        let line = "0x00000000fe600000 0x00000000fe603fff 0x0000000000140204\n";
        fs::write(device.join("resource"), line).unwrap();
        fs::write(device.join("irq"), "16\n").unwrap();
        fs::write(device.join("config"), [0; 64]).unwrap();
        symlink("../../../bus/pci/drivers/pciback", device.join("driver")).unwrap();
        let raw = Sysfs::at(root.path()).device("01:00.0".parse().unwrap()).unwrap();
        assert_eq!(raw.resources, [[0xfe60_0000, 0xfe60_3fff, 0x14_0204]]);
        assert_eq!((raw.irq, raw.on_pciback, raw.config.len()), (16, true, 64));
        fs::write(device.join("irq"), "many\n").unwrap();
        assert!(Sysfs::at(root.path()).device("01:00.0".parse().unwrap()).is_err());
    }

    #[test]
    fn dma_is_stopped_by_one_bit_of_command() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("bus/pci/devices/0000:01:00.0");
        fs::create_dir_all(&device).unwrap();
        let mut host = Sysfs::at(root.path());
        let stop = |host: &mut Sysfs, config: &[u8]| {
            fs::write(device.join("config"), config).unwrap();
            host.stop_dma("01:00.0".parse().unwrap()).unwrap();
            fs::read(device.join("config")).unwrap()
        };
        let after = stop(&mut host, &[1, 2, 3, 4, 0x06, 0x05, 7, 8]);
        assert_eq!(after, [1, 2, 3, 4, 0x02, 0x05, 7, 8]);
        let unplugged = [0xff; 8];
        assert_eq!(stop(&mut host, &unplugged), unplugged);
        host.stop_dma("02:00.0".parse().unwrap()).unwrap();
    }

    #[test]
    fn a_line_is_disabled_by_one_bit_of_command() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("bus/pci/devices/0000:01:00.0");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("config"), [1, 2, 3, 4, 0x06, 0x01, 7, 8]).unwrap();
        let mut host = Sysfs::at(root.path());
        host.disable_line("01:00.0".parse().unwrap()).unwrap();
        let after = fs::read(device.join("config")).unwrap();
        assert_eq!(after, [1, 2, 3, 4, 0x06, 0x05, 7, 8]);
    }

    #[test]
    fn a_port_gets_its_quirks_and_no_interrupt_control() {
        let root = tempfile::tempdir().unwrap();
        let driver = root.path().join("bus/pci/drivers/pciback");
        fs::create_dir_all(&driver).unwrap();
        let shown = "00:02.0\n\t\t0000003e:2:0000ffff\n";
        fs::write(driver.join("quirks"), shown).unwrap();
        fs::write(driver.join("allow_interrupt_control"), "").unwrap();
        let (port, control) =
            ("00:02.0".parse().unwrap(), Quirk { offset: 0x3e, bytes: 2 });
        let mut host = Sysfs::at(root.path());
        host.arm_port(port, &[control]).unwrap();
        let told = |file: &str| fs::read_to_string(driver.join(file)).unwrap();
        assert_eq!(told("allow_interrupt_control"), "");
        assert_eq!(told("quirks"), shown, "told already");
        // Here nothing is added to what is shown, so it can't have been kept.
        let slot = Quirk { offset: 0x58, bytes: 2 };
        let error = host.arm_port(port, &[control, slot]).unwrap_err().to_string();
        assert!(error.contains("0000:00:02.0-00000058:2:0000ffff"), "{error}");
    }

    #[test]
    fn what_pciback_was_told_is_told_from_its_own_fields() {
        let root = tempfile::tempdir().unwrap();
        let driver = root.path().join("bus/pci/drivers/pciback");
        fs::create_dir_all(&driver).unwrap();
        let own = "\t\t00000004:2:00000000\n\t\t0000000d:1:00000000\n";
        let shown = format!(
            "00:03.0\n\t8086:10d3:8086:0000\n{own}\t\t00000090:2:0000ffff\n\
             01:00.0\n\t1b36:0010:1af4:1100\n\t\t00000044:4:ffffffff\n{own}"
        );
        fs::write(driver.join("quirks"), shown).unwrap();
        fs::write(driver.join("permissive"), "0000:00:03.0\n").unwrap();
        let mut host = Sysfs::at(root.path());
        let mut armed = |text: &str| {
            let armed = host.armed(text.parse().unwrap()).unwrap();
            (armed.permissive, armed.quirks)
        };
        assert_eq!(armed("00:03.0"), (true, vec![Quirk { offset: 0x90, bytes: 2 }]));
        assert_eq!(armed("01:00.0"), (false, vec![Quirk { offset: 0x44, bytes: 4 }]));
        host.permit("01:00.0".parse().unwrap()).unwrap();
        let told = fs::read_to_string(driver.join("permissive")).unwrap();
        assert_eq!(told, "0000:01:00.0");
    }

    #[test]
    fn quirks_are_found_under_their_own_device_only() {
        let shown = "00:1c.0\n\t8086:10d3:8086:0000\n\t\t00000088:2:0000ffff\n\
                     01:00.0\n\t1b36:0010:1af4:1100\n\t\t00000068:2:0000ffff\n";
        let nvme = "01:00.0".parse().unwrap();
        assert!(has_quirk(shown, nvme, Quirk { offset: 0x68, bytes: 2 }));
        assert!(!has_quirk(shown, nvme, Quirk { offset: 0x88, bytes: 2 }));
    }
}
