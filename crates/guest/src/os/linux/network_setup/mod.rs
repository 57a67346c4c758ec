//! The network as the host wants it, written where the guest keeps such things
//! so that it lasts, and taken back whole unless somebody confirms it.
//!
//! ```text
//!  check ─▶ choose who does it ─▶ remember ─▶ write files ─▶ its tool ─▶ Undo
//!                                                  └── fails ──┴─▶ taken back at once
//! ```
//!
//! Who does it: Netplan, where it is installed; systemd-networkd, where it
//! runs; ifupdown, where it has its file; else, as in every OCI image, we
//! ourselves by rtnetlink, until the next boot.

mod ifupdown;
mod kernel;
mod netplan;
mod networkd;
mod setup;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_guest_proto::wire::{FailureKind, NetworkApplied, NetworkSetup};
use inn_netlink::route::Rtnetlink;

use self::kernel::Before;
use self::setup::Setup;
use super::etc::{self, Saved};
use super::process::DEFAULT_PATH;
use super::programs::{ProgramError, Programs};
use crate::refusal::{OrRefuse, Refusal};

/// Python under an emulated CPU, and a DHCP server that takes its time.
const APPLYING: Duration = Duration::from_secs(120);

const RESOLV_CONF: &str = "/etc/resolv.conf";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Netplan,
    Networkd,
    Ifupdown,
    Addresses,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            By::Netplan => "netplan",
            By::Networkd => "networkd",
            By::Ifupdown => "ifupdown",
            By::Addresses => "addresses",
        }
    }

    fn here() -> Self {
        // As PID 1 we run none of their services.
        if std::process::id() == 1 {
            By::Addresses
        } else {
            Self::choose(Path::new("/"), has_program)
        }
    }

    fn choose(root: &Path, has: impl Fn(&str) -> bool) -> Self {
        if has("netplan") {
            By::Netplan
        } else if root.join("run/systemd/netif").exists() && has("networkctl") {
            By::Networkd
        } else if root.join("etc/network/interfaces").exists() && has("ifup") {
            By::Ifupdown
        } else {
            By::Addresses
        }
    }
}

/// All that is needed to take a setup back.
#[derive(Debug)]
pub(crate) struct Undo {
    by: By,
    names: Vec<String>,
    files: Vec<(PathBuf, Saved)>,
    before: Before,
}

pub(crate) fn apply(
    wanted: &NetworkSetup,
    programs: &Programs,
) -> Result<(NetworkApplied, Undo), Refusal> {
    let mut netlink = Rtnetlink::open().or_refuse(|| "ask the kernel for its network".into())?;
    let links = netlink.links().or_refuse(|| "list the network interfaces".into())?;
    let setup = Setup::new(wanted, &links)?;
    let by = By::here();
    if by == By::Addresses && setup.cards.iter().any(|card| card.dhcp4 || card.dhcp6) {
        let what = "take an address by DHCP: it has neither Netplan, systemd-networkd nor ifupdown";
        return Err(Refusal::new(FailureKind::Unsupported, what));
    }
    let files = files_of(by, &setup)?;
    let mut undo = Undo {
        by,
        names: setup.cards.iter().map(|card| card.name.clone()).collect(),
        files: Vec::new(),
        before: Before::remember(&mut netlink, &setup)
            .or_refuse(|| "remember the network as it is".into())?,
    };
    let mut problems = Vec::new();
    if by == By::Addresses {
        problems.push("the setup lasts until the next boot: nothing in the guest keeps one".into());
    }
    match put(&mut undo, &setup, files, programs, &mut netlink) {
        Ok(()) => Ok((NetworkApplied { by: by.name().into(), problems }, undo)),
        Err(refusal) => {
            let back = undo.roll_back(programs);
            Err(match back {
                Ok(()) => refusal,
                // Both matter to whoever has to repair it.
                Err(second) => {
                    Refusal::new(FailureKind::Failed, format!("{refusal}; nor can it {second}"))
                }
            })
        }
    }
}

