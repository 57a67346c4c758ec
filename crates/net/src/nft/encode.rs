//! A transaction as the kernel's messages.

use inn_netlink::{APPEND, CREATE, Message, Payload};

use super::expression;
use super::model::{Data, ElementKey, Family, Hook, Rule, Shape, Type, Value};
use super::numbers::*;
use super::part::Verdict;
use super::plan::{Place, Step, Transaction};

/// Elements in one message: a list of them is an attribute, which has 64 KiB,
/// and an element of ours takes at most 200 bytes.
const CHUNK: usize = 256;

/// Of a message of nf_tables (nfnetlink.h, `struct nfgenmsg`).
pub(super) fn fixed(family: u8) -> Payload {
    Payload::new(&[family, 0, 0, 0])
}

pub(super) fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// The ends of a batch; the kernel refuses it if it has another generation.
pub(super) fn ends(generation: Option<u32>) -> (Message, Message) {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    let payload = Payload::new(&[0, 0, high, low]);
    let end = Message { kind: BATCH_END, flags: 0, payload: payload.clone() };
    let mut begin = Message { kind: BATCH_BEGIN, flags: 0, payload };
    if let Some(generation) = generation {
        begin.payload.put_be32(BATCH_GENID, generation);
    }
    (begin, end)
}

/// With the step that each message belongs to.
pub(super) fn messages(transaction: &Transaction) -> Vec<(usize, Message)> {
    let table = transaction.instance.table();
    let mut all = Vec::new();
    for (at, (family, step)) in transaction.steps.iter().enumerate() {
        let into = Into { family: *family, table: &table, set_id: u32::try_from(at).unwrap_or(0) };
        all.extend(into.step(step).into_iter().map(|message| (at, message)));
    }
    all
}

struct Into<'a> {
    family: Family,
    table: &'a str,
    /// A set that is made needs one, for which a batch has no other.
    set_id: u32,
}

