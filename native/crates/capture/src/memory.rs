//! The process's allocator, told what a proxy needs of it.
//!
//! Frames of 16 to 256 KiB come and go for every connection that moves bytes. By default glibc gives such
//! memory back to the kernel at each release and faults it in again a moment later: a tenth of the CPU of
//! a transfer. Here it is kept while traffic passes, and given back when it has stopped.

/// Bytes below which memory is taken from the heap, and that the heap may hold unused at its end.
const KEEP_BYTES: libc::c_int = 4 << 20;
/// Heaps: one for each of the usual two workers.
const ARENAS: libc::c_int = 2;

/// Call once, before threads are started.
pub fn tune_allocator() {
    for (option, value) in [
        (libc::M_MMAP_THRESHOLD, KEEP_BYTES),
        (libc::M_TRIM_THRESHOLD, KEEP_BYTES),
        (libc::M_ARENA_MAX, ARENAS),
    ] {
        // SAFETY: mallopt changes a setting of the allocator under its own lock; a value that it does
        // not take is ignored.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Gives unused memory back to the kernel.
pub fn release_memory() {
    // SAFETY: malloc_trim takes the allocator's locks itself and frees only what is unused.
    unsafe { libc::malloc_trim(0) };
}
