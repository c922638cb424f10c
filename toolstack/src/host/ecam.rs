//! Where config space is in memory: the firmware's MCFG table (PCI Firmware Specification
//! 3.3, 4.1.2).

use pcidom_pci::Sbdf;

/// Bytes before the first entry: the header of every ACPI table, and 8 that are reserved.
const HEADER: usize = 44;
/// Bytes of an entry: base, segment, first and last bus, 4 that are reserved.
const ENTRY: usize = 16;
/// Bits of an address below the frame number: a function's config space is one page.
const PAGE_SHIFT: u32 = 12;
/// Where the bus number is in an address of this kind (PCIe 7.2.2).
const BUS_SHIFT: u32 = 20;

/// The config space of some buses, in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EcamRegion {
    /// Where bus 0 of the segment is, or would be.
    pub base: u64,
    /// PCI segment.
    pub segment: u16,
    /// The first bus that is there.
    pub first_bus: u8,
    /// The last one.
    pub last_bus: u8,
}

impl EcamRegion {
    /// All regions of an MCFG table. A bad length cuts the list.
    pub(super) fn parse(table: &[u8]) -> Vec<Self> {
        let entries = table.get(HEADER..).unwrap_or_default();
        let (entries, _) = entries.as_chunks::<ENTRY>();
        let region = |entry: &[u8; ENTRY]| {
            let [b0, b1, b2, b3, b4, b5, b6, b7, s0, s1, first_bus, last_bus, ..] =
                *entry;
            let base = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
            let segment = u16::from_le_bytes([s0, s1]);
            Self { base, segment, first_bus, last_bus }
        };
        entries.iter().map(region).collect()
    }

    /// Number of the machine frame that is the device's config space, if it is in here.
    pub fn frame(&self, device: Sbdf) -> Option<u64> {
        let buses = self.first_bus..=self.last_bus;
        if device.segment() != self.segment || !buses.contains(&device.bus()) {
            return None;
        }
        let page = u64::from(device.devfn()) << PAGE_SHIFT;
        let offset = u64::from(device.bus()) << BUS_SHIFT | page;
        Some(self.base.checked_add(offset)? >> PAGE_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::EcamRegion;

    #[test]
    fn a_function_has_one_frame_in_the_region_of_its_bus() {
        let mut table = vec![0; 44];
        table.extend([0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 0x3f, 0, 0, 0, 0]);
        table.extend([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0x10, 0xff, 0, 0, 0, 0]);
        // Half an entry.
        table.extend([0; 8]);
        let regions = EcamRegion::parse(&table);
        let found = |device: &str| {
            let device = device.parse().unwrap();
            regions.iter().find_map(|region| region.frame(device))
        };
        assert_eq!(regions.len(), 2);
        assert_eq!(found("0000:01:00.0"), Some(0xb_0100));
        assert_eq!(found("0000:3f:1f.7"), Some(0xb_3fff));
        assert_eq!(found("0000:40:00.0"), None);
        assert_eq!(found("0001:10:00.0"), None);
        assert_eq!(found("0002:10:00.1"), Some(0x10_1001));
        assert_eq!(found("0002:0f:00.0"), None);
        assert_eq!(EcamRegion::parse(&[0; 20]), []);
    }
}
