//! public/xen.h, with arch-x86/xen.h and arch-x86/xen-x86_64.h.

/// Hypercall: set the handlers of exceptions.
pub const __HYPERVISOR_set_trap_table: usize = 0;
/// Hypercall: change page table entries.
pub const __HYPERVISOR_mmu_update: usize = 1;
/// Hypercall: memory of the domain.
pub const __HYPERVISOR_memory_op: usize = 12;
/// Hypercall: change the entry that maps one address.
pub const __HYPERVISOR_update_va_mapping: usize = 14;
/// Hypercall: facts about Xen.
pub const __HYPERVISOR_xen_version: usize = 17;
/// Hypercall: Xen's own console.
pub const __HYPERVISOR_console_io: usize = 18;
/// Hypercall: grants.
pub const __HYPERVISOR_grant_table_op: usize = 20;
/// Operations on a vCPU.
pub const __HYPERVISOR_vcpu_op: usize = 24;
/// Hypercall: scheduling.
pub const __HYPERVISOR_sched_op: usize = 29;
/// Hypercall: event channels.
pub const __HYPERVISOR_event_channel_op: usize = 32;
/// Hypercall: physical devices.
pub const __HYPERVISOR_physdev_op: usize = 33;

/// `mmu_update`: the low bits of `ptr` for a normal change of an entry.
pub const MMU_NORMAL_PT_UPDATE: u64 = 0;
/// `update_va_mapping`: flush nothing.
pub const UVMF_NONE: u64 = 0;
/// `update_va_mapping`: flush the whole TLB.
pub const UVMF_TLB_FLUSH: u64 = 1;
/// `update_va_mapping`: flush this one address.
pub const UVMF_INVLPG: u64 = 2;

/// `console_io`: write a buffer.
pub const CONSOLEIO_write: u64 = 0;
/// `console_io`: read into a buffer.
pub const CONSOLEIO_read: u64 = 1;

/// A domain's number.
pub type domid_t = u16;
/// A page frame number.
pub type xen_pfn_t = u64;
/// An unsigned number as wide as the hypervisor's registers.
pub type xen_ulong_t = u64;

/// First domain number that names no domain.
pub const DOMID_FIRST_RESERVED: domid_t = 0x7ff0;
/// The calling domain.
pub const DOMID_SELF: domid_t = 0x7ff0;
/// Owner of I/O memory, and of quarantined devices.
pub const DOMID_IO: domid_t = 0x7ff1;
/// Owner of Xen's own pages.
pub const DOMID_XEN: domid_t = 0x7ff2;
/// No domain.
pub const DOMID_INVALID: domid_t = 0x7ff4;

/// Code segment of a 64-bit PV kernel.
pub const FLAT_KERNEL_CS: u16 = 0xe033;
/// Stack segment of a 64-bit PV kernel.
pub const FLAT_KERNEL_SS: u16 = 0xe02b;
/// Where Xen shows the machine-to-pseudo-physical table.
pub const MACH2PHYS_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// Where that table's address space ends.
pub const MACH2PHYS_VIRT_END: u64 = 0xffff_8040_0000_0000;
/// vCPUs that have their `vcpu_info` in the shared page.
pub const XEN_LEGACY_MAX_VCPUS: usize = 32;
/// Room for the command line.
pub const MAX_GUEST_CMDLINE: usize = 1024;

/// `start_info.flags`: this is a privileged domain.
pub const SIF_PRIVILEGED: u32 = 1 << 0;
/// `start_info.flags`: this is the first domain.
pub const SIF_INITDOMAIN: u32 = 1 << 1;

/// One change of a page table entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct mmu_update {
    /// Machine address of the entry; the low bits say what kind of change.
    pub ptr: u64,
    /// Its new value.
    pub val: u64,
}

/// The handler of one exception vector.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct trap_info {
    /// Vector.
    pub vector: u8,
    /// Bits 0 to 1: who may raise it with `int`; bit 2: mask events on entry.
    pub flags: u8,
    /// Code selector of the handler.
    pub cs: u16,
    /// Address of the handler; 0 ends the table.
    pub address: u64,
}

