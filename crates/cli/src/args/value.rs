use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use inn_units::{Bytes, Digest, MIB, VmName};

use super::files::SameVmPath;

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
    path_in(vm, path).map(Place::Guest)
}

/// `VM:/path` and nothing else.
pub(super) fn guest_path(text: &str) -> Result<GuestPath, String> {
    let (vm, path) =
        text.split_once(':').ok_or("must be VM:PATH, as in web:/etc/hostname".to_owned())?;
    vm.parse::<VmName>().map_err(|e| e.to_string())?;
    path_in(vm, path)
}

/// `/path`, or `VM:/path` with the VM that was named before.
pub(super) fn path_in_same_vm(text: &str) -> Result<SameVmPath, String> {
    if text.starts_with('/') {
        return Ok(SameVmPath { vm: None, path: absolute(text)? });
    }
    let GuestPath { vm, path } = guest_path(text)?;
    Ok(SameVmPath { vm: Some(vm), path })
}

fn path_in(vm: &str, path: &str) -> Result<GuestPath, String> {
    let path = absolute(path).map_err(|e| format!("{e}, as in {vm}:/root/main.py"))?;
    Ok(GuestPath { vm: vm.to_owned(), path })
}

pub(super) fn absolute(path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err("the path in the VM must be absolute".into());
    }
    if path.split('/').any(|part| part == "..") {
        return Err("the path in the VM must not have `..` in it".into());
    }
    Ok(path.to_owned())
}

/// Permissions as the API spells them: `0644`.
pub(super) fn mode(text: &str) -> Result<String, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o7777) if !text.starts_with('+') => Ok(format!("{mode:04o}")),
        _ => Err("is not a mode in octal such as 0644".into()),
    }
}

/// A signal's name or number, as the API takes it.
pub(super) fn signal(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '-';
    if text.is_empty() || text.len() > 16 || !text.chars().all(fits) || text.starts_with('-') {
        return Err("is not a signal such as TERM, SIGKILL or 10".into());
    }
    Ok(text.to_ascii_uppercase())
}

/// A duration of whole seconds, at least one.
pub(super) fn whole_seconds(text: &str) -> Result<u32, String> {
    let duration = duration(text)?;
    if duration.subsec_nanos() != 0 {
        return Err("must be whole seconds".into());
    }
    u32::try_from(duration.as_secs()).map_err(|_| "is too long".into())
}

/// `10.0.0.5/24`.
pub(super) fn cidr(text: &str) -> Result<String, String> {
    let refuse = || "is not an address with its prefix's length, such as 10.0.0.5/24".to_owned();
    let (address, prefix) = text.split_once('/').ok_or_else(refuse)?;
    let address: IpAddr = address.parse().map_err(|_| refuse())?;
    let prefix: u8 = prefix.parse().map_err(|_| refuse())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if prefix > most {
        return Err(format!("has a prefix longer than {most} bits"));
    }
    Ok(format!("{address}/{prefix}"))
}

/// A checksum in hex, or where a list of them is.
pub(super) fn sum(text: &str) -> Result<String, String> {
    let hex = text.strip_prefix("sha256:").or(text.strip_prefix("sha512:")).unwrap_or(text);
    let is_hex = !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex && !matches!(hex.len(), 64 | 128) {
        return Err("is neither a SHA-256 of 64 hex digits nor a SHA-512 of 128".to_owned());
    }
    Ok(text.to_owned())
}

/// A SHA-256 in hex, with or without `sha256:` in front; the answer is without.
pub(super) fn sha256(text: &str) -> Result<String, String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    let digest: Digest = format!("sha256:{hex}")
        .parse()
        .map_err(|_| "is not a SHA-256 of 64 hex digits, as sha256sum prints it".to_owned())?;
    Ok(digest.hex())
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

/// Rounded up, so that no time becomes none.
pub(crate) fn seconds_up(d: std::time::Duration) -> u64 {
    d.as_secs() + u64::from(d.subsec_nanos() > 0)
}
