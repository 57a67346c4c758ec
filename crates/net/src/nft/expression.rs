//! A rule's parts as the kernel's expressions: load into a register, compare,
//! look up, act.

use inn_netlink::Payload;

use super::numbers::*;
use super::part::{Field, IpFamily, Load, Part, Test, Verdict};

/// nf_tables.h, `enum nft_registers`: 16 bytes each, and the same again in
/// parts of four.
const REGISTER: u32 = 1;
const SMALL: u32 = 8;

const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;

const META_PKTTYPE: u32 = 19;

pub(super) fn write(parts: &[Part], list: &mut Payload) {
    for part in parts {
        match part {
            Part::Match(field, test) => compare(*field, test, list),
            Part::In { fields, set, not } => {
                load_all(fields, list);
                lookup(set, None, *not, list);
            }
            Part::Verdicts { fields, map } => {
                load_all(fields, list);
                lookup(map, Some(0), false, list);
            }
            Part::Dnat { to, fields, map, port } => {
                load_all(fields, list);
                lookup(map, Some(REGISTER), false, list);
                nat(*to, *port, list);
            }
            Part::Masquerade => expression("masq", list, |_| {}),
            Part::ForThisHost => {
                expression("fib", list, |data| {
                    // The type of the address that it is for.
                    data.put_be32(1, REGISTER).put_be32(2, 3).put_be32(3, 2);
                });
                // linux/rtnetlink.h, RTN_LOCAL.
                cmp(EQUAL, &2_u32.to_ne_bytes(), list);
            }
            Part::HandToHost { bridge } => {
                immediate(bridge, list);
                expression("payload", list, |data| {
                    data.put_be32(5, REGISTER).put_be32(2, 0).put_be32(3, 0).put_be32(4, 6);
                    data.put_be32(6, 0).put_be32(7, 0).put_be32(8, 0);
                });
                // linux/if_packet.h, PACKET_HOST.
                immediate(&[0], list);
                expression("meta", list, |data| {
                    data.put_be32(2, META_PKTTYPE).put_be32(3, REGISTER);
                });
            }
            Part::Counter => expression("counter", list, |data| {
                data.put_be64(COUNTER_BYTES, 0).put_be64(COUNTER_PACKETS, 0);
            }),
            Part::Above { rate, burst, bytes } => expression("limit", list, |data| {
                data.put_be64(1, *rate).put_be64(2, 1).put_be32(3, *burst);
                data.put_be32(4, u32::from(*bytes)).put_be32(5, 1);
            }),
            Part::Do(verdict) => expression("immediate", list, |data| {
                data.put_be32(1, 0).nest(2, |data| put_verdict(verdict, data));
            }),
        }
    }
}

/// What the kernel calls each of them.
pub(super) fn names(parts: &[Part]) -> impl Iterator<Item = &'static str> {
    parts.iter().flat_map(|part| {
        let (loads, acts): (&[Field], &[&'static str]) = match part {
            Part::Match(field, test) => {
                let acts: &[&str] = match test {
                    Test::Is(_) | Test::Not(_) => &["cmp"],
                    Test::Between(..) => &["cmp", "cmp"],
                    Test::Within(_, length) | Test::NotWithin(_, length)
                        if length.is_multiple_of(8) =>
                    {
                        &["cmp"]
                    }
                    Test::Within(..) | Test::NotWithin(..) | Test::AnyOf(_) => &["bitwise", "cmp"],
                };
                (std::slice::from_ref(field), acts)
            }
            Part::In { fields, .. } | Part::Verdicts { fields, .. } => (fields, &["lookup"]),
            Part::Dnat { fields, .. } => (fields, &["lookup", "nat"]),
            Part::Masquerade => (&[], &["masq"]),
            Part::ForThisHost => (&[], &["fib", "cmp"]),
            Part::HandToHost { .. } => (&[], &["immediate", "payload", "immediate", "meta"]),
            Part::Counter => (&[], &["counter"]),
            Part::Above { .. } => (&[], &["limit"]),
            Part::Do(_) => (&[], &["immediate"]),
        };
        let loads = loads.iter().map(|field| match field.facts().0 {
            Load::Meta(_) => "meta",
            Load::Ct(_) => "ct",
            Load::Link(_) | Load::Network(_) | Load::Transport(_) => "payload",
        });
        loads.chain(acts.iter().copied())
    })
}

pub(super) fn put_verdict(verdict: &Verdict, data: &mut Payload) {
    data.nest(DATA_VERDICT, |data| {
        match verdict {
            Verdict::Accept => data.put_be32(VERDICT_CODE, CODE_ACCEPT),
            Verdict::Drop => data.put_be32(VERDICT_CODE, CODE_DROP),
            Verdict::Return => data.put_be32(VERDICT_CODE, CODE_RETURN),
            Verdict::Jump(chain) => {
                data.put_be32(VERDICT_CODE, CODE_JUMP).put_text(VERDICT_CHAIN, chain)
            }
            Verdict::Goto(chain) => {
                data.put_be32(VERDICT_CODE, CODE_GOTO).put_text(VERDICT_CHAIN, chain)
            }
        };
    });
}

fn expression(name: &str, list: &mut Payload, fill: impl FnOnce(&mut Payload)) {
    list.nest(LIST_ELEM, |element| {
        element.put_text(EXPR_NAME, name).nest(EXPR_DATA, fill);
    });
}

