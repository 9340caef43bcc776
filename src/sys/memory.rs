//! The allocator's settings that keep a quiet supervisor small.
//!
//! Does nothing where the C library is not glibc. Called by main before the
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
