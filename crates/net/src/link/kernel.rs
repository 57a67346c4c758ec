use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use inn_domain::network::{Attachment, Declared, bridge_name};
use inn_netlink::{ACK, CREATE, EXCLUSIVE, Error, Payload, Protocol, REPLACE, Socket};
use inn_units::VmId;
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::message::{self, *};
use super::observed::Observed;
use super::plan::{plan_one, plan_settings, plan_without};
use super::step::LinkStep;
use super::{plan, settings};

const SETTINGS: &str = "/proc/sys";

/// The kernel's links, of the network namespace in which it was opened. Every
/// call blocks for as long as the kernel takes, which is microseconds a step.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
    /// By which interfaces are looked up.
    names: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct ApplyError {
    pub step: LinkStep,
    pub source: io::Error,
}

impl Links {
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Route)?;
        let flags = SocketFlags::CLOEXEC;
        let names = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        Ok(Self { socket, names })
    }

    /// All that a plan for this is made of.
    pub fn read(&mut self, declared: &Declared) -> Result<Observed, Error> {
        let links = self.socket.dump(RTM_GETLINK, RTM_NEWLINK, &[0; 16])?;
        let addresses = self.socket.dump(RTM_GETADDR, RTM_NEWADDR, &[0; 8])?;
        let routes = self.socket.dump(RTM_GETROUTE, RTM_NEWROUTE, &[0; 12])?;
        let neighbours = ndmsg(AF_UNSPEC, 0, 0, 0);
        let neighbours = self.socket.dump(RTM_GETNEIGH, RTM_NEWNEIGH, &neighbours)?;
        let stations = ndmsg(AF_BRIDGE, 0, 0, 0);
        let stations = self.socket.dump(RTM_GETNEIGH, RTM_NEWNEIGH, &stations)?;
        let mut observed = Observed {
            links: links.iter().filter_map(|m| parse_link(m)).collect(),
            addresses: addresses.iter().filter_map(|m| parse_address(m)).collect(),
            routes: routes.iter().filter_map(|m| parse_route(m)).collect(),
            neighbours: neighbours.iter().filter_map(|m| parse_neighbour(m)).collect(),
            stations: stations.iter().filter_map(|m| parse_station(m)).collect(),
            ..Observed::default()
        };
        // Taps have none that matter.
        let names = observed.links.iter().filter(|link| link.kind.as_deref() != Some("tun"));
        for file in settings::needed(declared, names.map(|link| link.name.as_str())) {
            // What this kernel does not have, and what has just gone.
            if let Ok(value) = fs::read_to_string(Path::new(SETTINGS).join(&file)) {
                observed.settings.insert(file, value.trim_end().to_owned());
            }
        }
        Ok(observed)
    }

    /// Who has this address on a link, as far as the kernel knows.
    pub fn neighbour(&mut self, link: u32, ip: IpAddr) -> Result<Option<Vec<u8>>, Error> {
        let ask = ndmsg(AF_UNSPEC, link, 0, 0);
        let all = self.socket.dump(RTM_GETNEIGH, RTM_NEWNEIGH, &ask)?;
        let mut all = all.iter().filter_map(|message| message::known(message));
        Ok(all.find(|known| known.link == link && known.ip == ip).map(|known| known.mac))
    }

    pub fn index(&self, name: &str) -> io::Result<u32> {
        Ok(name_to_index(&self.names, name)?)
    }

    /// Makes a VM's tap, which has just been opened, a port of its bridge; for a
    /// VM's start, in the same time among a thousand others.
    pub fn attach(&mut self, declared: &Declared, vm: VmId) -> Result<Converged, Error> {
        let attachment = declared.attachments.iter().find(|attachment| attachment.vm == vm);
        let names = attachment
            .map(|attachment| [bridge_name(attachment.network), attachment.tap()])
            .ok_or(Errno::NODEV)?;
        let mut observed = Observed::default();
        for name in names {
            let ask = link(name.as_str(), None);
            let told = self.socket.ask(RTM_GETLINK, RTM_NEWLINK, ask.as_bytes())?;
            observed.links.extend(parse_link(&told));
        }
        let plan = plan_one(declared, &observed, vm);
        let failed = self.apply(&plan.steps);
        Ok(Converged { steps: plan.steps, failed, blocked: plan.blocked, observed })
    }

    /// The other way round, for a VM whose machine is gone; `declared` still
    /// has its network.
    pub fn detach(&mut self, declared: &Declared, gone: &Attachment) -> Result<Converged, Error> {
        let mut observed = Observed::default();
        let ask = link(gone.tap().as_str(), None);
        match self.socket.ask(RTM_GETLINK, RTM_NEWLINK, ask.as_bytes()) {
            Ok(told) => observed.links.extend(parse_link(&told)),
            // It went with its holder.
            Err(error) if error.is(Errno::NODEV) => {}
            Err(error) => return Err(error),
        }
        let plan = plan_without(declared, &observed, gone);
        let failed = self.apply(&plan.steps);
        Ok(Converged { steps: plan.steps, failed, blocked: plan.blocked, observed })
    }

    /// The settings alone, which follow from port maps too, on a host that was
    /// as `observed`.
    pub fn set(&mut self, declared: &Declared, mut observed: Observed) -> Converged {
        let plan = plan_settings(declared, &observed);
        let failed = self.apply(&plan.steps);
        for step in &plan.steps {
            if let LinkStep::Setting { file, value } = step {
                observed.settings.insert(file.clone(), value.clone());
            }
        }
        Converged { steps: plan.steps, failed, blocked: plan.blocked, observed }
    }

    /// Reads, plans and applies, until there is nothing left to do.
    pub fn converge(&mut self, declared: &Declared) -> Result<Converged, Error> {
        let observed = self.read(declared)?;
        self.converge_from(declared, observed)
    }

    /// The same, from what was just read for it. A bridge that is made then
    /// shows what else it needs: hence twice.
    pub fn converge_from(
        &mut self,
        declared: &Declared,
        observed: Observed,
    ) -> Result<Converged, Error> {
        let mut done = Converged { observed, ..Converged::default() };
        for _ in 0..2 {
            let plan = plan(declared, &done.observed);
            done.blocked = plan.blocked;
            if plan.steps.is_empty() {
                break;
            }
            done.failed = self.apply(&plan.steps);
            done.steps.extend(plan.steps);
            done.observed = self.read(declared)?;
        }
        Ok(done)
    }

    /// In order; a step that fails keeps none of the others from being tried.
    pub fn apply(&mut self, steps: &[LinkStep]) -> Vec<ApplyError> {
        let mut failed = Vec::new();
        for step in steps {
            if let Err(source) = self.apply_one(step) {
                failed.push(ApplyError { step: step.clone(), source });
            }
        }
        failed
    }

    fn apply_one(&mut self, step: &LinkStep) -> io::Result<()> {
        match step {
            LinkStep::AddBridge { name, mac } => {
                let payload = new_bridge(name.as_str(), *mac);
                self.order(RTM_NEWLINK, CREATE | EXCLUSIVE, &payload)
            }
            LinkStep::BridgeOptions { name } => {
                self.order(RTM_NEWLINK, 0, &bridge_options(name.as_str()))
            }
            LinkStep::Alias { name, alias } => {
                self.order(RTM_SETLINK, 0, &with_alias(name.as_str(), alias))
            }
            LinkStep::Mac { name, mac } => {
                self.order(RTM_SETLINK, 0, &with_mac(name.as_str(), *mac))
            }
            LinkStep::Mtu { name, mtu } => {
                self.order(RTM_SETLINK, 0, &with_mtu(name.as_str(), *mtu))
            }
            LinkStep::Setting { file, value } => {
                match fs::write(Path::new(SETTINGS).join(file), value) {
                    // A kernel without IPv6, or an interface that went.
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    outcome => outcome,
                }
            }
            LinkStep::AddAddress { name, ip, prefix } => {
                let link = self.index(name.as_str())?;
                self.order(RTM_NEWADDR, CREATE | REPLACE, &address(link, *ip, *prefix))
            }
            LinkStep::RemoveAddress { name, ip, prefix } => {
                let link = self.index(name.as_str())?;
                gone(self.order(RTM_DELADDR, 0, &address(link, *ip, *prefix)))
            }
            LinkStep::Enslave { name, bridge, mtu, alias } => {
                let master = self.index(bridge.as_str())?;
                self.order(RTM_SETLINK, 0, &enslaved(name.as_str(), master, *mtu, alias))
            }
            LinkStep::Port { name, port } => {
                self.order(RTM_NEWLINK, 0, &message::port(name.as_str(), *port))
            }
            LinkStep::Up { name } => self.order(RTM_SETLINK, 0, &link(name.as_str(), Some(true))),
            LinkStep::AddNeighbour { name, ip, mac } => {
                let link = self.index(name.as_str())?;
                self.order(RTM_NEWNEIGH, CREATE | REPLACE, &neighbour(link, *ip, mac))
            }
            LinkStep::RemoveNeighbour { name, ip, mac } => {
                let link = self.index(name.as_str())?;
                gone(self.order(RTM_DELNEIGH, 0, &neighbour(link, *ip, mac)))
            }
            LinkStep::AddStation { name, mac } => {
                let link = self.index(name.as_str())?;
                self.order(RTM_NEWNEIGH, CREATE | REPLACE, &station(link, mac))
            }
            LinkStep::RemoveStation { name, mac } => {
                let link = self.index(name.as_str())?;
                gone(self.order(RTM_DELNEIGH, 0, &station(link, mac)))
            }
            LinkStep::Remove { name } => {
                gone(self.order(RTM_DELLINK, 0, &link(name.as_str(), None)))
            }
        }
    }

    fn order(&mut self, kind: u16, flags: u16, payload: &Payload) -> io::Result<()> {
        self.socket.order(kind, flags | ACK, payload.as_bytes()).map_err(|error| {
            // The kernel's own sentence says more than its number.
            match (error.said().map(str::to_owned), io::Error::from(error)) {
                (Some(said), number) => io::Error::new(number.kind(), format!("{number} ({said})")),
                (None, number) => number,
            }
        })
    }
}

/// What was done, and found in the end.
#[derive(Debug, Default)]
pub struct Converged {
    pub steps: Vec<LinkStep>,
    pub failed: Vec<ApplyError>,
    pub blocked: Vec<String>,
    pub observed: Observed,
}

/// What is not there need not be removed.
fn gone(outcome: io::Result<()>) -> io::Result<()> {
    let absent = [Errno::NODEV, Errno::NOENT, Errno::ADDRNOTAVAIL, Errno::SRCH];
    match outcome {
        Err(error) if absent.iter().any(|e| error.raw_os_error() == Some(e.raw_os_error())) => {
            Ok(())
        }
        outcome => outcome,
    }
}
