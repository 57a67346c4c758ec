/// Gives memory that is free in the allocator back to the kernel.
///
/// For after a burst such as an import: glibc otherwise keeps what the threads
/// of the burst have freed, some 10 MiB of it, for as long as the agent lives.
#[allow(unsafe_code)]
pub fn release_freed() {
    // SAFETY: malloc_trim(3) is MT-Safe, takes an integer, and touches only
    // memory that the allocator itself holds as free.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
