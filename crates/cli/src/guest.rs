//! `inn vm guest`: what is inside a VM, changed by its agent.

use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;

use inn_client::api::{
    Freeze, Frozen, GrowDisk, InterfaceSetup, MountDisk, NetworkSetup, RouteSetup, SetHostname,
    SetPassword, SetSshKeys, Unmount,
};
use serde::Serialize;

use crate::args::{GuestCommand, NetworkArgs, SshKeysArgs};
use crate::context::{Context, complain};
use crate::failure::{Failure, harmless};
use crate::signals::Interrupts;
use crate::terminal::NoEcho;
use crate::transfer::blocking;
use crate::view::bytes;

/// Of a password, and of each file read here: more is a mistake.
const LONGEST_INPUT: u64 = 256 << 10;

pub(crate) async fn guest(context: &Context, command: &GuestCommand) -> Result<u8, Failure> {
    match command {
        GuestCommand::Password { vm, user, hash } => {
            // Before the echo is off, so that no signal leaves it so.
            let mut interrupts = Interrupts::listen()?;
            let secret = tokio::select! {
                // Left to itself when somebody leaves: this process ends then,
                // and with it what reads the terminal.
                secret = blocking(read_password) => secret?,
                // Cancel safe: a signal that came stays to be seen.
                interrupt = interrupts.next() => return Ok(interrupt.exit_code()),
            };
            let (password, hash) = if *hash { (None, Some(secret)) } else { (Some(secret), None) };
            let set = SetPassword { user: user.clone(), password, hash };
            context.client().await?.guest_password(vm.name(), &set).await?;
            changed(context, vm.name())?;
        }
        GuestCommand::Hostname { vm, hostname } => {
            let set = SetHostname { hostname: hostname.clone() };
            context.client().await?.guest_hostname(vm, &set).await?;
            changed(context, vm)?;
        }
        GuestCommand::Clock { vm } => {
            let set = context.client().await?.guest_clock(vm.name()).await?;
            context.result(&set, || clock(set.behind_ms))?;
        }
        GuestCommand::Network(args) => network(context, args).await?,
        GuestCommand::Freeze { vm, mounts, timeout } => {
            let freeze = Freeze { mounts: mounts.clone(), timeout_seconds: Some(*timeout) };
            let frozen = context.client().await?.guest_freeze(vm, &freeze).await?;
            context.result(&frozen, || mount_lines(&frozen))?;
            if !context.json() {
                context.note(&format!(
                    "the guest thaws by itself in {timeout} s; `inn vm guest thaw {vm}` does it now"
                ));
            }
        }
        GuestCommand::Thaw { vm } => {
            let thawed = context.client().await?.guest_thaw(vm.name()).await?;
            context.result(&thawed, || mount_lines(&thawed))?;
            if thawed.expired {
                complain("the guest had thawed by itself before: its time was over");
            }
        }
        GuestCommand::SshKeys(args) => ssh_keys(context, args).await?,
        GuestCommand::Grow { vm, disk, target } => {
            let grow =
                GrowDisk { disk_bytes: disk.map(|size| size.get()), target: Some(target.clone()) };
            let grown = context.client().await?.grow_disk(vm.name(), &grow).await?;
            context.result(&grown, || {
                let (before, after) = (bytes(grown.before_bytes), bytes(grown.after_bytes));
                format!("{target} on {}: {before} before, {after} now\n", harmless(&grown.device))
            })?;
        }
        GuestCommand::Mount { vm, serial, target, read_only, kind, lasting, format } => {
            let mount = MountDisk {
                serial: serial.clone(),
                target: target.clone(),
                read_only: *read_only,
                kind: kind.clone(),
                lasting: *lasting,
                format: *format,
            };
            context.client().await?.mount(vm, &mount).await?;
            changed(context, vm)?;
        }
        GuestCommand::Unmount { vm, target } => {
            let unmount = Unmount { target: target.clone() };
            context.client().await?.unmount(vm, &unmount).await?;
            changed(context, vm)?;
        }
    }
    Ok(0)
}

/// For `-o json`; people hear of failures alone.
#[derive(Debug, Serialize)]
struct Changed<'a> {
    name: &'a str,
}

fn changed(context: &Context, vm: &str) -> Result<(), Failure> {
    context.result(&Changed { name: vm }, String::new)
}

fn clock(behind_ms: i64) -> String {
    match behind_ms {
        0 => "the guest's clock was right\n".to_owned(),
        ms if ms > 0 => format!("the guest's clock was {ms} ms behind\n"),
        ms => format!("the guest's clock was {} ms ahead\n", ms.unsigned_abs()),
    }
}

fn mount_lines(frozen: &Frozen) -> String {
    frozen.mounts.iter().map(|mount| format!("{}\n", harmless(mount))).collect()
}

