//! Exceptions. None is expected: each is reported, and the image then ends the domain.
//!
//! Xen pushes, on the current stack and without skipping a red zone: rcx, r11, an error code
//! for some vectors, rip, cs, rflags, rsp, ss. The stubs add the vector and go on with the
//! report on a stack of its own.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use x86_64::VirtAddr;
use xen_sys::hypercall::hypercall1;
use xen_sys::{__HYPERVISOR_set_trap_table, FLAT_KERNEL_CS, trap_info};

use crate::memory::errno;
use crate::power::{Reason, shutdown};
use crate::stack::{BOOT_STACK, TRAP_STACK, TRAP_STACK_BYTES};

/// How many return addresses are reported.
pub const CALLERS: usize = 8;

/// One exception.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trap {
    /// Vector, see [`Trap::name`].
    pub vector: u64,
    /// Error code, if the vector has one.
    pub error: Option<u64>,
    /// Where.
    pub rip: u64,
    /// Stack pointer there.
    pub rsp: u64,
    /// Flags there.
    pub rflags: u64,
    /// The address, for a page fault.
    pub address: Option<u64>,
    /// Words of the stack that point behind a call: return addresses, latest first, with
    /// some stale ones between. 0 for none.
    pub callers: [u64; CALLERS],
}

/// A vector that Xen hands to a PV kernel.
struct Vector {
    number: u8,
    name: &'static str,
    has_error: bool,
    stub: extern "C" fn(),
}

const fn plain<const NUMBER: u8>(name: &'static str) -> Vector {
    Vector { number: NUMBER, name, has_error: false, stub: stub::<NUMBER> }
}

const fn with_error<const NUMBER: u8>(name: &'static str) -> Vector {
    Vector { number: NUMBER, name, has_error: true, stub: stub::<NUMBER> }
}

static VECTORS: [Vector; 16] = [
    plain::<0>("divide error"),
    plain::<1>("debug"),
    plain::<3>("breakpoint"),
    plain::<4>("overflow"),
    plain::<5>("bound range exceeded"),
    plain::<6>("invalid opcode"),
    plain::<7>("device not available"),
    with_error::<10>("invalid TSS"),
    with_error::<11>("segment not present"),
    with_error::<12>("stack fault"),
    with_error::<13>("general protection fault"),
    with_error::<14>("page fault"),
    plain::<16>("floating-point error"),
    with_error::<17>("alignment check"),
    plain::<18>("machine check"),
    plain::<19>("SIMD floating-point error"),
];

fn known(vector: u64) -> Option<&'static Vector> {
    VECTORS.iter().find(|known| u64::from(known.number) == vector)
}

const PAGE_FAULT: u64 = 14;

impl Trap {
    /// What the vector is called.
    pub fn name(&self) -> &'static str {
        known(self.vector).map_or("unknown trap", |known| known.name)
    }
}

static REPORT: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static SHARED_INFO: AtomicU64 = AtomicU64::new(0);
static REPORTING: AtomicBool = AtomicBool::new(false);

/// Sets the handlers. `report` runs on the trap stack and does not come back.
/// `shared_info` is where that page is mapped: the address of a page fault is in it.
///
/// # Errors
///
/// The negative errno of `set_trap_table`.
///
/// # Safety
///
/// `shared_info` is the address of the mapped `shared_info` page.
pub unsafe fn install(shared_info: VirtAddr, report: fn(&Trap) -> !) -> Result<(), i32> {
    SHARED_INFO.store(shared_info.as_u64(), Ordering::Relaxed);
    REPORT.store(report as *mut (), Ordering::Relaxed);
    // One more than there are vectors: an address of 0 ends the table.
    let mut table = [trap_info::default(); VECTORS.len() + 1];
    for (entry, vector) in table.iter_mut().zip(&VECTORS) {
        *entry = trap_info {
            vector: vector.number,
            flags: 0,
            cs: FLAT_KERNEL_CS,
            address: vector.stub as usize as u64,
        };
    }
    // SAFETY: a table of the form that the call expects, which Xen copies; the handlers end
    // the domain, so they break nothing that was going on.
    let result = unsafe {
        hypercall1::<__HYPERVISOR_set_trap_table>(
            (&raw const table).expose_provenance() as u64
        )
    };
    errno(result)
}

