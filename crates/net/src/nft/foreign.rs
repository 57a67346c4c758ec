//! Chains of others that see our packets too. An accept in ours does not undo
//! a drop in theirs: every table has its say.

use std::collections::{BTreeMap, BTreeSet};

use inn_domain::network::Instance;
use inn_netlink::{Error, Protocol, Socket, attributes, be32, text};

use super::decode::{self, hook_point};
use super::encode;
use super::kernel::KernelError;
use super::model::HookPoint;
use super::numbers::*;

/// The beginning of all our bridges' names (`inn_domain::network::bridge_name`).
const BRIDGES: &[u8] = b"inn-b";

/// A chain with a hook on the way that our packets take, which drops what none
/// of its rules lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignChain {
    /// As nft calls it: `ip`, `inet`.
    pub family: String,
    pub table: String,
    pub chain: String,
    pub hook: HookPoint,
    /// By its policy; else by a rule at its end.
    pub by_policy: bool,
    /// Whether a rule of the table accepts our bridges' packets by name, or has
    /// a chain of their own judge them.
    pub lets_ours_through: bool,
    /// All chains of its table, by which its owner is known.
    pub beside: BTreeSet<String>,
}

/// What there is of them now; not the tables of any instance of ours.
pub fn foreign(instance: &Instance) -> Result<Vec<ForeignChain>, KernelError> {
    let mut socket = Socket::open(Protocol::Netfilter).map_err(KernelError::Open)?;
    let mut dump =
        |what, ask, answer| {
            let payload = encode::fixed(0);
            let (ask, answer) = (encode::kind(ask), encode::kind(answer));
            socket.dump(ask, answer, payload.as_bytes()).map_err(|source: Error| {
                KernelError::Read { what, table: instance.table(), source }
            })
        };
    let chains = dump("chains of others", GETCHAIN, NEWCHAIN)?;
    let rules = dump("rules of others", GETRULE, NEWRULE)?;
    Ok(read(&chains, &rules))
}

type Table = (u8, String);

fn read(chains: &[Vec<u8>], rules: &[Vec<u8>]) -> Vec<ForeignChain> {
    let table_of = |message: &[u8]| -> Option<Table> {
        let family = *message.first()?;
        Some((family, decode::name(message, CHAIN_TABLE)?))
    };
    let mut beside: BTreeMap<Table, BTreeSet<String>> = BTreeMap::new();
    for message in chains {
        if let Some((table, name)) = table_of(message).zip(decode::name(message, CHAIN_NAME)) {
            beside.entry(table).or_default().insert(name);
        }
    }
    let mut open: BTreeSet<Table> = BTreeSet::new();
    let mut shut: BTreeSet<(Table, String)> = BTreeSet::new();
    for message in rules {
        let Some((table, chain)) = table_of(message).zip(decode::name(message, RULE_CHAIN)) else {
            continue;
        };
        match verdict(message) {
            Some(Does::AcceptsOurs) => {
                open.insert(table);
            }
            Some(Does::DropsAll) => {
                shut.insert((table, chain));
            }
            None => {}
        }
    }
    let mut all = Vec::new();
    for message in chains {
        let Some(table) = table_of(message) else { continue };
        let ours = table.1 == "innkeeper" || table.1.starts_with("innkeeper-");
        let Some((name, hook, by_policy)) = hooked(message).filter(|_| !ours) else { continue };
        let by_rule = shut.contains(&(table.clone(), name.clone()));
        if matches!(hook, HookPoint::Forward | HookPoint::Input) && (by_policy || by_rule) {
            all.push(ForeignChain {
                family: family_name(table.0).to_owned(),
                lets_ours_through: open.contains(&table),
                beside: beside.get(&table).cloned().unwrap_or_default(),
                table: table.1,
                chain: name,
                hook,
                by_policy,
            });
        }
    }
    all
}

/// Its name and hook, and whether its policy is to drop.
fn hooked(message: &[u8]) -> Option<(String, HookPoint, bool)> {
    let (mut name, mut hook, mut policy) = (None, None, CODE_ACCEPT);
    for (kind, content) in attributes(message.get(4..)?) {
        match kind {
            CHAIN_NAME => name = Some(text(content)),
            CHAIN_POLICY => policy = be32(content)?,
            CHAIN_HOOK => {
                let number = attributes(content).find(|(kind, _)| *kind == HOOK_NUMBER);
                hook = number.and_then(|(_, number)| be32(number)).and_then(hook_point);
            }
            _ => {}
        }
    }
    Some((name?, hook?, policy == CODE_DROP))
}

enum Does {
    AcceptsOurs,
    DropsAll,
}

/// Of a rule without any condition, or with our bridges' name as one.
fn verdict(message: &[u8]) -> Option<Does> {
    let list = attributes(message.get(4..)?).find(|(kind, _)| *kind == RULE_EXPRESSIONS)?.1;
    let (mut conditions, mut ours, mut code) = (0, false, None);
    for (_, expression) in attributes(list) {
        let (name, data) = decode::named(expression)?;
        match &*name {
            "counter" | "log" => {}
            "reject" => code = Some(CODE_DROP),
            "immediate" => code = code.or(immediate(data)),
            // Matches of iptables, by its compatibility layer.
            "match" if decode::comment_of_iptables(data).is_some() => {}
            // Its own targets, likewise.
            "target" => {
                let target = attributes(data).find(|(kind, _)| *kind == 1)?.1;
                code = code.or((text(target) == "REJECT").then_some(CODE_DROP));
            }
            "cmp" => {
                conditions += 1;
                ours |= data.windows(BRIDGES.len()).any(|part| part == BRIDGES);
            }
            "meta" | "payload" => {}
            _ => conditions += 1,
        }
    }
    match code? {
        CODE_ACCEPT if ours => Some(Does::AcceptsOurs),
        // As firewalld has an interface's zone judge: its owner has decided.
        CODE_JUMP | CODE_GOTO if ours => Some(Does::AcceptsOurs),
        CODE_DROP if conditions == 0 => Some(Does::DropsAll),
        _ => None,
    }
}

fn immediate(data: &[u8]) -> Option<u32> {
    let (_, value) = attributes(data).find(|(kind, _)| *kind == 2)?;
    let (_, verdict) = attributes(value).find(|(kind, _)| *kind == DATA_VERDICT)?;
    attributes(verdict).find(|(kind, _)| *kind == VERDICT_CODE).and_then(|(_, code)| be32(code))
}

/// linux/netfilter.h.
fn family_name(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}
