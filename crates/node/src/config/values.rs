//! How texts are read: each error says what would have been right.

use std::fmt::{self, Display};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use inn_units::{Bytes, NodeName, parse_duration};

use super::ApiListen;

/// Where the API is unless told otherwise.
pub(super) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5100);

pub(super) fn put<T>(slot: &mut T, value: Result<T, String>) -> Result<(), String> {
    *slot = value?;
    Ok(())
}

pub(super) fn parsed<T: FromStr>(text: &str) -> Result<T, String>
where
    T::Err: Display,
{
    text.parse().map_err(|e: T::Err| e.to_string())
}

/// A whole number, and in other words than the standard library's where it is
/// none.
pub(super) fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "must be a whole number that is not too large".to_owned())
}

pub(super) fn node_name(text: &str) -> Result<String, String> {
    parsed::<NodeName>(text).map(|name| name.to_string())
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text).map_err(|e| e.to_string())?;
    Ok(text.to_owned())
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".to_owned()),
        Ok(d) => Ok(d),
        Err(e) => Err(e.to_string()),
    }
}

pub(super) fn optional_time(text: &str) -> Result<Option<Duration>, String> {
    if text == "none" { Ok(None) } else { time(text).map(Some) }
}

pub(super) fn optional_size(text: &str) -> Result<Option<Bytes>, String> {
    if text == "none" { Ok(None) } else { parsed(text).map(Some) }
}

pub(super) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("must be an absolute path".to_owned()) }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    choice(text, &[("true", true), ("false", false)])
}

pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("must be {}", names.join(" or "))
    })
}

/// Where traces go. Whether this program can send them there is seen at its
/// start: a file may be for another one.
pub(super) fn collector(text: &str) -> Result<String, String> {
    match text.starts_with("http://") || text.starts_with("https://") {
        true => Ok(text.to_owned()),
        false => Err("is no address such as http://127.0.0.1:4318".to_owned()),
    }
}

pub(super) fn listen(text: &str) -> Result<ApiListen, String> {
    if text == "none" {
        return Ok(ApiListen::Off);
    }
    let hint = "is not host:port, such as 127.0.0.1:5100, nor none";
    let address = text
        .to_socket_addrs()
        .map_err(|_| hint.to_owned())?
        .next()
        .ok_or_else(|| hint.to_owned())?;
    Ok(ApiListen::At { address, asked_for: true })
}

impl Display for ApiListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("none"),
            Self::At { address, .. } => address.fmt(f),
        }
    }
}
