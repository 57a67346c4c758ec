use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use inn_api::{PortMapCreate, PortRange, Transport, VmAddressChange};
use inn_units::{InterfaceName, NetworkName};

use super::{OneVm, value};

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make a network that VMs can be on
    Create(NetworkCreateArgs),
    /// List the node's networks
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  inn network list\n  inn network list -o json"
    )]
    List,
    /// Show networks, and who is on them
    #[command(after_help = "Examples:\n  inn network show web\n  inn network show web -o json")]
    Show {
        /// Names or ids of networks
        #[arg(value_name = "NETWORK", required = true)]
        networks: Vec<String>,
    },
    /// Delete networks that no VM is on
    #[command(visible_alias = "rm", after_help = "Examples:\n  inn network delete web")]
    Delete {
        /// Names or ids of networks
        #[arg(value_name = "NETWORK", required = true)]
        networks: Vec<String>,
    },
    /// Print what the node does to the host's network, as a script for nft
    #[command(after_help = "Examples:
  inn network plan
  inn network plan | nft -c -f -              have nft look at it")]
    Plan,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn network create web
  inn network create web --subnet 10.99.0.0/24 --subnet fd00:99::/64 --peers
  inn network create lab --kind isolated
  inn network create dmz --kind routed --subnet 192.0.2.0/26 --uplink eth1

Without a subnet it gets one of each family that nothing else here has. Its VMs
reach the world, and neither each other nor this host, unless it says so.")]
pub(crate) struct NetworkCreateArgs {
    /// A DNS label: its VMs are found at VM.NETWORK.inn.internal
    pub name: NetworkName,
    /// A subnet, IPv4 or IPv6; once for each
    #[arg(long = "subnet", value_name = "CIDR")]
    pub subnets: Vec<String>,
    /// How its VMs leave it
    #[arg(long, value_enum, default_value_t)]
    pub kind: KindArg,
    /// The host's interface that they leave through; the default route's unless given
    #[arg(long, value_name = "INTERFACE")]
    pub uplink: Option<InterfaceName>,
    /// The largest packet; the uplink's unless given
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u16>,
    /// Let its VMs reach one another
    #[arg(long)]
    pub peers: bool,
    /// Let its VMs reach services of this host
    #[arg(long)]
    pub allow_host: bool,
    /// Let its VMs reach the metadata address of clouds
    #[arg(long)]
    pub allow_metadata: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    /// With this host's address
    #[default]
    Nat,
    /// With their own addresses
    Routed,
    /// Not at all
    Isolated,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// Map ports of this host to VMs or addresses
    Add(PortAddArgs),
    /// List port maps
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  inn port list\n  inn port list --vm web\n  inn port list -o json"
    )]
    List {
        /// Only those that lead to this VM
        #[arg(long, value_name = "VM")]
        vm: Option<String>,
    },
    /// Unmap ports
    #[command(
        visible_alias = "rm",
        after_help = "Examples:
  inn port delete 8080/tcp
  inn port delete 127.0.0.1:8000-8010/udp 5f0c9a1be2d34407"
    )]
    Delete {
        /// Names, as the list has them, or ids
        #[arg(value_name = "PORT", required = true)]
        ports: Vec<String>,
    },
    /// Mend what a firewall's reload has taken away, at once
    #[command(after_help = "Examples:\n  inn port restore

The agent notices most such things by itself, and mends them within a second.")]
    Restore,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn port add 8080:80 --vm web
  inn port add 127.0.0.1:8080:80 5353:53/udp --vm web
  inn port add '[2001:db8::1]:8080:80' --vm web
  inn port add 8000-8010:9000-9010 --vm web
  inn port add 2222:22 --address 10.0.0.7
  inn port add --file maps.json

All are mapped or none. A file holds a list of objects with protocol, hostPort,
vm or targetAddress, and targetPort. A map to a VM follows it over restarts.")]
pub(crate) struct PortAddArgs {
    /// `[ADDRESS:]HOST:GUEST[/udp]`, where HOST and GUEST are ports or ranges
    #[arg(value_name = "MAP", value_parser = port_map, required_unless_present = "file")]
    pub maps: Vec<PortMapCreate>,
    /// The VM that they lead to
    #[arg(long, value_name = "VM", conflicts_with = "address")]
    pub vm: Option<String>,
    /// An address that they lead to
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// Only for what comes in through this interface of the host's
    #[arg(long, value_name = "INTERFACE")]
    pub interface: Option<InterfaceName>,
    /// Show the target this host's address in place of the client's
    #[arg(long)]
    pub masquerade: bool,
    /// A list of maps as JSON; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["maps", "vm", "address", "interface"])]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm policy web                           what holds, and what was denied
  inn vm policy web none
  inn vm policy web allow_all
  inn vm policy web --file policy.json

A file holds {\"mode\": \"rules\", \"rules\": [...]}, where a rule is such as
{\"action\": \"allow\", \"protocol\": \"tcp\", \"ports\": [\"443\"], \"domain\": \"example.org\"};
the first that fits decides, and what fits none is denied.")]
pub(crate) struct VmPolicyArgs {
    #[command(flatten)]
    pub vm: OneVm,
    /// none: nothing; allow_all: whatever its network allows
    #[arg(value_name = "MODE", value_enum, conflicts_with = "file")]
    pub mode: Option<PolicyModeArg>,
    /// A policy as JSON; - is stdin
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyModeArg {
    #[value(name = "none")]
    None,
    #[value(name = "allow_all", alias = "allow-all")]
    AllowAll,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm ip web
  inn vm ip web --timeout 120s
  ssh root@$(inn vm ip web)
  inn vm ip web --set 10.213.0.40             port maps and its name follow
  inn vm ip web --set auto                    another one, of the node's choice

Prints the IPv4 address, or the IPv6 one where there is no other. A VM that runs
gets another one at once; one that asks by DHCP has it at its renewal.")]
pub(crate) struct IpArgs {
    #[command(flatten)]
    pub vm: OneVm,
    /// How long an address is waited for
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::duration)]
    pub timeout: Duration,
    /// The IPv6 address
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Give it another one: an address of its network's, auto, or auto6
    #[arg(long, value_name = "ADDRESS")]
    pub set: Vec<SetAddress>,
}

impl IpArgs {
    /// `None` where nothing is to be changed.
    pub(crate) fn change(&self) -> Option<VmAddressChange> {
        let mut change = VmAddressChange::default();
        for set in &self.set {
            match *set {
                SetAddress::Ipv4(wish) => change.ipv4 = Some(wish),
                SetAddress::Ipv6(wish) => change.ipv6 = Some(wish),
            }
        }
        (!self.set.is_empty()).then_some(change)
    }
}

/// Without an address: one of the node's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetAddress {
    Ipv4(Option<Ipv4Addr>),
    Ipv6(Option<Ipv6Addr>),
}

impl FromStr for SetAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Ipv4(None)),
            ("auto6", _) => Ok(Self::Ipv6(None)),
            (_, Ok(IpAddr::V4(address))) => Ok(Self::Ipv4(Some(address))),
            (_, Ok(IpAddr::V6(address))) => Ok(Self::Ipv6(Some(address))),
            (_, Err(_)) => Err(format!("{text} is neither an address nor auto or auto6")),
        }
    }
}

