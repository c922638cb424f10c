//! The heap: linked_list_allocator over a piece of `.bss`.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicUsize, Ordering};

use linked_list_allocator::Heap;
use pcidom_kernel::HeapUse;
use spin::Mutex;

/// One device lent to one guest took 29 KB at most, XenStore messages included; 64 of each
/// would stay below 1 MiB. The image needs `memory=4` anyway (linker.ld), and half of that is
/// free with this heap.
const HEAP_BYTES: usize = 1024 * 1024;

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; HEAP_BYTES]>);

// SAFETY: only the allocator is given its address.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; HEAP_BYTES]));

/// The allocator of the image.
struct KernelHeap(Mutex<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(Mutex::new(Heap::empty()));

/// Makes the heap usable. Called once, before anything allocates.
pub(crate) fn start() {
    let mut heap = HEAP.0.lock();
    if heap.size() == 0 {
        // SAFETY: the memory is static and nothing else uses it; the size check sees to it
        // that it is given only once.
        unsafe { heap.init(MEMORY.0.get().cast(), HEAP_BYTES) };
    }
}

/// The most bytes that were in use at one time.
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// How full the heap is now.
pub(crate) fn usage() -> HeapUse {
    let heap = HEAP.0.lock();
    HeapUse { used: heap.used(), peak: PEAK.load(Ordering::Relaxed), size: heap.size() }
}

// SAFETY: the lock serialises the calls, and `Heap` hands out what `GlobalAlloc` asks for. A
// trap can interrupt an allocation, but what reports it does not allocate.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut heap = self.0.lock();
        let block = heap.allocate_first_fit(layout).map_or(null_mut(), NonNull::as_ptr);
        PEAK.fetch_max(heap.used(), Ordering::Relaxed);
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(block) else { return };
        let mut heap = self.0.lock();
        // SAFETY: the caller promises that the block came from `alloc` with this layout.
        unsafe { heap.deallocate(block, layout) };
    }
}
