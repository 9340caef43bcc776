//! The allocator's settings that keep a quiet supervisor small, and what a fork need not keep.
//!
//! The first does nothing where the C library is not glibc. Called by main before the
//! runtime starts, and when a step settles down to waiting.
#![allow(unsafe_code)]

/// Keeps all threads in one arena: by default each new thread may take 132 KiB of its own.
///
/// Call before the first thread starts.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and only sets a parameter of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives free memory back to the kernel.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim touches only memory the allocator holds as free, under its own lock.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Where pages are larger the kernel refuses, and a guardian is that much larger.
const PAGE: usize = 4096;
/// How far below the present end of the stack something may have been written before.
const STACK_DEPTH: usize = 512 * 1024;
/// What the calls of our caller still need.
const STACK_MARGIN: usize = 16 * 1024;

/// Gives back the stack that calls which have returned once used.
///
/// For the main thread alone: it relies on the gap the kernel keeps below its stack.
#[inline(never)]
pub fn trim_stack() {
    let here = 0u8;
    let end = (std::hint::black_box(&raw const here) as usize).saturating_sub(STACK_MARGIN) / PAGE * PAGE;
    let start = end.saturating_sub(STACK_DEPTH) as *mut libc::c_void;
    // SAFETY: everything from the stack's end to 1 MiB below its mapping is either stack that
    // no call uses, since it is below this one's frame by a margin, or unmapped, which only
    // makes the call say so. What is given back reads as zero when it is used again.
    unsafe { libc::madvise(start, STACK_DEPTH, libc::MADV_DONTNEED) };
}