/// Second half of a stub: `frame` points at the vector that the stub has pushed.
extern "C" fn on_trap(frame: *const u64) -> ! {
    // A trap inside the report: no more words, just end.
    if REPORTING.swap(true, Ordering::Relaxed) {
        shutdown(Reason::Crash);
    }
    let word = |n: usize| {
        // SAFETY: the stub and Xen have pushed eight words from `frame` on, nine for a vector
        // with an error code, and no word beyond these is asked for.
        unsafe { frame.wrapping_add(n).read_volatile() }
    };
    let vector = word(0);
    let has_error = known(vector).is_some_and(|known| known.has_error);
    let rest = if has_error { 4 } else { 3 };
    let rsp = word(rest + 3);
    let trap = Trap {
        vector,
        error: has_error.then(|| word(3)),
        rip: word(rest),
        rsp,
        rflags: word(rest + 2),
        address: (vector == PAGE_FAULT).then(fault_address),
        callers: callers(rsp),
    };
    let report = REPORT.load(Ordering::Relaxed);
    if report.is_null() {
        shutdown(Reason::Crash);
    }
    // SAFETY: `install` has stored a function of exactly this type.
    let report = unsafe { core::mem::transmute::<*mut (), fn(&Trap) -> !>(report) };
    report(&trap)
}

/// `vcpu_info[0].arch.cr2`
fn fault_address() -> u64 {
    let shared = SHARED_INFO.load(Ordering::Relaxed);
    let offset = core::mem::offset_of!(xen_sys::vcpu_info, arch) as u64;
    let cr2 = VirtAddr::new_truncate(shared + offset).as_ptr::<u64>();
    // SAFETY: the page is mapped (promised to `install`), vCPU 0's part is its first, and
    // Xen wrote the word before it came here.
    unsafe { cr2.read_volatile() }
}

/// Scans the boot stack from `rsp` up.
fn callers(rsp: u64) -> [u64; CALLERS] {
    let mut found = [0; CALLERS];
    let mut room = found.iter_mut();
    let top = BOOT_STACK.top().as_u64();
    if rsp < BOOT_STACK.bottom().as_u64() + crate::memory::PAGE_SIZE as u64 {
        return found;
    }
    let mut at = rsp.next_multiple_of(8);
    while at < top {
        // SAFETY: `at` is aligned and between the guard page and the top of the boot stack.
        let word = unsafe { VirtAddr::new_truncate(at).as_ptr::<u64>().read_volatile() };
        if follows_call(word) {
            let Some(place) = room.next() else { break };
            *place = word;
        }
        at += 8;
    }
    found
}

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
}

/// Whether the instruction before `address` is a call: with a 32-bit distance (e8), or
/// through a register or memory (ff /2, of four usual lengths).
fn follows_call(address: u64) -> bool {
    let start = (&raw const __text_start).addr() as u64;
    let end = (&raw const __text_end).addr() as u64;
    let byte = |back: u64| {
        let at = VirtAddr::new_truncate(address - back).as_ptr::<u8>();
        // SAFETY: `address - back` is inside the text, which is mapped readable: `address` is
        // at least 8 bytes behind its start, and `back` is below 8.
        unsafe { at.read_volatile() }
    };
    (start + 8..end).contains(&address)
        && (byte(5) == 0xe8
            || [2, 3, 6, 7]
                .into_iter()
                .any(|back| byte(back) == 0xff && byte(back - 1) >> 3 & 7 == 2))
}

/// First half of a stub, entered by Xen and not by a call: pushes the vector, changes stacks.
#[unsafe(naked)]
extern "C" fn stub<const VECTOR: u8>() {
    naked_asm!(
        "push {vector}",
        "mov rdi, rsp",
        "lea rsp, [rip + {stack} + {top}]",
        "xor ebp, ebp",
        "cld",
        "call {on_trap}",
        "ud2",
        vector = const VECTOR,
        stack = sym TRAP_STACK,
        top = const TRAP_STACK_BYTES,
        on_trap = sym on_trap,
    );
}
