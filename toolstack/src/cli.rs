//! The command line. Grammar, exit codes and formats are xl's.

use clap::{Parser, Subcommand};
use pcidom_loan::BusPolicy;
use pcidom_pci::reset::Method;

/// Lends PCI devices of a pcidom to guests.
#[derive(Debug, Parser)]
#[command(name = "pcidomctl", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lend a device of the pool to a guest.
    Attach {
        /// Give the device its interrupt line although another guest has it, too: either
        /// of the two can then hold up the other's interrupts.
        #[arg(long)]
        share_line: bool,
        /// How the guest's bus is laid out: like Linux's pciback, or each function as
        /// function 0 of its own slot, or at its physical address. For all devices of a
        /// guest the same; without it, what extra= in pcidom's config says, or vpci.
        #[arg(long, value_name = "vpci|slot|passthrough")]
        bus: Option<BusPolicy>,
        /// How long a running guest may take to connect before the attach is undone.
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        wait: u16,
        /// The guest, HVM or PVH, whose stub domain GUEST is: the device and its interrupts
        /// are to be that guest's, and GUEST is to have it on its link and map it.
        #[arg(long, value_name = "OWNER")]
        owner: Option<String>,
        /// Name or domid of a PV guest.
        guest: String,
        /// PCI_SPEC_STRING: [DDDD:]BB:SS.F[@VSLOT][,key=value...]; with the key
        /// no-strict-reset=1 a device that no method can reset is lent all the same. With
        /// allow=REGISTER[:MASK] (by the names in status and docs/config-space.md, or as
        /// OFFSET:BYTES) its guest may write more of that register, with permissive=1 all
        /// that can be allowed; dom0 goes on letting it through after the loan, see status.
        #[arg(value_name = "BDF[@VSLOT][,key=value...]")]
        spec: String,
        /// The pcidom whose pool the device is in, if there are several.
        #[arg(long)]
        pcidom: Option<String>,
    },
    /// Take a device back from a guest.
    Detach {
        /// Don't wait for the guest's driver to let go.
        #[arg(short, long)]
        force: bool,
        /// Name or domid of the guest.
        guest: String,
        /// [DDDD:]BB:SS.F
        #[arg(value_name = "BDF")]
        spec: String,
        /// The pcidom whose pool the device is in, if there are several.
        #[arg(long)]
        pcidom: Option<String>,
    },
    /// Reset a device of the pool. Without a method, the first of flr, af, pm, slot and bus
    /// that works; bus and slot reset all below the same port.
    Reset {
        /// Only by this method.
        #[arg(long, value_name = "flr|af|pm|slot|bus")]
        method: Option<Method>,
        /// Although a guest has it, or has what is reset with it: the driver there may fail.
        #[arg(long)]
        force: bool,
        /// [DDDD:]BB:SS.F
        #[arg(value_name = "BDF")]
        device: String,
        /// The pcidom whose pool the device is in, if there are several.
        #[arg(long)]
        pcidom: Option<String>,
    },
    /// List the devices that are lent, to one guest or to all.
    List {
        /// Name or domid of the guest.
        guest: Option<String>,
        /// The pcidom whose pool the devices are in, if there are several.
        #[arg(long)]
        pcidom: Option<String>,
    },
    /// Show pools, loans, interrupt leases, and what pcidoms say of themselves.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Only this pcidom.
        #[arg(long)]
        pcidom: Option<String>,
    },
    /// Run the daemon that does all this; one per host.
    Daemon {
        /// Name of a domain that is a pcidom; may be given several times.
        #[arg(long, default_value = "pcidom")]
        pcidom: Vec<String>,
        /// Lend devices although Xen does not remap interrupts: a guest with a device can
        /// then forge interrupts of the host.
        #[arg(long)]
        allow_no_intremap: bool,
    },
}
