//! The emulated machine: a QEMU command line, and the running process.

use super::device::{self, DeviceKind};
use super::disk;
use super::recipe::Base;
use super::scenario::Scenario;
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// `conring_size` keeps every debug key's output readable with `xl dmesg`. The older scheduler,
/// since credit2 on emulated CPUs was seen to leave a runnable dom0 off both idle CPUs for
/// minutes while a domain was created (Xen 4.17, with stock parts only). The last two save
/// time; an emulated CPU does not speculate.
const XEN_ARGUMENTS: &str = "console=com1 com1=115200 dom0_mem=512M,max:512M \
    dom0_max_vcpus=1 loglvl=all guest_loglvl=all iommu=verbose,intremap noreboot \
    conring_size=4M sched=credit spec-ctrl=no bootscrub=no";

/// The one that Xen and its dom0 boot on in emulation. And with random numbers of its own, since
/// Linux gathers them for a second or two otherwise.
const CPU: &str = "qemu64,+rdrand";

/// What comes after the first two saves seconds of each boot, and no test is about it: of those,
/// one or two by bounce buffers of 8 MiB instead of 64, which Xen makes contiguous. A comma is
/// doubled, since one separates Xen's modules.
const DOM0_ARGUMENTS: &str = "console=hvc0 rdinit=/init swiotlb=4096 init_on_alloc=0 lsm= rodata=off \
    rcupdate.rcu_expedited=1 nowatchdog tsc=nowatchdog mitigations=off loglevel=5 noreplace-smp \
    cryptomgr.notests \
    initcall_blacklist=jent_mod_init,,crypto_kdf108_init,,init_kprobe_trace,,load_system_certificate_list";

/// Paths of one boot's own files.
#[derive(Debug)]
pub(crate) struct BootFiles {
    /// dom0's whole initramfs.
    pub(crate) initramfs: PathBuf,
    /// What comes out of the second serial port.
    pub(crate) com2: PathBuf,
    /// Where somebody can type there: no path, since that of a socket has to be short.
    pub(crate) typist: String,
    /// The disk dom0 writes its results to.
    pub(crate) results: PathBuf,
    /// The guests' initramfs, a disk as well.
    pub(crate) guest_initramfs: PathBuf,
}

/// Where the first serial port goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Console {
    /// To the harness.
    Piped,
    /// To the person at the terminal.
    Terminal,
}

/// Adds the machine to QEMU's command line.
///
/// Emulation, not KVM: nested Xen does not run everywhere, and a test bed that behaves
/// differently per machine is worse than a slow one.
pub(crate) fn describe(
    qemu: &mut Command,
    base: &Base,
    files: &BootFiles,
    scenario: &Scenario,
    disks: &Path,
    console: Console,
) {
    qemu.args(["-machine", "q35,accel=tcg", "-cpu", CPU, "-m", "4096"]);
    qemu.args(["-smp", &scenario.cpus.to_string()]);
    qemu.args(["-device", "intel-iommu,intremap=on"]);
    qemu.args(["-nic", "none", "-vga", "none", "-display", "none", "-no-reboot"]);
    match console {
        Console::Piped => qemu.args(["-monitor", "none", "-serial", "stdio"]),
        Console::Terminal => qemu.args(["-serial", "mon:stdio"]),
    };
    com2(qemu, files, scenario.types_on_com2);
    qemu.arg("-kernel").arg(base.hypervisor());
    // Xen takes the later of two options that contradict each other.
    qemu.arg("-append").arg(format!("{XEN_ARGUMENTS} {}", scenario.xen));
    // Modules are separated by commas, so a comma in a path is doubled.
    let module = |path: &Path| path.display().to_string().replace(',', ",,");
    qemu.arg("-initrd").arg(format!(
        "{} {DOM0_ARGUMENTS},{}",
        module(&base.kernel()),
        module(&files.initramfs)
    ));
    own_disks(qemu, base, files);
    for (device, spot) in scenario.devices.iter().zip(device::spots(&scenario.devices)) {
        device::add_ports(qemu, device, spot.root);
        let name = &device.name;
        if device.kind.disk().is_some() {
            let options = listed(&device.drive_properties);
            drive(qemu, name, &disk::image(disks, name), &options);
        }
        let model = match device.kind {
            DeviceKind::Nvme { .. } => format!("nvme,drive={name},serial={name}"),
            DeviceKind::Ahci { .. } => format!("ich9-ahci,id={name}"),
            DeviceKind::E1000e => card(qemu, "e1000e", name),
            DeviceKind::Rtl8139 => card(qemu, "rtl8139", name),
        };
        let properties = listed(&device.properties);
        qemu.arg("-device").arg(format!("{model},{}{properties}", spot.properties()));
        if let DeviceKind::Ahci { .. } = device.kind {
            let disk = format!("ide-hd,drive={name},serial={name},bus={name}.0");
            qemu.args(["-device", &disk]);
        }
    }
}

