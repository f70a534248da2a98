//! The C library's allocator, told how this program uses it.

/// Lets all threads share one arena. Without this each thread that ever allocates costs a few dozen KiB, and the threads of a VMM
/// allocate little and seldom: nothing on the I/O path does.
pub fn share_one_arena() {
    // SAFETY: changes a parameter of the allocator; called before other threads exist. A refusal costs memory only.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
