use std::fmt;
use std::net::IpAddr;

use inn_units::InterfaceName;

use super::observed::Port;

/// One change to the kernel's links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkStep {
    AddBridge {
        name: InterfaceName,
        mac: [u8; 6],
    },
    BridgeOptions {
        name: InterfaceName,
    },
    Alias {
        name: InterfaceName,
        alias: String,
    },
    Mac {
        name: InterfaceName,
        mac: [u8; 6],
    },
    Mtu {
        name: InterfaceName,
        mtu: u16,
    },
    /// A file below /proc/sys.
    Setting {
        file: String,
        value: String,
    },
    AddAddress {
        name: InterfaceName,
        ip: IpAddr,
        prefix: u8,
    },
    RemoveAddress {
        name: InterfaceName,
        ip: IpAddr,
        prefix: u8,
    },
    Enslave {
        name: InterfaceName,
        bridge: InterfaceName,
        mtu: u16,
        alias: String,
    },
    Port {
        name: InterfaceName,
        port: Port,
    },
    Up {
        name: InterfaceName,
    },
    AddNeighbour {
        name: InterfaceName,
        ip: IpAddr,
        mac: [u8; 6],
    },
    RemoveNeighbour {
        name: InterfaceName,
        ip: IpAddr,
        mac: Vec<u8>,
    },
    AddStation {
        name: InterfaceName,
        mac: [u8; 6],
    },
    RemoveStation {
        name: InterfaceName,
        mac: Vec<u8>,
    },
    Remove {
        name: InterfaceName,
    },
}

impl fmt::Display for LinkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddBridge { name, mac } => write!(f, "add bridge {name} address {}", Mac(mac)),
            Self::BridgeOptions { name } => {
                write!(f, "set bridge {name} stp off, multicast snooping off")
            }
            Self::Alias { name, alias } => write!(f, "set {name} alias \"{alias}\""),
            Self::Mac { name, mac } => write!(f, "set {name} address {}", Mac(mac)),
            Self::Mtu { name, mtu } => write!(f, "set {name} mtu {mtu}"),
            Self::Setting { file, value } => write!(f, "set {file} = {value}"),
            Self::AddAddress { name, ip, prefix } => write!(f, "add {name} {ip}/{prefix}"),
            Self::RemoveAddress { name, ip, prefix } => write!(f, "remove {name} {ip}/{prefix}"),
            Self::Enslave { name, bridge, mtu, alias } => {
                write!(f, "set {name} master {bridge} mtu {mtu} alias \"{alias}\"")
            }
            Self::Port { name, port } => {
                let on = |on: bool| if on { "on" } else { "off" };
                let Port { isolated, learning, flood } = port;
                write!(
                    f,
                    "set port {name} isolated {}, learning {}, flood {}",
                    on(*isolated),
                    on(*learning),
                    on(*flood)
                )
            }
            Self::Up { name } => write!(f, "set {name} up"),
            Self::AddNeighbour { name, ip, mac } => {
                write!(f, "add neighbour {ip} at {} on {name}", Mac(mac))
            }
            Self::RemoveNeighbour { name, ip, mac } => {
                write!(f, "remove neighbour {ip} at {} on {name}", Mac(mac))
            }
            Self::AddStation { name, mac } => write!(f, "add station {} at {name}", Mac(mac)),
            Self::RemoveStation { name, mac } => {
                write!(f, "remove station {} at {name}", Mac(mac))
            }
            Self::Remove { name } => write!(f, "remove {name}"),
        }
    }
}

struct Mac<'a>(&'a [u8]);

impl fmt::Display for Mac<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}
