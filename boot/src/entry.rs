//! The first instructions, in assembly: nothing here can be said in Rust.
//!
//! The memory functions are string instructions so that no compiler can turn them into calls
//! of themselves; `core` is built expecting them (`compiler_builtins` of a hosted target has
//! none).

use core::arch::global_asm;

use xen_sys::{
    XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_GUEST_OS, XEN_ELFNOTE_GUEST_VERSION,
    XEN_ELFNOTE_HYPERCALL_PAGE, XEN_ELFNOTE_LOADER, XEN_ELFNOTE_PADDR_OFFSET,
    XEN_ELFNOTE_VIRT_BASE, XEN_ELFNOTE_XEN_VERSION,
};

use crate::stack::{BOOT_STACK, STACK_BYTES};

global_asm!(
    ".macro xen_note_text kind:req, text:vararg",
    ".balign 4",
    ".long 4",
    ".long 3f - 2f",
    ".long \\kind",
    ".asciz \"Xen\"",
    "2: .asciz \\text",
    "3: .balign 4",
    ".endm",
    ".macro xen_note_address kind:req, address:req",
    ".balign 4",
    ".long 4",
    ".long 8",
    ".long \\kind",
    ".asciz \"Xen\"",
    ".quad \\address",
    ".endm",
    ".pushsection .note.Xen, \"a\", @note",
    "xen_note_text {guest_os}, \"pcidom\"",
    concat!("xen_note_text {guest_version}, \"", env!("CARGO_PKG_VERSION"), "\""),
    "xen_note_text {xen_version}, \"xen-3.0\"",
    "xen_note_text {loader}, \"generic\"",
    "xen_note_address {virt_base}, VIRT_BASE",
    "xen_note_address {paddr_offset}, VIRT_BASE",
    "xen_note_address {entry}, _start",
    "xen_note_address {hypercall}, hypercall_page",
    ".popsection",
    guest_os = const XEN_ELFNOTE_GUEST_OS,
    guest_version = const XEN_ELFNOTE_GUEST_VERSION,
    xen_version = const XEN_ELFNOTE_XEN_VERSION,
    loader = const XEN_ELFNOTE_LOADER,
    virt_base = const XEN_ELFNOTE_VIRT_BASE,
    paddr_offset = const XEN_ELFNOTE_PADDR_OFFSET,
    entry = const XEN_ELFNOTE_ENTRY,
    hypercall = const XEN_ELFNOTE_HYPERCALL_PAGE,
);

// Xen enters with the address of `start_info` in rsi and upcalls masked.
global_asm!(
    ".pushsection .text.start, \"ax\", @progbits",
    ".globl _start",
    ".type _start, @function",
    "_start:",
    "cld",
    "lea rsp, [rip + {stack} + {top}]",
    "xor ebp, ebp",
    "mov rdi, rsi",
    "call pcidom_entry",
    "ud2",
    ".popsection",
    // Xen fills this page before the first instruction runs, so the file need not hold it.
    ".pushsection .hypercall_page, \"awx\", @nobits",
    ".balign 4096",
    ".globl hypercall_page",
    ".type hypercall_page, @object",
    "hypercall_page: .skip 4096",
    ".popsection",
    stack = sym BOOT_STACK,
    top = const STACK_BYTES,
);

global_asm!(
    ".pushsection .text.memory, \"ax\", @progbits",
    // void *memcpy(rdi, rsi, rdx)
    ".globl memcpy",
    ".type memcpy, @function",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    // void *memmove(rdi, rsi, rdx): from the end if the target starts inside the source.
    ".globl memmove",
    ".type memmove, @function",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "mov r8, rdi",
    "sub r8, rsi",
    "cmp r8, rdx",
    "jb 2f",
    "rep movsb",
    "ret",
    "2:",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    // void *memset(rdi, esi, rdx)
    ".globl memset",
    ".type memset, @function",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    // int memcmp(rdi, rsi, rdx), and bcmp, which asks for less. The first `xor` sets the
    // zero flag for a length of 0.
    ".globl memcmp",
    ".type memcmp, @function",
    ".globl bcmp",
    ".type bcmp, @function",
    "memcmp:",
    "bcmp:",
    "mov rcx, rdx",
    "xor eax, eax",
    "repe cmpsb",
    "je 2f",
    "movzx eax, byte ptr [rdi - 1]",
    "movzx ecx, byte ptr [rsi - 1]",
    "sub eax, ecx",
    "2: ret",
    ".globl strlen",
    ".type strlen, @function",
    "strlen:",
    "xor eax, eax",
    "2: cmp byte ptr [rdi + rax], 0",
    "je 3f",
    "inc rax",
    "jmp 2b",
    "3: ret",
    ".popsection",
);