impl Into<'_> {
    fn step(&self, step: &Step) -> Vec<Message> {
        let message = |kind, flags, payload| vec![self.message(kind, flags, payload)];
        match step {
            Step::DeleteTable => message(DELTABLE, 0, self.named(TABLE_NAME)),
            Step::AddTable => {
                let mut payload = self.named(TABLE_NAME);
                payload.put_be32(TABLE_FLAGS, 0);
                message(NEWTABLE, CREATE, payload)
            }
            Step::DeleteRule { chain, handle } => {
                let mut payload = self.named(RULE_TABLE);
                payload.put_text(RULE_CHAIN, chain).put_be64(RULE_HANDLE, *handle);
                message(DELRULE, 0, payload)
            }
            Step::DeleteChain { chain } => {
                let mut payload = self.named(CHAIN_TABLE);
                payload.put_text(CHAIN_NAME, chain);
                message(DELCHAIN, 0, payload)
            }
            Step::DeleteSet { set } => {
                let mut payload = self.named(SET_TABLE);
                payload.put_text(SET_NAME, set);
                message(DELSET, 0, payload)
            }
            Step::AddSet { set, shape } => message(NEWSET, CREATE, self.set(set, shape)),
            Step::AddChain { chain, hook } => message(NEWCHAIN, CREATE, self.chain(chain, *hook)),
            Step::AddRule { chain, place, rule } => {
                let flags = if *place == Place::Last { CREATE | APPEND } else { CREATE };
                message(NEWRULE, flags, self.rule(chain, *place, rule))
            }
            Step::AddElements { set, shape, elements } => {
                self.elements(NEWSETELEM, set, shape, elements)
            }
            Step::DeleteElements { set, shape, elements } => {
                self.elements(DELSETELEM, set, shape, elements)
            }
        }
    }

    fn message(&self, message: u16, flags: u16, payload: Payload) -> Message {
        Message { kind: kind(message), flags, payload }
    }

    fn named(&self, attribute: u16) -> Payload {
        let mut payload = fixed(self.family.number());
        payload.put_text(attribute, self.table);
        payload
    }

    fn chain(&self, name: &str, hook: Option<Hook>) -> Payload {
        let mut payload = self.named(CHAIN_TABLE);
        payload.put_text(CHAIN_NAME, name);
        if let Some(hook) = hook {
            payload.nest(CHAIN_HOOK, |nest| {
                nest.put_be32(HOOK_NUMBER, hook.point.number());
                nest.put(HOOK_PRIORITY, &hook.priority.to_be_bytes());
            });
            payload.put_be32(CHAIN_POLICY, CODE_ACCEPT);
            payload.put_text(CHAIN_TYPE, if hook.nat { "nat" } else { "filter" });
        }
        payload
    }

    fn rule(&self, chain: &str, place: Place, rule: &Rule) -> Payload {
        let mut payload = self.named(RULE_TABLE);
        payload.put_text(RULE_CHAIN, chain);
        if let Place::Before(handle) = place {
            payload.put_be64(RULE_POSITION, handle);
        }
        put_rule(&mut payload, rule);
        payload
    }

    fn set(&self, name: &str, shape: &Shape) -> Payload {
        let mut payload = self.named(SET_TABLE);
        payload.put_text(SET_NAME, name).put_be32(SET_FLAGS, flags(shape));
        let (key, key_length) = type_of(&shape.key);
        payload.put_be32(SET_KEY_TYPE, key).put_be32(SET_KEY_LEN, key_length);
        let mut userdata = Vec::new();
        order(UDATA_SET_KEYBYTEORDER, &shape.key, &mut userdata);
        match &shape.data {
            None => {}
            Some(Data::Verdict) => {
                payload.put_be32(SET_DATA_TYPE, DATA_VERDICT_TYPE).put_be32(SET_DATA_LEN, 0);
                order(UDATA_SET_DATABYTEORDER, &[], &mut userdata);
            }
            Some(Data::Values(types)) => {
                let (data, length) = type_of(types);
                payload.put_be32(SET_DATA_TYPE, data).put_be32(SET_DATA_LEN, length);
                order(UDATA_SET_DATABYTEORDER, types, &mut userdata);
            }
        }
        payload.put_be32(SET_ID, self.set_id);
        if shape.interval && shape.key.len() > 1 {
            payload.nest(SET_DESC, |desc| {
                desc.nest(DESC_CONCAT, |fields| {
                    for field in &shape.key {
                        fields.nest(LIST_ELEM, |one| {
                            let length = u32::try_from(field.length()).unwrap_or(0);
                            one.put_be32(FIELD_LEN, length);
                        });
                    }
                });
            });
        }
        payload.put(SET_USERDATA, &userdata);
        payload
    }

    fn elements(
        &self,
        message: u16,
        set: &str,
        shape: &Shape,
        elements: &[(ElementKey, Value)],
    ) -> Vec<Message> {
        let flags = if message == NEWSETELEM { CREATE } else { 0 };
        let chunks = elements.chunks(CHUNK).map(|chunk| {
            let mut payload = self.named(ELEM_LIST_TABLE);
            payload.put_text(ELEM_LIST_SET, set);
            payload.nest(ELEM_LIST_ELEMENTS, |list| {
                for (key, value) in chunk {
                    element(shape, key, value, list);
                }
            });
            self.message(message, flags, payload)
        });
        chunks.collect()
    }
}

/// What it says, and its comment.
pub(super) fn put_rule(payload: &mut Payload, rule: &Rule) {
    payload.nest(RULE_EXPRESSIONS, |list| expression::write(&rule.parts, list));
    let comment = rule.comment();
    let mut userdata = vec![UDATA_RULE_COMMENT, u8::try_from(comment.len() + 1).unwrap_or(0)];
    userdata.extend(comment.as_bytes());
    userdata.push(0);
    payload.put(RULE_USERDATA, &userdata);
}

