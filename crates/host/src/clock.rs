/// Whether somebody keeps the host's clock right, as far as the kernel knows
/// (adjtimex(2): TIME_ERROR is the answer where nobody does).
#[allow(unsafe_code)]
pub fn is_synchronised() -> Option<bool> {
    // SAFETY: all zeros is a timex that asks and changes nothing (`modes` is 0).
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to the struct, which outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}
