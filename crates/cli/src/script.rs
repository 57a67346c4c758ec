//! Scripts that are part of the binary, for what is done by the distribution's
//! own programs while a person watches.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use inn_host::process::{Program, run_attached};

use crate::failure::Failure;

/// Unpacks `files` beside each other, runs the first with `args`, and gives the
/// last line of what it printed; nothing where it failed, and said why.
pub(crate) async fn run(
    files: &[(&str, &str)],
    args: Vec<OsString>,
) -> Result<Option<String>, Failure> {
    let failed = |e: std::io::Error| Failure::because("cannot unpack the script", &e);
    let place = tempfile::tempdir().map_err(failed)?;
    for (name, content) in files {
        let path = place.path().join(name);
        fs::write(&path, content).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    let first = files.first().map(|(name, _)| place.path().join(name).into_os_string());
    let words: Vec<OsString> = first.into_iter().chain(args).collect();
    let done = tokio::task::spawn_blocking(move || run_attached(Program::BASH, words))
        .await
        .map_err(|e| Failure::because("the script did not end as it should", &e))?
        .map_err(|e| Failure::because("the script cannot be run", &e))?;
    let printed = String::from_utf8_lossy(&done.stdout);
    let last = printed.lines().last().map(str::trim).filter(|line| !line.is_empty());
    Ok(last.filter(|_| done.status.success()).map(str::to_owned))
}