/// How to turn the TSC into Xen system time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct vcpu_time_info {
    /// Odd while Xen writes; changes with every update.
    pub version: u32,
    /// Padding.
    pub pad0: u32,
    /// TSC at the last update.
    pub tsc_timestamp: u64,
    /// Nanoseconds since Xen's boot at the last update.
    pub system_time: u64,
    /// Multiplier of shifted ticks, in 2^-32 ns.
    pub tsc_to_system_mul: u32,
    /// Left shift of ticks before multiplying; right if negative.
    pub tsc_shift: i8,
    /// `XEN_PVCLOCK_*`
    pub flags: u8,
    /// Padding.
    pub pad1: [u8; 2],
}

/// The x86 part of `vcpu_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct arch_vcpu_info {
    /// Address of the last page fault.
    pub cr2: u64,
    /// Padding.
    pub pad: u64,
}

/// What Xen and one vCPU share.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct vcpu_info {
    /// An upcall is due.
    pub evtchn_upcall_pending: u8,
    /// No upcalls now.
    pub evtchn_upcall_mask: u8,
    /// Which words of `evtchn_pending` to look at.
    pub evtchn_pending_sel: xen_ulong_t,
    /// The architecture's part.
    pub arch: arch_vcpu_info,
    /// Time.
    pub time: vcpu_time_info,
}

/// The x86 part of `shared_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct arch_shared_info {
    /// Number of valid entries of the P2M.
    pub max_pfn: u64,
    /// Frame of the root of the P2M frame lists.
    pub pfn_to_mfn_frame_list_list: xen_pfn_t,
    /// NMI reasons.
    pub nmi_reason: u64,
    /// Root of the address space that `p2m_vaddr` is in.
    pub p2m_cr3: u64,
    /// Where the P2M is.
    pub p2m_vaddr: u64,
    /// Generation of the P2M.
    pub p2m_generation: u64,
}

/// What Xen and a domain share: one page.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct shared_info {
    /// The vCPUs' parts.
    pub vcpu_info: [vcpu_info; XEN_LEGACY_MAX_VCPUS],
    /// A bit for each port: an event is pending.
    pub evtchn_pending: [xen_ulong_t; 64],
    /// A bit for each port: no upcall for it.
    pub evtchn_mask: [xen_ulong_t; 64],
    /// Odd while the wall clock is written.
    pub wc_version: u32,
    /// Wall clock at system time 0, seconds (low half).
    pub wc_sec: u32,
    /// Wall clock at system time 0, nanoseconds.
    pub wc_nsec: u32,
    /// Wall clock at system time 0, seconds (high half).
    pub wc_sec_hi: u32,
    /// The architecture's part.
    pub arch: arch_shared_info,
}

/// The console of a domain that is not the first one (`start_info.console.domU`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct start_info_console {
    /// Machine frame of the ring page.
    pub mfn: xen_pfn_t,
    /// Port of the console.
    pub evtchn: u32,
}

/// What a PV domain is told at its start.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct start_info {
    /// "xen-VERSION-PLATFORM"
    pub magic: [u8; 32],
    /// Pages of the domain.
    pub nr_pages: u64,
    /// Machine address of the `shared_info` page.
    pub shared_info: u64,
    /// `SIF_*`
    pub flags: u32,
    /// Machine frame of the XenStore ring.
    pub store_mfn: xen_pfn_t,
    /// Port of XenStore.
    pub store_evtchn: u32,
    /// The console, unless `SIF_INITDOMAIN`.
    pub console: start_info_console,
    /// Where the top page table is.
    pub pt_base: u64,
    /// Frames of page tables at start.
    pub nr_pt_frames: u64,
    /// Where the list of the domain's machine frames is.
    pub mfn_list: u64,
    /// Where the module is, if any.
    pub mod_start: u64,
    /// Its bytes.
    pub mod_len: u64,
    /// Command line, ends with a zero.
    pub cmd_line: [i8; MAX_GUEST_CMDLINE],
    /// First pseudo-physical frame of `mfn_list`, if it is not in the first mapping.
    pub first_p2m_pfn: u64,
    /// Its frames.
    pub nr_p2m_frames: u64,
}