fn compare(field: Field, test: &Test, list: &mut Payload) {
    // As nft does: whole bytes are read alone, and need no mask.
    if let Test::Within(value, length) | Test::NotWithin(value, length) = test
        && length.is_multiple_of(8)
    {
        let bytes = usize::from(length / 8);
        load_part(field, bytes, REGISTER, list);
        let operation = if matches!(test, Test::Within(..)) { EQUAL } else { UNEQUAL };
        return cmp(operation, value.get(..bytes).unwrap_or(value), list);
    }
    load(field, REGISTER, list);
    match test {
        Test::Is(value) => cmp(EQUAL, value, list),
        Test::Not(value) => cmp(UNEQUAL, value, list),
        Test::Within(value, length) => {
            mask(&prefix(value.len(), *length), list);
            cmp(EQUAL, value, list);
        }
        Test::NotWithin(value, length) => {
            mask(&prefix(value.len(), *length), list);
            cmp(UNEQUAL, value, list);
        }
        Test::Between(from, to) => {
            cmp(AT_LEAST, from, list);
            cmp(AT_MOST, to, list);
        }
        Test::AnyOf(bits) => {
            mask(&bits.to_ne_bytes(), list);
            cmp(UNEQUAL, &[0; 4], list);
        }
    }
}

/// So many bits, from the first.
fn prefix(bytes: usize, length: u8) -> Vec<u8> {
    (0..bytes)
        .map(|at| {
            let left = usize::from(length).saturating_sub(at * 8).min(8);
            u8::MAX.checked_shl(u32::try_from(8 - left).unwrap_or(8)).unwrap_or(0)
        })
        .collect()
}

/// Side by side, each from a multiple of four bytes on.
fn load_all(fields: &[Field], list: &mut Payload) {
    let mut at = 0_u32;
    for field in fields {
        // nft names a register by its large name where there is one.
        let register = if at.is_multiple_of(4) { REGISTER + at / 4 } else { SMALL + at };
        load(*field, register, list);
        at += u32::try_from(field.length().div_ceil(4)).unwrap_or(0);
    }
}

fn load(field: Field, register: u32, list: &mut Payload) {
    load_part(field, field.length(), register, list);
}

/// Its first bytes.
fn load_part(field: Field, length: usize, register: u32, list: &mut Payload) {
    let (from, ..) = field.facts();
    let (base, offset) = match from {
        Load::Meta(key) => {
            return expression("meta", list, |data| {
                data.put_be32(2, key).put_be32(1, register);
            });
        }
        Load::Ct(key) => {
            return expression("ct", list, |data| {
                data.put_be32(2, key).put_be32(1, register);
            });
        }
        Load::Link(offset) => (0, offset),
        Load::Network(offset) => (1, offset),
        Load::Transport(offset) => (2, offset),
    };
    expression("payload", list, |data| {
        let length = u32::try_from(length).unwrap_or(0);
        data.put_be32(1, register).put_be32(2, base).put_be32(3, offset).put_be32(4, length);
    });
}

fn cmp(operation: u32, value: &[u8], list: &mut Payload) {
    expression("cmp", list, |data| {
        data.put_be32(1, REGISTER).put_be32(2, operation);
        data.nest(3, |data| {
            data.put(DATA_VALUE, value);
        });
    });
}

fn mask(bits: &[u8], list: &mut Payload) {
    expression("bitwise", list, |data| {
        let length = u32::try_from(bits.len()).unwrap_or(0);
        data.put_be32(1, REGISTER).put_be32(2, REGISTER).put_be32(3, length);
        data.nest(4, |data| {
            data.put(DATA_VALUE, bits);
        });
        data.nest(5, |data| {
            data.put(DATA_VALUE, &vec![0; bits.len()]);
        });
    });
}

fn immediate(value: &[u8], list: &mut Payload) {
    expression("immediate", list, |data| {
        data.put_be32(1, REGISTER).nest(2, |data| {
            data.put(DATA_VALUE, value);
        });
    });
}

fn lookup(set: &str, to: Option<u32>, not: bool, list: &mut Payload) {
    expression("lookup", list, |data| {
        data.put_text(1, set).put_be32(2, REGISTER);
        if let Some(register) = to {
            data.put_be32(3, register);
        }
        if not {
            data.put_be32(5, 1);
        }
    });
}

/// To the address that the lookup has left, and the port behind it.
fn nat(to: IpFamily, port: bool, list: &mut Payload) {
    let (family, behind) = match to {
        IpFamily::V4 => (2, SMALL + 1),
        IpFamily::V6 => (10, REGISTER + 1),
    };
    expression("nat", list, |data| {
        data.put_be32(1, 1).put_be32(2, family);
        data.put_be32(3, REGISTER).put_be32(4, REGISTER);
        if port {
            data.put_be32(5, behind).put_be32(6, behind);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn prefixes() {
        assert_eq!(prefix(4, 8), [0xFF, 0, 0, 0]);
        assert_eq!(prefix(4, 12), [0xFF, 0xF0, 0, 0]);
        assert_eq!(prefix(4, 32), [0xFF; 4]);
        assert_eq!(prefix(4, 0), [0; 4]);
        assert_eq!(prefix(16, 10)[..3], [0xFF, 0xC0, 0]);
    }
}
