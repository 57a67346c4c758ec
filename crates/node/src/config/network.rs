use inn_domain::network::{PortRange, ReservedPort, Transport};

use super::values::choice;
use crate::network::{ForeignChoice, ModeChoice};

pub(super) fn mode(text: &str) -> Result<ModeChoice, String> {
    let modes = [
        ("auto", ModeChoice::Auto),
        ("bridge", ModeChoice::Bridge),
        ("user", ModeChoice::User),
        ("none", ModeChoice::None),
    ];
    choice(text, &modes)
}

pub(super) fn foreign(text: &str) -> Result<ForeignChoice, String> {
    let all = [
        ("none", ForeignChoice::None),
        ("docker-user", ForeignChoice::DockerUser),
        ("firewalld", ForeignChoice::Firewalld),
    ];
    choice(text, &all)
}

pub(super) fn reserved(text: &str) -> Result<Vec<ReservedPort>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    text.split(',').map(|part| one(part.trim())).collect()
}

fn one(text: &str) -> Result<ReservedPort, String> {
    let wrong = || format!("{text} is no port; write 22, 22/tcp or 6000-6010/udp");
    let (ports, transport) = match text.split_once('/') {
        None => (text, None),
        Some((ports, "tcp")) => (ports, Some(Transport::Tcp)),
        Some((ports, "udp")) => (ports, Some(Transport::Udp)),
        Some(_) => return Err(wrong()),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
    let ports = PortRange { first: port(first)?, last: port(last)? };
    if ports.last < ports.first {
        return Err(wrong());
    }
    Ok(ReservedPort { transport, ports, whose: "ports.reserved in the configuration" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_read() {
        assert_eq!(reserved("none"), Ok(vec![]));
        let all = reserved("22/tcp, 53,6000-6010/udp").unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].transport, all[1].transport), (Some(Transport::Tcp), None));
        assert_eq!(all[2].ports, PortRange { first: 6000, last: 6010 });
        for bad in ["", "0", "x", "22/sctp", "9-8", "22,,23", "70000"] {
            assert!(reserved(bad).is_err(), "{bad}");
        }
    }
}