fn put(
    undo: &mut Undo,
    setup: &Setup,
    files: Vec<(PathBuf, String, u32)>,
    programs: &Programs,
    netlink: &mut Rtnetlink,
) -> Result<(), Refusal> {
    // Each is remembered before any is changed.
    for (path, ..) in &files {
        let before = Saved::new(path).or_refuse(|| format!("read {}", path.display()))?;
        undo.files.push((path.clone(), before));
    }
    if undo.by == By::Ifupdown {
        // By the old files, which know what they have started.
        for name in &undo.names {
            let _not_up = programs.run(&["ifdown", "--force", name], APPLYING);
        }
    }
    for (path, content, mode) in files {
        let parent = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent)
            .and_then(|()| etc::replace(&path, &content, mode))
            .or_refuse(|| format!("write {}", path.display()))?;
    }
    if undo.by == By::Addresses {
        return kernel::apply(netlink, setup);
    }
    if undo.by == By::Ifupdown {
        kernel::clear(netlink, setup).or_refuse(|| "take the old addresses away".into())?;
    }
    run_tool(undo.by, &undo.names, programs)
        .map_err(|error| error.refuse(&format!("apply the network setup by {}", undo.by.name())))
}

fn run_tool(by: By, names: &[String], programs: &Programs) -> Result<(), ProgramError> {
    let run = |argv: &[&str]| programs.run(argv, APPLYING).map(drop);
    match by {
        By::Netplan => run(&["netplan", "generate"]).and_then(|()| run(&["netplan", "apply"])),
        By::Networkd => {
            run(&["networkctl", "reload"])?;
            names.iter().try_for_each(|name| run(&["networkctl", "reconfigure", name]))
        }
        By::Ifupdown => names.iter().try_for_each(|name| run(&["ifup", name])),
        By::Addresses => Ok(()),
    }
}

impl Undo {
    pub(crate) fn roll_back(self, programs: &Programs) -> Result<(), Refusal> {
        if self.by == By::Ifupdown {
            for name in &self.names {
                let _not_up = programs.run(&["ifdown", "--force", name], APPLYING);
            }
        }
        let mut failed = None;
        for (path, before) in &self.files {
            if let Err(error) = before.restore(path) {
                failed = Some(Refusal::io(format!("restore {}", path.display()), &error));
            }
        }
        let tool = run_tool(self.by, &self.names, programs);
        // What the tools know of they have brought back themselves; an
        // interface may have been set up by nobody that they know.
        if tool.is_err() || matches!(self.by, By::Ifupdown | By::Addresses) {
            let restored = Rtnetlink::open()
                .map_err(io::Error::from)
                .and_then(|mut netlink| self.before.restore(&mut netlink));
            if let Err(error) = restored {
                failed = Some(Refusal::io("restore the addresses and routes", &error));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// What is to be written: path, content, mode.
fn files_of(by: By, setup: &Setup) -> Result<Vec<(PathBuf, String, u32)>, Refusal> {
    let mut files: Vec<(PathBuf, String, u32)> = Vec::new();
    match by {
        // It may hold secrets, and Netplan complains of others' right to read.
        By::Netplan => files.push((netplan::PATH.into(), netplan::render(setup), 0o600)),
        By::Networkd => {
            for card in &setup.cards {
                files.push((networkd::path(&card.name), networkd::render(card, setup), 0o644));
            }
        }
        By::Ifupdown => {
            files.extend(ifupdown::without_cards(Path::new(ifupdown::MAIN), setup)?);
            files.push((ifupdown::PATH.into(), ifupdown::render(setup), 0o644));
        }
        By::Addresses => {}
    }
    let resolved = by == By::Netplan || Path::new("/run/systemd/resolve").exists();
    if !setup.dns.is_empty() && !resolved {
        files.push((RESOLV_CONF.into(), setup.resolv_conf(), 0o644));
    }
    Ok(files)
}

fn has_program(name: &str) -> bool {
    DEFAULT_PATH.split(':').any(|dir| Path::new(dir).join(name).exists())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