/// One element of a set whose elements end; to be added with its time, or with
/// the set's own, or to be taken away.
pub(super) fn timed(
    family: Family,
    table: &str,
    set: &str,
    message: u16,
    key: &ElementKey,
    milliseconds: Option<u64>,
) -> Message {
    let mut payload = fixed(family.number());
    payload.put_text(ELEM_LIST_TABLE, table).put_text(ELEM_LIST_SET, set);
    payload.nest(ELEM_LIST_ELEMENTS, |list| {
        list.nest(LIST_ELEM, |one| {
            one.nest(ELEM_KEY, |value| {
                value.put(DATA_VALUE, &key.from);
            });
            if let Some(milliseconds) = milliseconds {
                one.put_be64(ELEM_TIMEOUT, milliseconds);
            }
        });
    });
    let flags = if message == NEWSETELEM { CREATE } else { 0 };
    Message { kind: kind(message), flags, payload }
}

/// A range is one element where the key has several fields, else two: its
/// first, and the one behind its last.
fn element(shape: &Shape, key: &ElementKey, value: &Value, list: &mut Payload) {
    let joined = shape.key.len() > 1;
    list.nest(LIST_ELEM, |one| {
        put_key(ELEM_KEY, &shape.key, &key.from, one);
        if joined && shape.interval {
            put_key(ELEM_KEY_END, &shape.key, key.to.as_ref().unwrap_or(&key.from), one);
        }
        match value {
            Value::Nothing => {}
            Value::Bytes(bytes) => {
                one.nest(ELEM_DATA, |data| {
                    data.put(DATA_VALUE, bytes);
                });
            }
            Value::Goto(chain) => {
                one.nest(ELEM_DATA, |data| {
                    expression::put_verdict(&Verdict::Goto(chain.clone()), data);
                });
            }
        }
    });
    if shape.interval
        && !joined
        && let Some(end) = behind(key.to.as_ref().unwrap_or(&key.from), &shape.key)
    {
        list.nest(LIST_ELEM, |one| {
            put_key(ELEM_KEY, &shape.key, &end, one);
            one.put_be32(ELEM_FLAGS, ELEM_INTERVAL_END);
        });
    }
}

fn put_key(attribute: u16, types: &[Type], bytes: &[u8], one: &mut Payload) {
    // A single one has its own length, without what fills it up.
    let bytes = match types {
        [single] => bytes.get(..single.length()).unwrap_or(bytes),
        _ => bytes,
    };
    one.nest(attribute, |key| {
        key.put(DATA_VALUE, bytes);
    });
}

/// The next number; none behind the highest.
fn behind(last: &[u8], types: &[Type]) -> Option<Vec<u8>> {
    let length = types.first()?.length();
    let mut next = last.to_vec();
    for byte in next.get_mut(..length)?.iter_mut().rev() {
        let (sum, carried) = byte.overflowing_add(1);
        *byte = sum;
        if !carried {
            return Some(next);
        }
    }
    None
}

pub(super) fn flags(shape: &Shape) -> u32 {
    let mut flags = 0;
    if shape.interval {
        flags |= FLAG_INTERVAL;
        if shape.key.len() > 1 {
            flags |= FLAG_CONCAT;
        }
    }
    if shape.data.is_some() {
        flags |= FLAG_MAP;
    }
    if shape.timeout {
        flags |= FLAG_TIMEOUT;
    }
    flags
}

/// As nft numbers it, six bits for each field; and how long it is.
pub(super) fn type_of(types: &[Type]) -> (u32, u32) {
    let id = types.iter().fold(0, |id, field| id << 6 | field.id());
    let length = match types {
        [single] => single.length(),
        _ => types.iter().map(|field| field.padded()).sum(),
    };
    (id, u32::try_from(length).unwrap_or(0))
}

/// nft's `enum byteorder`: none for several fields, the host's for names.
fn order(attribute: u8, types: &[Type], userdata: &mut Vec<u8>) {
    let order: u32 = match types {
        [Type::IfName] => 1,
        [_] => 2,
        _ => 0,
    };
    userdata.extend([attribute, 4]);
    userdata.extend(order.to_ne_bytes());
}
