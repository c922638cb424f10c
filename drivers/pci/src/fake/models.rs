//! The two devices of the bed, as QEMU has them.

use crate::fake::hardware::{Builder, FakeFunction};
use crate::regs::{af, capability, header, msix, pcie, pm};

impl FakeFunction {
    /// QEMU's NVMe controller: 64-bit BAR0, 65 MSI-X vectors, FLR; ready at once.
    pub fn nvme_like() -> Self {
        let mut nvme = Self::builder(0x1b36, 0x0010, 0x01_0802, 2);
        nvme.subsystem(0x1af4, 0x1100)
            .put(0x3c, &[0x0b, 0x01])
            .memory_bar(0, 0x4000, true)
            .msix(0x40, 65, 0, 0x2000, 0, 0x3000)
            .pcie(0x80, true)
            .pm(0x60);
        nvme.build(&[(0x10, 0xfe40_0000), (0x14, 0), (0x04, 0x0002)])
    }

    /// QEMU's e1000e: three memory BARs, an I/O BAR, a ROM, MSI and MSI-X, and nothing
    /// that resets it.
    pub fn e1000e_like() -> Self {
        Self::nic(|nic| nic.pm(0xc8))
    }

    /// The same, but it loses its state in D3hot.
    pub fn e1000e_losing_state() -> Self {
        Self::nic(|nic| nic.losing_pm(0xc8))
    }

    fn nic(pm: impl FnOnce(&mut Builder) -> &mut Builder) -> Self {
        let mut nic = Self::builder(0x8086, 0x10d3, 0x02_0000, 0);
        nic.subsystem(0x8086, 0x0000)
            .put(0x3c, &[0x0a, 0x01])
            .memory_bar(0, 0x2_0000, false)
            .memory_bar(1, 0x2_0000, false)
            .io_bar(2, 0x20)
            .memory_bar(3, 0x4000, false)
            .rom(0x4_0000);
        pm(&mut nic)
            // 64-bit, one vector, no masking.
            .capability(
                0xd0,
                capability::MSI,
                &[0x80, 0x00],
                &[0x01, 0x00, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            )
            .pcie(0xe0, false)
            .msix(0xa0, 5, 3, 0, 3, 0x2000);
        nic.build(&[
            (0x10, 0xfe64_0000),
            (0x14, 0xfe66_0000),
            (0x18, 0xc000),
            (0x1c, 0xfe68_0000),
            (0x30, 0xfe60_0000),
            (0x04, 0x0003),
        ])
    }
}

impl FakeFunction {
    /// A root port with these buses below it; with `hot_plug`, its slot's events are on.
    pub fn port_like(secondary: u8, subordinate: u8, hot_plug: bool) -> Self {
        let mut port = Self::builder(0x1b36, 0x000c, 0x06_0400, 0);
        // A root port of version 2; what is not said is 0 and read-only.
        let mut body = [0; 26];
        let slot = u8::from(hot_plug);
        body.first_chunk_mut::<2>().into_iter().for_each(|flags| *flags = [0x42, slot]);
        let events = pcie::SLOT_EVENTS.to_le_bytes();
        port.put(header::HEADER_TYPE, &[header::TYPE_BRIDGE])
            .put(header::BRIDGE_BUSES, &[0, secondary, subordinate, 0])
            .allow(header::BRIDGE_CONTROL, &header::BUS_RESET.to_le_bytes())
            .capability(0x50, capability::PCIE, &body, &[])
            .put(0x50 + pcie::SLOT_CAPABILITIES, &[0x40 * slot])
            .allow(0x50 + pcie::DEVICE_CONTROL, &[0xff, 0x7f])
            .allow(0x50 + pcie::SLOT_CONTROL, &pcie::SLOT_ENABLES.to_le_bytes())
            .clear_by_one(0x50 + pcie::SLOT_STATUS, &events);
        let on = if hot_plug { pcie::SLOT_ENABLES } else { 0 };
        port.build(&[(0x50 + pcie::SLOT_CONTROL, on.into())])
    }
}

impl Builder {
    /// Advanced Features, with FLR and Transactions Pending.
    pub fn af(&mut self, offset: u8) -> &mut Self {
        let abilities = af::HAS_FLR | af::HAS_PENDING;
        self.capability(offset, capability::AF, &[0x06, abilities], &[])
    }

    /// Power Management, version 3, which loses the state in D3hot.
    pub fn losing_pm(&mut self, offset: u8) -> &mut Self {
        self.capability(offset, capability::PM, &[0x03, 0, 0, 0], &[0, 0, 0x03, 0])
    }

    /// MSI-X with `entries` (1 to 2048) in BAR `table_bar`.
    pub fn msix(
        &mut self,
        offset: u8,
        entries: u16,
        table_bar: u8,
        table_offset: u32,
        pba_bar: u8,
        pba_offset: u32,
    ) -> &mut Self {
        let [c0, c1] = (entries.saturating_sub(1) & msix::TABLE_SIZE).to_le_bytes();
        let [t0, t1, t2, t3] = (table_offset | u32::from(table_bar)).to_le_bytes();
        let [p0, p1, p2, p3] = (pba_offset | u32::from(pba_bar)).to_le_bytes();
        let body = [c0, c1, t0, t1, t2, t3, p0, p1, p2, p3];
        let writable = (msix::ENABLE | msix::MASKALL).to_le_bytes();
        self.capability(offset, capability::MSIX, &body, &writable)
    }

    /// A PCI Express endpoint's capability, version 2.
    pub fn pcie(&mut self, offset: u8, flr: bool) -> &mut Self {
        let abilities = if flr { pcie::FLR_CAPABLE } else { 0 } | 0x8000;
        let [a0, a1, a2, a3] = abilities.to_le_bytes();
        let body = [0x02, 0x00, a0, a1, a2, a3];
        // Device Control but for Initiate FLR, which reads 0.
        let mask = [0, 0, 0, 0, 0, 0, 0xff, 0x7f];
        self.capability(offset, capability::PCIE, &body, &mask)
    }

    /// Power Management, version 3, No_Soft_Reset set.
    pub fn pm(&mut self, offset: u8) -> &mut Self {
        let [s0, s1] = pm::NO_SOFT_RESET.to_le_bytes();
        let body = [0x03, 0x00, s0, s1];
        self.capability(offset, capability::PM, &body, &[0, 0, 0x03, 0])
    }
}