/// `8080:80`, `8080:80/udp`, `127.0.0.1:8080:80`, `[::1]:8080:80`,
/// `8000-8010:9000-9010`, `8080`.
pub(crate) fn port_map(text: &str) -> Result<PortMapCreate, String> {
    let wrong = || {
        format!(
            "`{text}` is no port map; write 8080:80, 127.0.0.1:8080:80, 8000-8010:9000-9010 or 53:53/udp"
        )
    };
    let (rest, protocol) = match text.rsplit_once('/') {
        None => (text, Transport::Tcp),
        Some((rest, "tcp")) => (rest, Transport::Tcp),
        Some((rest, "udp")) => (rest, Transport::Udp),
        Some((_, other)) => return Err(format!("`{other}` is no protocol here; it is tcp or udp")),
    };
    let (address, ports) = match rest.strip_prefix('[') {
        Some(more) => {
            let (address, ports) = more.split_once("]:").ok_or_else(wrong)?;
            (Some(address), ports)
        }
        None => match rest.split(':').count() {
            3 => {
                let (address, ports) = rest.split_once(':').ok_or_else(wrong)?;
                (Some(address), ports)
            }
            1 | 2 => (None, rest),
            _ => return Err(wrong()),
        },
    };
    let address = address.map(|text| text.parse::<IpAddr>().map_err(|_| wrong())).transpose()?;
    // An address of all is all of them.
    let host_address = address.filter(|address| !address.is_unspecified());
    let (host, guest) = ports.split_once(':').unwrap_or((ports, ports));
    let range = |text: &str| text.parse::<PortRange>().map_err(|_| wrong());
    let (host, guest) = (range(host)?, range(guest)?);
    // A range leads to as many, or to those that follow the one that is said.
    if guest.first != guest.last && guest.last - guest.first != host.last - host.first {
        return Err(format!("{text}: {host} and {guest} are not as many ports"));
    }
    Ok(PortMapCreate {
        protocol,
        host_port: host.first,
        host_port_end: (host.first != host.last).then_some(host.last),
        host_address,
        target_port: Some(guest.first),
        ..PortMapCreate::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_set_by_what_it_is() {
        let set = |text: &str| text.parse::<SetAddress>();
        assert_eq!(set("10.0.0.9"), Ok(SetAddress::Ipv4(Some([10, 0, 0, 9].into()))));
        assert_eq!(set("fd00::9"), Ok(SetAddress::Ipv6("fd00::9".parse().ok())));
        assert_eq!(
            (set("auto"), set("auto6")),
            (Ok(SetAddress::Ipv4(None)), Ok(SetAddress::Ipv6(None)))
        );
        assert!(set("10.0.0").unwrap_err().contains("auto"));
    }

    #[test]
    fn port_maps_are_written_as_elsewhere() {
        let read = |text: &str| {
            let map = port_map(text).unwrap();
            let address = map.host_address.map(|address| address.to_string());
            let udp = map.protocol == Transport::Udp;
            (address, map.host_port, map.host_port_end, map.target_port.unwrap(), udp)
        };
        let at = |text: &str| Some(text.to_owned());
        assert_eq!(read("8080:80"), (None, 8080, None, 80, false));
        assert_eq!(read("8080"), (None, 8080, None, 8080, false));
        assert_eq!(read("53:5353/udp"), (None, 53, None, 5353, true));
        assert_eq!(read("127.0.0.1:8080:80"), (at("127.0.0.1"), 8080, None, 80, false));
        assert_eq!(read("[::1]:8080:80/tcp"), (at("::1"), 8080, None, 80, false));
        assert_eq!(read("0.0.0.0:8080:80"), (None, 8080, None, 80, false));
        assert_eq!(read("8000-8010:9000-9010"), (None, 8000, Some(8010), 9000, false));
        assert_eq!(read("8000-8010:9000"), (None, 8000, Some(8010), 9000, false));
        for bad in [
            "",
            ":",
            "80:",
            "a:b",
            "1:2:3:4",
            "0:80",
            "::1:80:80",
            "80:80/sctp",
            "1-3:1-2",
            "[::1:80",
        ] {
            assert!(port_map(bad).is_err(), "{bad}");
        }
    }
}
