//! What the kernel has of our tables, from its messages.

use std::collections::BTreeMap;

use inn_netlink::{attributes, be32, be64, text};

use super::encode;
use super::model::{Data, ElementKey, Family, Hook, HookPoint, Shape, Type, Value};
use super::numbers::*;

/// At one generation of nf_tables: every change by anybody makes a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    pub generation: u32,
    pub tables: BTreeMap<Family, ObservedTable>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedTable {
    /// Somebody has switched it off.
    pub dormant: bool,
    pub sets: BTreeMap<String, ObservedSet>,
    pub chains: BTreeMap<String, ObservedChain>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedSet {
    /// None, if it is none that we would make.
    pub shape: Option<Shape>,
    pub elements: BTreeMap<ElementKey, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedChain {
    /// None for a chain without a hook; `Err` of one that is not as ours are.
    pub hook: Option<Result<Hook, ()>>,
    pub rules: Vec<ObservedRule>,
}

impl ObservedChain {
    pub(super) fn is_hooked_as(&self, wanted: Option<Hook>) -> bool {
        self.hook == wanted.map(Ok)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedRule {
    pub handle: u64,
    pub comment: Option<String>,
    /// What the kernel calls each.
    pub expressions: Vec<String>,
    /// Of its first counter.
    pub packets: u64,
    pub bytes: u64,
}

/// The name that a message's attribute has, behind the fixed part.
pub(super) fn name(message: &[u8], attribute: u16) -> Option<String> {
    let body = message.get(4..)?;
    attributes(body).find(|(kind, _)| *kind == attribute).map(|(_, content)| text(content))
}

pub(super) fn is_dormant(message: &[u8]) -> bool {
    let body = message.get(4..).unwrap_or_default();
    let flags = attributes(body).find(|(kind, _)| *kind == TABLE_FLAGS);
    flags.and_then(|(_, content)| be32(content)).is_some_and(|flags| flags & 1 != 0)
}

pub(super) fn chain(message: &[u8]) -> Option<(String, ObservedChain)> {
    let (mut name, mut hook, mut policy, mut nat) = (None, None, CODE_ACCEPT, Some(false));
    for (kind, content) in attributes(message.get(4..)?) {
        match kind {
            CHAIN_NAME => name = Some(text(content)),
            CHAIN_HOOK => hook = Some(content),
            CHAIN_POLICY => policy = be32(content)?,
            CHAIN_TYPE => {
                nat = match &*text(content) {
                    "filter" => Some(false),
                    "nat" => Some(true),
                    _ => None,
                }
            }
            _ => {}
        }
    }
    let hook = hook.map(|hook| {
        let (mut point, mut priority) = (None, None);
        for (kind, content) in attributes(hook) {
            match kind {
                HOOK_NUMBER => point = be32(content).and_then(hook_point),
                HOOK_PRIORITY => priority = be32(content).map(u32::cast_signed),
                _ => {}
            }
        }
        let all = (point, priority, nat, policy == CODE_ACCEPT);
        let (Some(point), Some(priority), Some(nat), true) = all else { return Err(()) };
        Ok(Hook { point, nat, priority })
    });
    Some((name?, ObservedChain { hook, rules: Vec::new() }))
}

pub(super) fn hook_point(number: u32) -> Option<HookPoint> {
    Some(match number {
        0 => HookPoint::Prerouting,
        1 => HookPoint::Input,
        2 => HookPoint::Forward,
        3 => HookPoint::Output,
        4 => HookPoint::Postrouting,
        _ => return None,
    })
}

/// With the chain that it is in.
pub(super) fn rule(message: &[u8]) -> Option<(String, ObservedRule)> {
    let (mut chain, mut rule) = (None, ObservedRule::default());
    let mut counted = false;
    for (kind, content) in attributes(message.get(4..)?) {
        match kind {
            RULE_CHAIN => chain = Some(text(content)),
            RULE_HANDLE => rule.handle = be64(content)?,
            RULE_USERDATA => rule.comment = comment(content),
            RULE_EXPRESSIONS => {
                for (_, expression) in attributes(content) {
                    let (name, data) = named(expression)?;
                    if name == "match" && rule.comment.is_none() {
                        rule.comment = comment_of_iptables(data);
                    }
                    if name == "counter" && !counted {
                        counted = true;
                        (rule.packets, rule.bytes) = counter(data);
                    }
                    rule.expressions.push(name);
                }
            }
            _ => {}
        }
    }
    Some((chain?, rule))
}

/// An expression's name, and what it is told.
pub(super) fn named(expression: &[u8]) -> Option<(String, &[u8])> {
    let (mut name, mut data) = (None, &[][..]);
    for (kind, content) in attributes(expression) {
        match kind {
            EXPR_NAME => name = Some(text(content)),
            EXPR_DATA => data = content,
            _ => {}
        }
    }
    Some((name?, data))
}

fn counter(data: &[u8]) -> (u64, u64) {
    let (mut packets, mut bytes) = (0, 0);
    for (kind, content) in attributes(data) {
        match kind {
            COUNTER_PACKETS => packets = be64(content).unwrap_or(0),
            COUNTER_BYTES => bytes = be64(content).unwrap_or(0),
            _ => {}
        }
    }
    (packets, bytes)
}

/// Type, length, content; and again.
fn comment(mut userdata: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = userdata {
        let content = rest.get(..usize::from(*length))?;
        if *kind == UDATA_RULE_COMMENT {
            return Some(text(content));
        }
        userdata = &rest[content.len()..];
    }
    None
}

/// What a rule has in place of a comment once iptables has read and written
/// it (`iptables-save | iptables-restore`): a match that matches all
/// (linux/netfilter/xt_comment.h).
pub(super) fn comment_of_iptables(data: &[u8]) -> Option<String> {
    let find = |wanted| attributes(data).find(|(kind, _)| *kind == wanted);
    let (_, name) = find(MATCH_NAME)?;
    if text(name) != "comment" {
        return None;
    }
    find(MATCH_INFO).map(|(_, content)| text(content))
}

pub(super) fn set(message: &[u8]) -> Option<(String, ObservedSet)> {
    let (mut name, mut flags, mut key, mut key_length) = (None, 0, 0, 0);
    let (mut data, mut data_length) = (0, 0);
    for (kind, content) in attributes(message.get(4..)?) {
        match kind {
            SET_NAME => name = Some(text(content)),
            SET_FLAGS => flags = be32(content)?,
            SET_KEY_TYPE => key = be32(content)?,
            SET_KEY_LEN => key_length = be32(content)?,
            SET_DATA_TYPE => data = be32(content)?,
            SET_DATA_LEN => data_length = be32(content)?,
            _ => {}
        }
    }
    let shape = || {
        let shape = Shape {
            key: types(key)?,
            data: match (flags & FLAG_MAP != 0, data) {
                (false, _) => None,
                (true, DATA_VERDICT_TYPE) => Some(Data::Verdict),
                (true, data) => Some(Data::Values(types(data)?)),
            },
            interval: flags & FLAG_INTERVAL != 0,
            timeout: flags & FLAG_TIMEOUT != 0,
        };
        let whole = match &shape.data {
            Some(Data::Values(types)) => encode::type_of(types).1 == data_length,
            _ => true,
        };
        let as_ours = encode::type_of(&shape.key).1 == key_length;
        // Older kernels don't tell of the flag for several fields.
        let flags_alike = (encode::flags(&shape) ^ flags) & !FLAG_CONCAT == 0;
        (whole && as_ours && flags_alike).then_some(shape)
    };
    Some((name?, ObservedSet { shape: shape(), elements: BTreeMap::new() }))
}

fn types(mut id: u32) -> Option<Vec<Type>> {
    let all = [Type::Ipv4, Type::Ipv6, Type::Ether, Type::Port, Type::IfName];
    let mut types = Vec::new();
    while id != 0 {
        types.insert(0, *all.iter().find(|one| one.id() == id & 0x3F)?);
        id >>= 6;
    }
    (!types.is_empty()).then_some(types)
}

/// Of a set of this shape, from all the messages that tell them.
pub(super) fn elements(shape: &Shape, messages: &[Vec<u8>]) -> BTreeMap<ElementKey, Value> {
    let mut all = BTreeMap::new();
    // Ends of ranges whose key has one field, each an element of its own.
    let mut ends = Vec::new();
    for message in messages {
        let body = message.get(4..).unwrap_or_default();
        let lists = attributes(body).filter(|(kind, _)| *kind == ELEM_LIST_ELEMENTS);
        for (_, one) in lists.flat_map(|(_, list)| attributes(list)) {
            let Some(told) = element(shape, one) else { continue };
            if told.ends {
                ends.push(told.key.from);
            } else {
                all.insert(told.key, told.value);
            }
        }
    }
    if shape.interval && shape.key.len() == 1 {
        ends.sort_unstable();
        return all.into_iter().map(|(key, value)| (closed(shape, key, &ends), value)).collect();
    }
    all
}

/// With the last that belongs to it, which is one before the next end.
fn closed(shape: &Shape, key: ElementKey, ends: &[Vec<u8>]) -> ElementKey {
    let length = shape.key.first().map_or(0, |one| one.length());
    let next = ends.partition_point(|end| *end <= key.from);
    let mut last = ends.get(next).cloned().unwrap_or_else(|| vec![0; key.from.len()]);
    for byte in last.iter_mut().take(length).rev() {
        let (difference, borrowed) = byte.overflowing_sub(1);
        *byte = difference;
        if !borrowed {
            break;
        }
    }
    ElementKey { from: key.from, to: Some(last) }
}

struct Told {
    key: ElementKey,
    value: Value,
    ends: bool,
}

fn element(shape: &Shape, one: &[u8]) -> Option<Told> {
    let (mut from, mut to, mut value, mut ends) = (None, None, Value::Nothing, false);
    for (kind, content) in attributes(one) {
        match kind {
            ELEM_KEY => from = Some(bytes(content)?),
            ELEM_KEY_END => to = Some(bytes(content)?),
            ELEM_DATA => value = data(content)?,
            ELEM_FLAGS => ends = be32(content)? & ELEM_INTERVAL_END != 0,
            _ => {}
        }
    }
    let to = to.filter(|_| shape.interval);
    Some(Told { key: ElementKey { from: from?, to }, value, ends })
}

/// Filled up as we keep them.
fn bytes(content: &[u8]) -> Option<Vec<u8>> {
    let (_, value) = attributes(content).find(|(kind, _)| *kind == DATA_VALUE)?;
    let mut bytes = value.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Some(bytes)
}

fn data(content: &[u8]) -> Option<Value> {
    if let Some(bytes) = bytes(content) {
        return Some(Value::Bytes(bytes));
    }
    let (_, verdict) = attributes(content).find(|(kind, _)| *kind == DATA_VERDICT)?;
    let mut code = None;
    let mut chain = String::new();
    for (kind, content) in attributes(verdict) {
        match kind {
            VERDICT_CODE => code = be32(content),
            VERDICT_CHAIN => chain = text(content),
            _ => {}
        }
    }
    match code? {
        CODE_GOTO => Some(Value::Goto(chain)),
        // None of ours: any other stands for it.
        code => Some(Value::Bytes(code.to_be_bytes().to_vec())),
    }
}
