//! The guest's PCI core: config accesses over the link, and what a scan asks.

use pcidom_pci::VirtualBdf;
use pcidom_pci::regs::{bar, capability, command, header, msix, status};
use pcidom_xenbus::pciif::{RawMsixEntry, RawOp, command as op};

use super::kernel::{Cpu, plain};
use super::state::Found;
use super::transport::Op;

/// Entries of a capability list that fit into 256 bytes, as Linux bounds its walk.
const MAX_CAPABILITIES: u32 = 48;

/// One function, seen over the link.
pub(super) struct Bus<'a> {
    pub(super) cpu: &'a Cpu,
    pub(super) at: VirtualBdf,
}

impl Bus<'_> {
    fn request(&self, cmd: u32, offset: u16, size: i32, value: u32) -> RawOp {
        let at = self.at.0;
        RawOp {
            cmd,
            err: 0,
            domain: at.segment().into(),
            bus: at.bus().into(),
            devfn: at.devfn().into(),
            offset: offset.into(),
            size,
            value,
        }
    }

    /// `pcifront_bus_read`: with its special case for a leaked -ENODEV.
    pub(super) async fn read(&self, offset: u16, size: i32) -> Option<u32> {
        let request = self.request(op::CONF_READ, offset, size, 0);
        let answer = self.cpu.op(plain(request)).await;
        match (answer.timed_out, answer.raw.err) {
            (false, 0) => Some(answer.raw.value),
            (false, -19) => Some(0),
            _ => None,
        }
    }

    /// `pcifront_bus_write`: whether it succeeded.
    pub(super) async fn write(&self, offset: u16, size: i32, value: u32) -> bool {
        let request = self.request(op::CONF_WRITE, offset, size, value);
        let answer = self.cpu.op(plain(request)).await;
        !answer.timed_out && answer.raw.err == 0
    }

    /// An op without arguments: error and value.
    pub(super) async fn simple(&self, cmd: u32) -> (i32, u32) {
        let answer = self.cpu.op(plain(self.request(cmd, 0, 0, 0))).await;
        if answer.timed_out { (-1, 0) } else { (answer.raw.err, answer.raw.value) }
    }

    /// `pci_frontend_enable_msix` for entries 0 to `count`: the vectors, or the error.
    pub(super) async fn enable_msix(&self, count: u32) -> Result<Vec<u16>, i32> {
        let entries = (0..count).filter_map(|entry| u16::try_from(entry).ok());
        let entries =
            entries.map(|entry| RawMsixEntry { vector: u16::MAX, entry }).collect();
        let raw = self.request(op::ENABLE_MSIX, 0, 0, count);
        let answer = self.cpu.op(Op { raw, entries }).await;
        match (answer.timed_out, answer.raw.err, answer.raw.value) {
            (true, ..) => Err(-1),
            (_, 0, 0) => {
                let count = usize::try_from(count).unwrap_or(0);
                let vectors = answer.entries.iter().take(count).map(|entry| entry.vector);
                let vectors: Vec<u16> = vectors.collect();
                // "invalid vector"
                if vectors.contains(&0) { Err(-22) } else { Ok(vectors) }
            }
            (_, 0, available) => Err(i32::try_from(available).unwrap_or(-22)),
            (_, err, _) => Err(err),
        }
    }

    /// `pci_scan_device` and `pci_setup_device`.
    pub(super) async fn discover(&self) -> Option<Found> {
        let ids = self.read(header::VENDOR_ID, 4).await?;
        // `pci_bus_generic_read_dev_vendor_id`: all of these mean nobody is there.
        if matches!(ids, 0 | u32::MAX | 0x0000_ffff | 0xffff_0000) {
            return None;
        }
        let kind = self.read(header::HEADER_TYPE, 1).await?;
        let multifunction = kind & u32::from(header::MULTI_FUNCTION) != 0;
        let mut found = Found { ids, multifunction, ..Found::default() };
        if kind & 0x7f == 0 {
            self.size_bars(&mut found).await;
        }
        let line = self.read(header::INTERRUPT_LINE, 1).await.unwrap_or(0);
        found.line = u8::try_from(line & 0xff).unwrap_or(0);
        self.walk(&mut found).await;
        Some(found)
    }

    /// `pci_read_bases`: each BAR with decode off, as Linux does.
    async fn size_bars(&self, found: &mut Found) {
        let mut index = 0;
        while index < 6 {
            let (size, wide) = self.size_bar(header::bar(index)).await;
            if size != 0 {
                found.bars.insert(index, size);
            }
            index += if wide { 2 } else { 1 };
        }
        self.size_bar(header::ROM).await;
    }

    async fn size_bar(&self, offset: u16) -> (u64, bool) {
        let old_command = self.read(header::COMMAND, 2).await.unwrap_or(0);
        let decode = u32::from(command::MEMORY | command::IO);
        if old_command & decode != 0 {
            self.write(header::COMMAND, 2, old_command & !decode).await;
        }
        let (old, mut mask) = self.size_register(offset).await;
        let wide = offset != header::ROM && old & (bar::IO | bar::TYPE) == bar::TYPE_64;
        let mut upper = u32::MAX;
        if wide {
            (_, upper) = self.size_register(offset + 4).await;
        }
        if old_command & decode != 0 {
            self.write(header::COMMAND, 2, old_command).await;
        }
        if mask == 0 || mask == u32::MAX {
            return (0, wide);
        }
        mask &= match (offset, mask & bar::IO) {
            (header::ROM, _) => bar::ROM_ADDRESS,
            (_, 0) => !bar::MEMORY_FLAGS,
            _ => !bar::IO_FLAGS,
        };
        let whole = u64::from(upper) << 32 | u64::from(mask);
        (whole & whole.wrapping_neg(), wide)
    }

    async fn size_register(&self, offset: u16) -> (u32, u32) {
        let old = self.read(offset, 4).await.unwrap_or(0);
        let ones = if offset == header::ROM { bar::ROM_SIZING } else { u32::MAX };
        self.write(offset, 4, ones).await;
        let mask = self.read(offset, 4).await.unwrap_or(0);
        self.write(offset, 4, old).await;
        (old, mask)
    }

    async fn walk(&self, found: &mut Found) {
        let has_list = self.read(header::STATUS, 2).await.unwrap_or(0)
            & u32::from(status::CAPABILITIES)
            != 0;
        let mut at = if has_list {
            self.read(header::CAPABILITIES, 1).await.unwrap_or(0)
        } else {
            0
        };
        for _ in 0..MAX_CAPABILITIES {
            let Ok(offset) = u16::try_from(at & 0xfc) else { break };
            if offset < 0x40 {
                break;
            }
            let Some(word) = self.read(offset, 2).await else { break };
            let [id, next, ..] = word.to_le_bytes();
            found.capabilities.push(id);
            if id == capability::MSIX {
                found.msix = Some(offset);
            }
            at = next.into();
        }
    }

    /// The MSI-X control word at `capability`.
    pub(super) async fn msix_control(&self, capability: u16) -> u32 {
        self.read(capability + msix::CONTROL, 2).await.unwrap_or(0)
    }
}
