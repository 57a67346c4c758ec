use std::path::PathBuf;
use std::time::Duration;

use inn_units::{Bytes, MIB, VmName};

/// A path inside a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestPath {
    pub vm: String,
    pub path: String,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Guest(GuestPath),
    Host(PathBuf),
    /// `-`: stdin as a source, stdout as a destination.
    Stream,
}

/// `VM:/path` is in a VM; what has no colon, or a slash before it, is here.
pub(crate) fn parse_place(text: &str) -> Result<Place, String> {
    if text == "-" {
        return Ok(Place::Stream);
    }
    let Some((vm, path)) = text.split_once(':').filter(|(vm, _)| !vm.contains('/')) else {
        return match text {
            "" => Err("a path is missing".into()),
            path => Ok(Place::Host(path.into())),
        };
    };
    vm.parse::<VmName>().map_err(|e| {
        format!("{e}; write ./{text} for a file of this host whose name has a colon")
    })?;
    if !path.starts_with('/') {
        return Err(format!("the path in the VM must be absolute, as in {vm}:/{path}"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err("the path in the VM must not have `..` in it".into());
    }
    Ok(Place::Guest(GuestPath { vm: vm.to_owned(), path: path.to_owned() }))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match inn_units::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be more than 0".into()),
        Ok(d) => Ok(d),
        Err(e) => Err(e.to_string()),
    }
}

/// `K=V`, or `K` alone for its value in our own environment.
pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, value.to_owned()),
        None => match std::env::var(text) {
            Ok(value) => (text, value),
            Err(_) => {
                return Err(format!("{text} is not set here; write {text}=VALUE to give it one"));
            }
        },
    };
    if key.is_empty() || key.contains('\0') || value.contains('\0') {
        return Err("is not of the form NAME=VALUE".into());
    }
    Ok((key.to_owned(), value))
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("is not of the form KEY=VALUE".into()),
    }
}

/// A size whose bare number means MiB.
pub(super) fn mebibytes(text: &str) -> Result<Bytes, String> {
    match text.trim().parse::<u64>() {
        Ok(n) => n.checked_mul(MIB).map(Bytes).ok_or_else(|| "is too large".into()),
        Err(_) => text.parse::<Bytes>().map_err(|e| e.to_string()),
    }
}
