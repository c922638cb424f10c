//! What dom0's Linux knows of a device, and what its pciback lets through for it.

mod ecam;
mod facts;
pub mod sysfs;
mod topology;

use pcidom_pci::Sbdf;
use pcidom_xenbus::DomId;

pub use ecam::EcamRegion;
pub use facts::{Bar, BarKind, DeviceFacts, MsixTable, Unquiet};
pub use topology::{Above, Below};

/// dom0's view of a device can't be had, or can't be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// A register that pciback lets a frontend write, beyond those it always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirk {
    /// Offset in config space.
    pub offset: u16,
    /// Its width: 1, 2 or 4.
    pub bytes: u8,
}

impl Quirk {
    /// All bits of the register: pcidom's own table says which of them a guest may touch.
    pub const fn mask(self) -> u32 {
        match self.bytes {
            1 => 0xff,
            2 => 0xffff,
            _ => u32::MAX,
        }
    }
}

/// What pciback lets a frontend do with a device, beyond what it always does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Armed {
    /// Any write to what it has no rule for, until it lets go of the device.
    pub permissive: bool,
    /// Registers, until the device leaves its frontend.
    pub quirks: Vec<Quirk>,
}

/// A device as sysfs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawDevice {
    /// The lines of `resource`: start, end, flags.
    pub resources: Vec<[u64; 3]>,
    /// What `irq` says.
    pub irq: u32,
    /// The first bytes of `config`, at least the standard header.
    pub config: Vec<u8>,
    /// Whether dom0's pciback drives it.
    pub on_pciback: bool,
}

/// dom0.
pub trait Host {
    /// What libxl wrote down of a domain's configuration when it created it, as JSON; none
    /// if there is no such record.
    fn domain_config(&mut self, domain: DomId, uuid: &str) -> Option<String> {
        let _ = (domain, uuid);
        None
    }

    /// Reads all about a device. Config space comes from the hardware, not from a cache.
    fn device(&mut self, device: Sbdf) -> Result<RawDevice, HostError>;

    /// What is right above a device.
    fn above(&mut self, device: Sbdf) -> Result<Above, HostError> {
        let _ = device;
        Ok(Above::RootBus)
    }

    /// All functions below a port, at any depth, by address.
    fn below(&mut self, port: Sbdf) -> Result<Vec<Below>, HostError> {
        let _ = port;
        Ok(Vec::new())
    }

    /// Where firmware says that config space is in memory; nothing if it has no such table.
    fn ecam(&mut self) -> Result<Vec<EcamRegion>, HostError>;

    /// Makes pciback let MSI(-X) enable and these registers through, as far as it does not
    /// do so already. It forgets both when a device leaves a frontend.
    fn arm(&mut self, device: Sbdf, quirks: &[Quirk]) -> Result<(), HostError>;

    /// The same for a port, whose MSI is nobody's business.
    fn arm_port(&mut self, port: Sbdf, quirks: &[Quirk]) -> Result<(), HostError> {
        self.arm(port, quirks)
    }

    /// Makes pciback let any write through that it has no rule for. It can't be told to stop
    /// that before it lets go of the device.
    fn permit(&mut self, device: Sbdf) -> Result<(), HostError>;

    /// What pciback has been told to let through.
    fn armed(&mut self, device: Sbdf) -> Result<Armed, HostError>;

    /// Stops the device's DMA: bus master off, in hardware. A device that is not there, or
    /// does not answer, has none.
    fn stop_dma(&mut self, device: Sbdf) -> Result<(), HostError>;

    /// Keeps the device from using its interrupt line: INTx disable on, in hardware.
    fn disable_line(&mut self, device: Sbdf) -> Result<(), HostError>;
}
