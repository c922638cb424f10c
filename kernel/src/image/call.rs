//! Hypercalls with a structure as argument, in one place.

use pcidom_boot::memory::errno;
use pcidom_kernel::XenError;
use xen_sys::hypercall::{hypercall2, hypercall3};
use xen_sys::{
    __HYPERVISOR_console_io, __HYPERVISOR_event_channel_op, __HYPERVISOR_grant_table_op,
    __HYPERVISOR_physdev_op, __HYPERVISOR_sched_op, __HYPERVISOR_vcpu_op,
    __HYPERVISOR_xen_version, CONSOLEIO_write, SCHEDOP_yield, VCPUOP_get_runstate_info,
    vcpu_runstate_info,
};

/// A structure that a sub-operation of a hypercall takes.
///
/// # Safety
///
/// `COMMAND` and `hypercall` are an operation whose argument is exactly `Self`, and which
/// accesses no memory but that argument and what its pointers lead to; making such a call
/// with any values breaks no rule of Rust as long as those pointers are good.
pub(crate) unsafe trait Argument {
    /// The operation, as Xen's headers call it.
    const NAME: &'static str;
    /// The sub-operation.
    const COMMAND: u64;

    /// The hypercall.
    ///
    /// # Safety
    ///
    /// `address` is that of a `Self`, if `command` is [`Argument::COMMAND`].
    unsafe fn hypercall(command: u64, address: u64) -> i64;
}

macro_rules! arguments {
    ($($nr:ident $command:ident $argument:ident;)*) => { $(
        // SAFETY: so the public header of that operation says.
        unsafe impl Argument for xen_sys::$argument {
            const NAME: &'static str = stringify!($command);
            const COMMAND: u64 = xen_sys::$command;

            unsafe fn hypercall(command: u64, address: u64) -> i64 {
                // SAFETY: the caller's promise.
                unsafe { hypercall2::<$nr>(command, address) }
            }
        }
    )* };
}

arguments! {
    __HYPERVISOR_event_channel_op EVTCHNOP_alloc_unbound evtchn_alloc_unbound;
    __HYPERVISOR_event_channel_op EVTCHNOP_bind_interdomain evtchn_bind_interdomain;
    __HYPERVISOR_event_channel_op EVTCHNOP_bind_pirq evtchn_bind_pirq;
    __HYPERVISOR_event_channel_op EVTCHNOP_close evtchn_close;
    __HYPERVISOR_event_channel_op EVTCHNOP_send evtchn_send;
    __HYPERVISOR_sched_op SCHEDOP_poll sched_poll;
    __HYPERVISOR_physdev_op PHYSDEVOP_set_iopl physdev_set_iopl;
    __HYPERVISOR_physdev_op PHYSDEVOP_irq_status_query physdev_irq_status_query;
    __HYPERVISOR_physdev_op PHYSDEVOP_eoi physdev_eoi;
    __HYPERVISOR_physdev_op PHYSDEVOP_map_pirq physdev_map_pirq;
    __HYPERVISOR_physdev_op PHYSDEVOP_unmap_pirq physdev_unmap_pirq;
}

/// Makes the call whose argument that is.
pub(crate) fn call<A: Argument>(argument: &mut A) -> Result<(), XenError> {
    let address = (&raw mut *argument).expose_provenance() as u64;
    // SAFETY: the trait promises that the operation takes this argument.
    let result = unsafe { A::hypercall(A::COMMAND, address) };
    errno(result).map_err(|errno| XenError { call: A::NAME, errno })
}

/// `SCHEDOP_yield`: whoever else wants this CPU runs first.
pub(crate) fn give_way() {
    // SAFETY: the operation has no argument and accesses no memory.
    let _ = unsafe { hypercall2::<__HYPERVISOR_sched_op>(SCHEDOP_yield, 0) };
}

/// Since when we have this CPU, by Xen's clock, in nanoseconds; `None` if Xen does not say.
pub(crate) fn running_since() -> Option<u64> {
    let mut info = vcpu_runstate_info::default();
    let address = (&raw mut info).expose_provenance() as u64;
    // SAFETY: the operation writes this structure for the vCPU with that number, our only one.
    let result = unsafe {
        hypercall3::<__HYPERVISOR_vcpu_op>(VCPUOP_get_runstate_info, 0, address)
    };
    errno(result).ok().map(|()| info.state_entry_time)
}

/// `HYPERVISOR_grant_table_op` on one structure.
///
/// # Safety
///
/// `argument` is what `command` takes, and the addresses in it are the caller's to give.
pub(crate) unsafe fn grant_table<A>(command: u64, argument: &mut A) -> Result<(), i32> {
    let address = (&raw mut *argument).expose_provenance() as u64;
    // SAFETY: the caller's promise; the count is 1, so only this structure is accessed.
    errno(unsafe { hypercall3::<__HYPERVISOR_grant_table_op>(command, address, 1) })
}

/// Writes to Xen's own console; refused to all but the first domain.
pub(crate) fn xen_console(text: &[u8]) -> bool {
    let address = text.as_ptr().expose_provenance() as u64;
    // SAFETY: Xen reads that many bytes from there, no more.
    let result = unsafe {
        hypercall3::<__HYPERVISOR_console_io>(CONSOLEIO_write, text.len() as u64, address)
    };
    result >= 0
}

/// Xen's version, major and minor.
pub(crate) fn xen_version() -> (u16, u16) {
    // SAFETY: this sub-operation takes no argument.
    let version =
        unsafe { hypercall2::<__HYPERVISOR_xen_version>(xen_sys::XENVER_version, 0) };
    let [_, _, _, _, high, low, minor_high, minor_low] = version.to_be_bytes();
    (u16::from_be_bytes([high, low]), u16::from_be_bytes([minor_high, minor_low]))
}
