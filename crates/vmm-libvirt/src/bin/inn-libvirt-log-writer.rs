//! The log writer by itself, for tests of this crate: a test's own program
//! can't be started as one. Agents start themselves.

use std::process::ExitCode;

fn main() -> ExitCode {
    inn_host::log_writer::if_asked().unwrap_or(ExitCode::from(2))
}
