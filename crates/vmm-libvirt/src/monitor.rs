//! What QEMU is told by libvirt's way to its monitor: where its console goes,
//! and a tap by its descriptor, for both of which a domain's XML has no words.
//! Pure but for [`wire`].
//!
//! The guest has not run yet, so it sees nothing of the change. libvirt marks
//! such a domain as tainted ("custom-monitor"), and keeps looking after it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use inn_vmm::{Nic, NicBackend};
use serde_json::{Value, json};

use crate::definition::{CARD_BUS, mac};
use crate::library::{CallError, Domain};

/// libvirt's name of the first serial port's backend ("char" and the device's
/// alias, in all its versions).
const CONSOLE: &str = "charserial0";

/// What QEMU calls ours, until it has them.
const CONSOLE_SOCKET: &str = "inn-console";
const TAP: &str = "inn-tap";
const NETWORK: &str = "inn-net";

/// A number that libvirt's own sets of descriptors do not have: it counts from 0.
const LOG_SET: u32 = 5161;

/// What a machine is given by descriptor.
#[derive(Debug)]
pub(crate) struct Wires {
    /// Not of a machine that has it by its definition.
    pub(crate) console: Option<Console>,
    pub(crate) card: Option<Card>,
}

#[derive(Debug)]
pub(crate) struct Console {
    /// Where it is served.
    pub(crate) listener: UnixListener,
    /// The pipe that all of its output goes to.
    pub(crate) log: File,
}

#[derive(Debug)]
pub(crate) struct Card {
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u16,
    pub(crate) tap: OwnedFd,
}

impl Card {
    /// Of a machine whose card is a tap.
    pub(crate) fn of(nic: Option<&Nic>) -> std::io::Result<Option<Self>> {
        let Some(Nic { mac, backend: NicBackend::Tap(tap) }) = nic else { return Ok(None) };
        let (mac, mtu, tap) = (*mac, tap.mtu, tap.descriptor()?);
        Ok(Some(Self { mac, mtu, tap }))
    }
}

/// Gives a domain that has not run yet what it gets by descriptor.
pub(crate) fn wire(domain: &Domain, wires: Wires) -> Result<(), CallError> {
    let Wires { console, card } = wires;
    let tell = |command: Value, descriptor| {
        let answer = domain.tell_qemu(&command.to_string(), descriptor)?;
        refusal(&answer).map_or(Ok(()), |why| Err(CallError::other("telling QEMU", why)))
    };
    if let Some(Console { listener, log }) = &console {
        tell(take_descriptor(CONSOLE_SOCKET), Some(listener.as_fd()))?;
        tell(take_log(), Some(log.as_fd()))?;
        tell(move_console(), None)?;
    }
    if let Some(Card { mac, mtu, tap }) = card {
        tell(take_descriptor(TAP), Some(tap.as_fd()))?;
        tell(add_network(), None)?;
        tell(add_card(mac, mtu), None)?;
    }
    Ok(())
}

fn take_descriptor(name: &str) -> Value {
    json!({ "execute": "getfd", "arguments": { "fdname": name } })
}

fn take_log() -> Value {
    json!({ "execute": "add-fd", "arguments": { "fdset-id": LOG_SET } })
}

/// The log is complete whether or not somebody is attached; it is a pipe's end,
/// which can't be truncated.
fn move_console() -> Value {
    json!({ "execute": "chardev-change", "arguments": {
        "id": CONSOLE,
        "backend": { "type": "socket", "data": {
            "addr": { "type": "fd", "data": { "str": CONSOLE_SOCKET } },
            "server": true,
            "wait": false,
            "logfile": format!("/dev/fdset/{LOG_SET}"),
            "logappend": true,
        } },
    } })
}

/// Whether its frames have a header, QEMU asks the kernel.
fn add_network() -> Value {
    json!({ "execute": "netdev_add", "arguments": { "type": "tap", "id": NETWORK, "fd": TAP } })
}

fn add_card(address: [u8; 6], mtu: u16) -> Value {
    json!({ "execute": "device_add", "arguments": {
        "driver": "virtio-net-pci",
        "id": "inn-card",
        "netdev": NETWORK,
        "mac": mac(address),
        "host_mtu": mtu,
        // No boot ROM: nothing boots from the network.
        "romfile": "",
        "bus": CARD_BUS,
    } })
}

/// At most 8 bytes count (RFC 6143, 7.2.2).
pub(crate) fn set_screen_password(password: &str) -> String {
    json!({ "execute": "set_password", "arguments": {
        "protocol": "vnc", "password": password, "connected": "keep"
    } })
    .to_string()
}

/// Why QEMU did not do it, by its answer.
pub(crate) fn refusal(answer: &str) -> Option<String> {
    let answer: Value = match serde_json::from_str(answer) {
        Ok(answer) => answer,
        Err(_) => return Some("its answer is no JSON".to_owned()),
    };
    match (answer.get("return"), &answer["error"]["desc"]) {
        (Some(_), _) => None,
        (None, Value::String(why)) => Some(why.clone()),
        (None, _) => Some("its answer has no reason".to_owned()),
    }
}

/// The reason in the details of a SHUTDOWN event: a ShutdownCause by name.
pub(crate) fn shutdown_reason(details: &str) -> Option<String> {
    let details: Value = serde_json::from_str(details).ok()?;
    Some(details["reason"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_for_what_it_is() {
        assert_eq!(refusal(r#"{"return":{},"id":"libvirt-1"}"#), None);
        let error = r#"{"id":"libvirt-2","error":{"class":"GenericError","desc":"no bus"}}"#;
        assert_eq!(refusal(error).as_deref(), Some("no bus"));
        assert!(refusal("{}").is_some() && refusal("").is_some());
        let details = r#"{"guest":true,"reason":"guest-reset"}"#;
        assert_eq!(shutdown_reason(details).as_deref(), Some("guest-reset"));
        assert_eq!(shutdown_reason("null"), None);
    }

    #[test]
    fn a_card_is_put_where_the_definition_has_room() {
        let told = add_card([2, 0, 0, 0, 0, 0xa1], 1400);
        assert_eq!(told["arguments"]["mac"], "02:00:00:00:00:a1");
        assert_eq!(told["arguments"]["bus"], CARD_BUS);
        assert_eq!(told["arguments"]["host_mtu"], 1400);
    }
}
