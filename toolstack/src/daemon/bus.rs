//! Which address a guest sees a device at: one policy for all devices of a guest, chosen with
//! its first one or in pcidom's configuration.

use pcidom_loan::BusPolicy;
use pcidom_pci::Sbdf;

use super::{Daemon, Env, Failure, paths};
use crate::store::Nodes;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// This slot.
    pub(super) slot: Option<u8>,
    /// This policy.
    pub(super) bus: Option<BusPolicy>,
}

impl Place {
    /// Whether a wished slot can be had at all; whether it is free, pcidom knows.
    pub(super) fn check(
        self,
        guest: &str,
        device: Sbdf,
        bus: BusPolicy,
    ) -> Result<(), Failure> {
        match (bus, self.slot) {
            (BusPolicy::Passthrough, Some(slot)) if slot != device.device() => {
                Err(Failure::Refused(format!(
                    "slot {slot:02x} can't be had for {device}: {guest}'s bus is \
                     passthrough, where each device has its physical address; leave \
                     @{slot:x} out"
                )))
            }
            _ => Ok(()),
        }
    }
}

impl Daemon {
    /// The policy of a guest's bus: what its other loans have, or else what is asked for, or
    /// else what the config of its pcidom says.
    pub(super) fn bus_for(
        &self,
        env: &mut Env<'_>,
        (guest_vm, name): (&str, &str),
        pcidom_vm: &str,
        asked: Option<BusPolicy>,
    ) -> Result<BusPolicy, Failure> {
        let loan = self.loans.values().find(|loan| loan.record.guest_vm == guest_vm);
        let Some(bus) = loan.map(|loan| loan.record.bus.0) else {
            return match asked {
                Some(bus) => Ok(bus),
                None => configured(env.store, pcidom_vm, name),
            };
        };
        if let Some(asked) = asked.filter(|asked| *asked != bus) {
            return Err(Failure::Refused(format!(
                "{name}'s bus is {} as long as it has a device, and can't be {}: leave --bus \
                 out, or detach all it has first (pcidomctl list {name})",
                bus.word(),
                asked.word()
            )));
        }
        Ok(bus)
    }
}

/// What `extra=` in a pcidom's config says: `bus=POLICY`, and for one guest only
/// `bus.GUEST=POLICY`. libxl keeps it where dom0 alone can write.
fn configured(
    nodes: &mut dyn Nodes,
    pcidom_vm: &str,
    guest: &str,
) -> Result<BusPolicy, Failure> {
    let extra = nodes.read(&paths::command_line(pcidom_vm))?.unwrap_or_default();
    let value_of = |wanted: &str| {
        let options = extra.split_ascii_whitespace().filter_map(|o| o.split_once('='));
        let mut of_key = options.filter(|(key, _)| *key == wanted);
        of_key.next_back().map(|(_, value)| value.to_owned())
    };
    let own = format!("bus.{guest}");
    let found =
        [own.as_str(), "bus"].into_iter().find_map(|key| Some((key, value_of(key)?)));
    let Some((key, word)) = found else { return Ok(BusPolicy::default()) };
    word.parse().map_err(|error| {
        Failure::Refused(format!(
            "extra= in the config of this pcidom has {key}={word}: {error}; use --bus until \
             it is created anew without that"
        ))
    })
}
