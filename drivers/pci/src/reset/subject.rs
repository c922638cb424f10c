//! A function that is worked on: registers by name, so that every error can say which one it
//! was, and steps as data: each `await` costs code, a step in a list costs little.

use alloc::boxed::Box;
use core::cell::Cell;
use core::time::Duration;

use pcidom_script::{Mapped, Waiting};

use super::error::{Named, ResetError, Trip};
use crate::access::{Answer, Config, Question, Width};
use crate::address::Sbdf;
use crate::function::{Function, Pcie};
use crate::regs::{header, msi, msix, pcie, pm};

/// A register with its width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) named: Named,
    width: Width,
}

impl Place {
    pub(super) const fn new(name: &'static str, offset: u16, width: Width) -> Self {
        Self { named: Named { name, offset }, width }
    }

    /// A word of the capability at `start`.
    const fn word(name: &'static str, start: u16, offset: u16) -> Self {
        Self::new(name, start.saturating_add(offset), Width::Word)
    }
}

pub(super) const COMMAND: Place = Place::new("Command", header::COMMAND, Width::Word);
pub(super) const CLASS: Place =
    Place::new("Revision ID and Class Code", header::REVISION_AND_CLASS, Width::Dword);
pub(super) const SUBSYSTEM: Place =
    Place::new("Subsystem ID", header::SUBSYSTEM, Width::Dword);
pub(super) const CACHE_LINE: Place =
    Place::new("Cache Line Size", header::CACHE_LINE_SIZE, Width::Byte);
pub(super) const BRIDGE_CONTROL: Place =
    Place::new("Bridge Control", header::BRIDGE_CONTROL, Width::Word);

pub(super) const fn base_address(offset: u16) -> Place {
    Place::new("Base Address Register", offset, Width::Dword)
}

pub(super) const fn rom_address(offset: u16) -> Place {
    Place::new("Expansion ROM Base Address", offset, Width::Dword)
}

pub(super) const fn msi_control(start: u16) -> Place {
    Place::word("MSI Message Control", start, msi::CONTROL)
}

pub(super) const fn msix_control(start: u16) -> Place {
    Place::word("MSI-X Message Control", start, msix::CONTROL)
}

pub(super) const fn power_control(start: u16) -> Place {
    Place::word("Power Management Control/Status", start, pm::CONTROL)
}

pub(super) const fn device_control(pcie: &Pcie) -> Place {
    Place::word("Device Control", pcie.offset, pcie::DEVICE_CONTROL)
}

pub(super) const fn device_status(pcie: &Pcie) -> Place {
    Place::word("Device Status", pcie.offset, pcie::DEVICE_STATUS)
}

pub(super) const fn slot_control(pcie: &Pcie) -> Place {
    Place::word("Slot Control", pcie.offset, pcie::SLOT_CONTROL)
}

pub(super) const fn slot_status(pcie: &Pcie) -> Place {
    Place::word("Slot Status", pcie.offset, pcie::SLOT_STATUS)
}

/// What is done with a register.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    /// This is written.
    Write(u32),
    /// These bits are cleared with at most one write, which leaves all others as they read:
    /// dom0 refuses a control word whose read-only bits differ.
    Clear(u32),
    /// These bits, by their names, must be clear.
    Off(u32, &'static str),
    /// It must read so, in the bits of the second one.
    Is(u32, u32),
    /// The same in the hardware, where that can be seen.
    Looks(u32, u32),
}

/// Something to do with a register.
pub(super) type Step = (Place, Deed);

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
        Self { at, register: COMMAND.named, written: None }
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
    pub(super) marked: Cell<Option<u32>>,
    /// It did not answer when it was last looked at before a reset.
    pub(super) is_silent: Cell<bool>,
    /// The last method has shown an effect on it.
    pub(super) proven: Cell<bool>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(
        config: &Config,
        function: &'a Function,
        last: &'a Cell<Last>,
    ) -> Self {
        let config = config.of(function.sbdf);
        let (marked, is_silent) = (Cell::new(None), Cell::new(false));
        let proven = Cell::new(false);
        Self { function, config, last, marked, is_silent, proven }
    }

    fn note(&self, register: Named, written: Option<u32>) {
        self.last.set(Last { at: self.function.sbdf, register, written });
    }

    pub(super) fn read(&self, place: Place) -> Waiting<'_, Question, Answer> {
        self.note(place.named, None);
        self.config.read(place.named.offset, place.width)
    }

    pub(super) fn write(
        &self,
        place: Place,
        value: u32,
    ) -> Waiting<'_, Question, Answer> {
        self.note(place.named, Some(value));
        self.config.write(place.named.offset, place.width, value)
    }

    /// Looks whether it reads all ones. (Not its ids: dom0 has those from a cache.)
    pub(super) async fn looks_silent(&self) -> Result<bool, Trip> {
        self.is_silent.set(self.read(CLASS).await? == u32::MAX);
        // If it comes back.
        self.proven.set(self.is_silent.get());
        Ok(self.is_silent.get())
    }

    pub(super) fn silent(&self) -> Trip {
        self.found(ResetError::Silent { register: CLASS.named })
    }

    /// Does all steps in their order.
    pub(super) async fn carry_out(&self, steps: &[Step]) -> Result<(), Trip> {
        for (place, deed) in steps {
            let asked = match deed {
                Deed::Write(value) => self.write(*place, *value),
                Deed::Looks(..) => {
                    self.note(place.named, None);
                    self.config.look32(place.named.offset)
                }
                _ => self.read(*place),
            };
            let value = asked.await?;
            match *deed {
                Deed::Clear(bits) if value & bits != 0 => {
                    self.write(*place, value & !bits).await?;
                }
                Deed::Off(mask, bits) if value & mask != 0 => {
                    let register = place.named;
                    return Err(self.found(ResetError::StillOn {
                        register,
                        value,
                        bits,
                    }));
                }
                Deed::Is(was, mask) | Deed::Looks(was, mask)
                    if (value ^ was) & mask != 0 =>
                {
                    let (register, is) = (place.named, value);
                    return Err(self.found(ResetError::Changed { register, was, is }));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends what must not last: all again if it fails.
    pub(super) async fn surely(&self, steps: &[Step]) -> Result<(), Trip> {
        if self.carry_out(steps).await.is_err() {
            self.carry_out(steps).await?;
        }
        Ok(())
    }

    pub(super) fn found(&self, error: ResetError) -> Trip {
        Trip::Found(Box::new((self.function.sbdf, error)))
    }

    pub(super) fn wait(&self, time: Duration) -> Mapped<'_, Question, Answer, ()> {
        self.config.wait(time)
    }
}