/// From a terminal twice and unseen, else the first line of stdin.
fn read_password() -> Result<String, Failure> {
    let refuse = |e: std::io::Error| Failure::because("cannot read the password", &e);
    if !std::io::stdin().is_terminal() {
        let line = read_line().map_err(refuse)?;
        return match line.is_empty() {
            true => Err(Failure::usage("stdin has no password in its first line")),
            false => Ok(line),
        };
    }
    let ask = |prompt: &str| {
        let quiet = NoEcho::enter()?;
        // Where stderr is closed nobody is to be asked.
        let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), prompt.as_bytes());
        let line = read_line().map_err(refuse);
        drop(quiet);
        line
    };
    let first = ask("Password: ")?;
    if first.is_empty() {
        return Err(Failure::usage("no password was given, and nothing is changed"));
    }
    if ask("The same again: ")? != first {
        return Err(Failure::usage("the two passwords differ, and nothing is changed"));
    }
    Ok(first)
}

fn read_line() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().take(LONGEST_INPUT).read_line(&mut line)?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

async fn network(context: &Context, args: &NetworkArgs) -> Result<(), Failure> {
    let mut setup = match &args.file {
        Some(file) => {
            let text = read_file(file)?;
            serde_json::from_str(&text).map_err(|e| {
                Failure::because(format!("{} is no network setup", file.display()), &e)
            })?
        }
        None => setup(args)?,
    };
    if args.confirm.is_some() {
        setup.confirm_seconds = args.confirm;
    }
    let applied = context.client().await?.guest_network(&args.vm, &setup).await?;
    for problem in &applied.problems {
        complain(&harmless(problem));
    }
    context.result(&applied, || format!("applied by {}\n", harmless(&applied.by)))
}

fn setup(args: &NetworkArgs) -> Result<NetworkSetup, Failure> {
    let interface = args.interface.as_deref().unwrap_or_default();
    if args.address.is_empty() && !args.dhcp4 && !args.dhcp6 {
        return Err(Failure::usage(
            "an interface needs an address: give --address, --dhcp4 or --dhcp6",
        ));
    }
    let (mac, name) = match is_mac(interface) {
        true => (Some(interface.to_ascii_lowercase()), None),
        false => (None, Some(interface.to_owned())),
    };
    let routes = args
        .gateway
        .iter()
        .map(|via| RouteSetup { to: "default".to_owned(), via: *via, metric: None })
        .collect();
    Ok(NetworkSetup {
        interfaces: vec![InterfaceSetup {
            mac,
            name,
            dhcp4: args.dhcp4,
            dhcp6: args.dhcp6,
            addresses: args.address.clone(),
            routes,
            mtu: args.mtu,
        }],
        dns: args.dns.clone(),
        search: args.search.clone(),
        confirm_seconds: None,
    })
}

/// `02:00:00:aa:bb:cc`; a name of Linux has 15 characters at most.
fn is_mac(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').collect();
    parts.len() == 6
        && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

async fn ssh_keys(context: &Context, args: &SshKeysArgs) -> Result<(), Failure> {
    let vm = args.vm.name();
    let Some((file, replace)) = args.file() else {
        let known = context.client().await?.ssh_keys(vm, &args.user).await?;
        let line = |key: &String| format!("{}\n", harmless(key));
        return context.result(&known, || known.keys.iter().map(line).collect());
    };
    let text = read_file(file)?;
    let keys: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    if keys.is_empty() && !replace {
        return Err(Failure::new(format!("{} has no key in it", file.display())));
    }
    let set = SetSshKeys { user: args.user.clone(), keys, replace };
    context.client().await?.set_ssh_keys(vm, &set).await?;
    changed(context, vm)
}

/// A small file of this host, or stdin.
fn read_file(file: &Path) -> Result<String, Failure> {
    let refuse =
        |e: std::io::Error| Failure::because(format!("cannot read {}", file.display()), &e);
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(LONGEST_INPUT).read_to_string(&mut text)
    } else {
        std::fs::File::open(file)
            .and_then(|file| file.take(LONGEST_INPUT).read_to_string(&mut text))
    };
    read.map_err(refuse)?;
    if text.len() as u64 == LONGEST_INPUT {
        return Err(Failure::new(format!("{} is larger than 256 KiB", file.display())));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_or_has_a_mac() {
        assert!(is_mac("02:00:00:aa:BB:cc"));
        for name in ["eth0", "02:00:00:aa:bb", "02:00:00:aa:bb:gg", "020:0:00:aa:bb:cc"] {
            assert!(!is_mac(name), "{name}");
        }
    }

    #[test]
    fn clocks_are_behind_or_ahead() {
        assert_eq!(clock(1500), "the guest's clock was 1500 ms behind\n");
        assert_eq!(clock(-20), "the guest's clock was 20 ms ahead\n");
    }
}
