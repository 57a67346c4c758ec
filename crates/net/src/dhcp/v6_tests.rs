use dhcproto::v6::{Decodable, Decoder, OptionCode};
use proptest::prelude::*;

use super::*;
use crate::testing::{client, network};

const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0xb1, 2, 3, 4, 2];

fn request(kind: MessageType, change: impl FnOnce(&mut DhcpOptions)) -> Vec<u8> {
    let mut message = Message::new_with_id(kind, [1, 2, 3]);
    message.opts_mut().insert(DhcpOption::ClientId(DUID.to_vec()));
    change(message.opts_mut());
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).unwrap();
    bytes
}

fn iana(id: u32, addresses: &[Ipv6Addr]) -> DhcpOption {
    let mut opts = DhcpOptions::new();
    for addr in addresses {
        let none = DhcpOptions::new();
        let held = IAAddr { addr: *addr, preferred_life: 9, valid_life: 9, opts: none };
        opts.insert(DhcpOption::IAAddr(held));
    }
    DhcpOption::IANA(IANA { id, t1: 0, t2: 0, opts })
}

fn ask(bytes: &[u8]) -> Result<Message, &'static str> {
    let reply = answer(&network(), &client(2, "one"), bytes)?;
    Ok(Message::decode(&mut Decoder::new(&reply)).unwrap())
}

fn given(reply: &Message) -> Vec<(Ipv6Addr, u32)> {
    let all = reply.opts().get_all(OptionCode::IANA).unwrap_or_default().iter();
    let of = |option: &DhcpOption| match option {
        DhcpOption::IANA(association) => association.opts.clone(),
        _ => DhcpOptions::new(),
    };
    let mut given = Vec::new();
    for opts in all.map(of) {
        for option in opts.get_all(OptionCode::IAAddr).unwrap_or_default() {
            if let DhcpOption::IAAddr(address) = option {
                given.push((address.addr, address.valid_life));
            }
        }
    }
    given
}

#[test]
fn who_solicits_is_offered_the_address_of_its_mac() {
    let address = client(2, "one").ipv6.unwrap();
    let offer = ask(&request(MessageType::Solicit, |o| o.insert(iana(5, &[])))).unwrap();
    assert_eq!((offer.msg_type(), offer.xid()), (MessageType::Advertise, [1, 2, 3]));
    assert_eq!(given(&offer), [(address, 86400)]);
    assert_eq!(address.to_string(), "fd00:1:2:3:b1:2ff:fe03:402");
    let gateway = "fd00:1:2:3::1".parse().unwrap();
    let servers = DhcpOption::DomainNameServers(vec![gateway]);
    assert_eq!(offer.opts().get(OptionCode::DomainNameServers), Some(&servers));
    assert_eq!(offer.opts().get(OptionCode::ClientId), Some(&DhcpOption::ClientId(DUID.to_vec())));
    let at_once = ask(&request(MessageType::Solicit, |o| {
        o.insert(iana(5, &[]));
        o.insert(DhcpOption::RapidCommit);
    }));
    let at_once = at_once.unwrap();
    assert_eq!(at_once.msg_type(), MessageType::Reply);
    assert!(at_once.opts().get(OptionCode::RapidCommit).is_some());
}

#[test]
fn what_it_had_before_it_gives_up() {
    let address = client(2, "one").ipv6.unwrap();
    let old: Ipv6Addr = "fd00::9".parse().unwrap();
    let reply = ask(&request(MessageType::Renew, |o| {
        o.insert(DhcpOption::ServerId(duid(&network())));
        // The last one in is the first one out.
        o.insert(iana(6, &[]));
        o.insert(iana(5, &[old]));
    }));
    let mut given = given(&reply.unwrap());
    given.sort_unstable();
    assert_eq!(given, [(old, 0), (address, 86400)]);
}

#[test]
fn a_confirmation_says_whether_it_is_its_own() {
    let status = |address: Ipv6Addr| {
        let reply = ask(&request(MessageType::Confirm, |o| o.insert(iana(5, &[address])))).unwrap();
        match reply.opts().get(OptionCode::StatusCode) {
            Some(DhcpOption::StatusCode(code)) => code.status,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(status(client(2, "one").ipv6.unwrap()), Status::Success);
    assert_eq!(status(client(3, "two").ipv6.unwrap()), Status::NotOnLink);
}

#[test]
fn what_is_not_for_us_is_not_answered() {
    let other = request(MessageType::Request, |o| {
        o.insert(DhcpOption::ServerId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]));
    });
    assert_eq!(ask(&other).unwrap_err(), "it asks another server");
    assert_eq!(ask(&request(MessageType::Confirm, |_| ())).unwrap_err(), "it confirms nothing");
    assert_eq!(
        ask(&request(MessageType::Advertise, |_| ())).unwrap_err(),
        "it is nothing for a server"
    );
    assert!(ask(b"").is_err());
}

#[test]
fn a_card_is_known_by_its_link_local_address() {
    let clients = [client(2, "one"), client(3, "two")];
    let found = by_link_local(&clients, "fe80::b1:2ff:fe03:403".parse().unwrap());
    assert_eq!(found.map(|client| client.name.to_string()).as_deref(), Some("two"));
    assert!(by_link_local(&clients, "fe80::1".parse().unwrap()).is_none());
}

proptest! {
    #[test]
    fn no_datagram_gets_another_address(
        noise in prop::collection::vec(any::<u8>(), 0..200),
        at in 4..60_usize,
    ) {
        let _ = ask(&noise);
        let mut bytes = request(MessageType::Solicit, |o| o.insert(iana(5, &[])));
        let end = (at + noise.len()).min(bytes.len()).max(at.min(bytes.len()));
        let at = at.min(end);
        bytes[at..end].copy_from_slice(&noise[..end - at]);
        if let Ok(reply) = ask(&bytes) {
            for (address, life) in given(&reply) {
                prop_assert!(life == 0 || address == client(2, "one").ipv6.unwrap());
            }
        }
    }
}
