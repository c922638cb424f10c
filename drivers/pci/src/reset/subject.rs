//! A function that is worked on: access by name, so that every error can say which register
//! it was.

use alloc::boxed::Box;
use core::cell::Cell;

use super::error::{Named, ResetError, Trip};
use crate::access::{Answer, Asked, Config, Question};
use crate::address::Sbdf;
use crate::function::{Function, Pcie};
use crate::regs::{header, msi, msix, pcie, pm};

pub(super) const COMMAND: Named = Named { name: "Command", offset: header::COMMAND };
pub(super) const CLASS: Named =
    Named { name: "Revision ID and Class Code", offset: header::REVISION_AND_CLASS };
pub(super) const SUBSYSTEM: Named =
    Named { name: "Subsystem ID", offset: header::SUBSYSTEM };
pub(super) const CACHE_LINE: Named =
    Named { name: "Cache Line Size", offset: header::CACHE_LINE_SIZE };
pub(super) const BRIDGE_CONTROL: Named =
    Named { name: "Bridge Control", offset: header::BRIDGE_CONTROL };

/// A register of a capability.
const fn beyond(name: &'static str, start: u16, offset: u16) -> Named {
    Named { name, offset: start.saturating_add(offset) }
}

pub(super) const fn base_address(offset: u16) -> Named {
    Named { name: "Base Address Register", offset }
}

pub(super) const fn rom_address(offset: u16) -> Named {
    Named { name: "Expansion ROM Base Address", offset }
}

pub(super) const fn msi_control(start: u16) -> Named {
    beyond("MSI Message Control", start, msi::CONTROL)
}

pub(super) const fn msix_control(start: u16) -> Named {
    beyond("MSI-X Message Control", start, msix::CONTROL)
}

pub(super) const fn power_control(start: u16) -> Named {
    beyond("Power Management Control/Status", start, pm::CONTROL)
}

pub(super) const fn device_control(pcie: &Pcie) -> Named {
    beyond("Device Control", pcie.offset, pcie::DEVICE_CONTROL)
}

pub(super) const fn device_status(pcie: &Pcie) -> Named {
    beyond("Device Status", pcie.offset, pcie::DEVICE_STATUS)
}

pub(super) const fn slot_control(pcie: &Pcie) -> Named {
    beyond("Slot Control", pcie.offset, pcie::SLOT_CONTROL)
}

pub(super) const fn slot_status(pcie: &Pcie) -> Named {
    beyond("Slot Status", pcie.offset, pcie::SLOT_STATUS)
}

/// The last access, for the error if it fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    at: Sbdf,
    register: Named,
    written: Option<u32>,
}

impl Last {
    /// Before there is one.
    pub(super) const fn none(at: Sbdf) -> Self {
        Self { at, register: COMMAND, written: None }
    }

    /// The function and the error that a trip stands for.
    pub(super) fn explain(self, trip: Trip) -> (Sbdf, ResetError) {
        let Self { at, register, written } = self;
        match (trip, written) {
            (Trip::Found(found), _) => *found,
            (Trip::Access(error), None) => (at, ResetError::Read { register, error }),
            (Trip::Access(error), Some(value)) => {
                (at, ResetError::Write { register, value, error })
            }
        }
    }
}

/// One function that is worked on.
pub(super) struct Subject<'a> {
    pub(super) function: &'a Function,
    config: Config,
    last: &'a Cell<Last>,
    /// What Cache Line Size was before the mark, if it took the mark.
    pub(super) marked: Cell<Option<u8>>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(
        config: &Config,
        function: &'a Function,
        last: &'a Cell<Last>,
    ) -> Self {
        let config = config.of(function.sbdf);
        Self { function, config, last, marked: Cell::new(None) }
    }

    fn note(&self, register: Named, written: Option<u32>) {
        self.last.set(Last { at: self.function.sbdf, register, written });
    }

    pub(super) fn read8(&self, register: Named) -> Asked<'_, u8> {
        self.note(register, None);
        self.config.read8(register.offset)
    }

    pub(super) fn read16(&self, register: Named) -> Asked<'_, u16> {
        self.note(register, None);
        self.config.read16(register.offset)
    }

    pub(super) fn read32(
        &self,
        register: Named,
    ) -> pcidom_script::Waiting<'_, Question, Answer> {
        self.note(register, None);
        self.config.read32(register.offset)
    }

    /// As the hardware has it, where that can be seen.
    pub(super) fn look32(
        &self,
        register: Named,
    ) -> pcidom_script::Waiting<'_, Question, Answer> {
        self.note(register, None);
        self.config.look32(register.offset)
    }

    pub(super) fn write8(&self, register: Named, value: u8) -> Asked<'_, ()> {
        self.note(register, Some(value.into()));
        self.config.write8(register.offset, value)
    }

    pub(super) fn write16(&self, register: Named, value: u16) -> Asked<'_, ()> {
        self.note(register, Some(value.into()));
        self.config.write16(register.offset, value)
    }

    pub(super) fn write32(&self, register: Named, value: u32) -> Asked<'_, ()> {
        self.note(register, Some(value));
        self.config.write32(register.offset, value)
    }

    /// Ends what must not last: tried again once if it fails.
    pub(super) async fn write16_surely(
        &self,
        register: Named,
        value: u16,
    ) -> Result<(), Trip> {
        if self.write16(register, value).await.is_err() {
            self.write16(register, value).await?;
        }
        Ok(())
    }

    /// Clears `bits` with at most one write, which leaves all others as they read: dom0
    /// refuses a control word whose read-only bits differ.
    pub(super) async fn clear16(&self, register: Named, bits: u16) -> Result<(), Trip> {
        let value = self.read16(register).await?;
        if value & bits != 0 {
            self.write16(register, value & !bits).await?;
        }
        Ok(())
    }

    pub(super) async fn expect_clear(
        &self,
        register: Named,
        mask: u16,
        bits: &'static str,
    ) -> Result<(), Trip> {
        let value = self.read16(register).await?;
        if value & mask == 0 {
            return Ok(());
        }
        Err(self.found(ResetError::StillOn { register, value, bits }))
    }

    /// `is` has the bits of `mask` as `was` has.
    pub(super) fn expect(
        &self,
        register: Named,
        mask: u32,
        was: u32,
        is: u32,
    ) -> Result<(), Trip> {
        if is & mask == was & mask {
            return Ok(());
        }
        Err(self.found(ResetError::Changed { register, was, is }))
    }

    pub(super) fn found(&self, error: ResetError) -> Trip {
        Trip::Found(Box::new((self.function.sbdf, error)))
    }

    pub(super) async fn wait(&self, time: core::time::Duration) {
        self.config.wait(time).await;
    }
}