/// What comes after the first word of one of QEMU's options.
fn listed(properties: &[String]) -> String {
    properties.iter().map(|property| format!(",{property}")).collect()
}

/// The bed's own disks; dom0 tells them apart by their serial numbers. What guests are made of is
/// not in dom0's initramfs: that is copied three times in emulation before dom0 has it.
fn own_disks(qemu: &mut Command, base: &Base, files: &BootFiles) {
    drive(qemu, "results", &files.results, "");
    // A disk can't be read-only, but what is written needs not last.
    drive(qemu, "vmlinux", &base.kernel(), ",snapshot=on");
    drive(qemu, "initrd", &files.guest_initramfs, ",snapshot=on");
    for (port, name) in ["results", "vmlinux", "initrd"].iter().enumerate() {
        let disk = format!("ide-hd,drive={name},serial={name},bus=ide.{port}");
        qemu.args(["-device", &disk]);
    }
}

/// A network for a card, and the card.
fn card(qemu: &mut Command, model: &str, name: &str) -> String {
    // The user-mode network answers pings itself; nothing leaves QEMU.
    qemu.args(["-netdev", &format!("user,id={name},restrict=on")]);
    format!("{model},netdev={name}")
}

/// The second serial port: into a file, and if somebody types there, from and to a serial
/// card of dom0 as well.
fn com2(qemu: &mut Command, files: &BootFiles, typed: bool) {
    if !typed {
        qemu.arg("-serial").arg(format!("file:{}", files.com2.display()));
        return;
    }
    let name = format!("path={},abstract=on", files.typist);
    let log = files.com2.display().to_string().replace(',', ",,");
    qemu.arg("-chardev");
    qemu.arg(format!("socket,id=com2,{name},server=on,wait=off,logfile={log}"));
    qemu.args(["-chardev", &format!("socket,id=typist,{name}")]);
    qemu.args(["-serial", "chardev:com2"]);
    qemu.args(["-device", "pci-serial,chardev=typist,addr=1e"]);
}

fn drive(qemu: &mut Command, id: &str, path: &Path, options: &str) {
    let path = path.display().to_string().replace(',', ",,");
    qemu.arg("-drive");
    qemu.arg(format!("if=none,id={id},format=raw,file={path}{options}"));
}

/// A running QEMU that does not outlive its owner.
#[derive(Debug)]
pub(crate) struct Machine {
    child: Child,
}

impl Machine {
    /// Starts it, with the console as something to read from.
    pub(crate) fn start(mut command: Command) -> Result<(Self, impl Read + use<>)> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start QEMU")?;
        let console = child.stdout.take().context("QEMU has no console")?;
        Ok((Self { child }, console))
    }

    /// QEMU's process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended. Only for one whose console is closed: it waits for the end.
    pub(crate) fn ended(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("cannot learn how QEMU ended")
    }

    /// Types into the first serial port.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let keyboard = self.child.stdin.as_mut().context("QEMU has no input")?;
        keyboard.write_all(bytes)?;
        Ok(keyboard.flush()?)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Errors mean that it ended already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
