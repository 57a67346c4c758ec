use dhcproto::v4::{Decodable, Decoder, Flags, OptionCode};
use proptest::prelude::*;

use super::*;
use crate::testing::{client, network};

/// As busybox' udhcpc 1.35 begins (networking/udhcp/dhcpc.c): BOOTP's fixed
/// part, then options in its order.
fn udhcpc_discover(mac: [u8; 6]) -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, 0, 0x5d, 0x31, 0xd4, 0x2a, 0, 0, 0, 0];
    bytes.extend([0; 16]);
    bytes.extend(mac);
    bytes.resize(236, 0);
    bytes.extend([0x63, 0x82, 0x53, 0x63]);
    bytes.extend([53, 1, 1, 61, 7, 1]);
    bytes.extend(mac);
    bytes.extend([57, 2, 0x02, 0x40, 55, 7, 1, 3, 6, 12, 15, 28, 42]);
    bytes.extend(b"\x3c\x0dudhcp 1.35.0\x00\xff");
    bytes.resize(300, 0);
    bytes
}

fn request(kind: MessageType, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let zero = Ipv4Addr::UNSPECIFIED;
    let mac = client(2, "one").mac;
    let mut message = Message::new_with_id(7, zero, zero, zero, zero, &mac);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    change(&mut message);
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).unwrap();
    bytes
}

fn ask(bytes: &[u8]) -> Outcome {
    answer(&network(), &[client(2, "one"), client(3, "two")], bytes)
}

fn replied(bytes: &[u8]) -> (Message, SocketAddrV4) {
    match ask(bytes) {
        Outcome::Reply { to, bytes, .. } => {
            assert!(bytes.len() >= 300 && bytes.len() <= 576, "{}", bytes.len());
            (Message::decode(&mut Decoder::new(&bytes)).unwrap(), to)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stock_client_is_offered_its_address_and_all_that_goes_with_it() {
    let (offer, to) = replied(&udhcpc_discover(client(3, "two").mac));
    assert_eq!(to.to_string(), "10.213.0.3:68");
    assert_eq!(offer.xid(), 0x5d31_d42a);
    assert_eq!(offer.yiaddr().to_string(), "10.213.0.3");
    assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
    let gateway: Ipv4Addr = "10.213.0.1".parse().unwrap();
    for option in [
        DhcpOption::ServerIdentifier(gateway),
        DhcpOption::Router(vec![gateway]),
        DhcpOption::DomainNameServer(vec![gateway]),
        DhcpOption::SubnetMask([255, 255, 255, 0].into()),
        DhcpOption::BroadcastAddr([10, 213, 0, 255].into()),
        DhcpOption::InterfaceMtu(1400),
        DhcpOption::Hostname("two".to_owned()),
        DhcpOption::DomainName("web.inn.internal".to_owned()),
        DhcpOption::AddressLeaseTime(86400),
        DhcpOption::Renewal(3600),
        DhcpOption::ClientIdentifier(vec![1, 0x02, 0xb1, 2, 3, 4, 3]),
    ] {
        assert_eq!(offer.opts().get(OptionCode::from(&option)), Some(&option));
    }
}

#[test]
fn its_own_address_is_confirmed_and_any_other_denied() {
    let want = |ip: [u8; 4]| {
        request(MessageType::Request, |message| {
            message.opts_mut().insert(DhcpOption::RequestedIpAddress(ip.into()));
        })
    };
    let (ack, to) = replied(&want([10, 213, 0, 2]));
    assert_eq!(
        (ack.opts().msg_type(), to.ip().octets()),
        (Some(MessageType::Ack), [10, 213, 0, 2])
    );
    let (nak, to) = replied(&want([10, 213, 0, 3]));
    assert_eq!((nak.opts().msg_type(), *to.ip()), (Some(MessageType::Nak), Ipv4Addr::BROADCAST));
    assert!(nak.yiaddr().is_unspecified() && nak.opts().get(OptionCode::Router).is_none());
}

#[test]
fn a_renewal_names_its_address_in_the_fixed_part() {
    let (ack, to) = replied(&request(MessageType::Request, |message| {
        message.set_ciaddr([10, 213, 0, 2]);
    }));
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(to.to_string(), "10.213.0.2:68");
}

#[test]
fn who_cannot_take_unicast_gets_broadcast() {
    let (_, to) = replied(&request(MessageType::Discover, |message| {
        message.set_flags(Flags::default().set_broadcast());
    }));
    assert_eq!(*to.ip(), Ipv4Addr::BROADCAST);
}

#[test]
fn who_has_an_address_is_informed_of_the_rest() {
    let (ack, to) = replied(&request(MessageType::Inform, |message| {
        message.set_ciaddr([10, 213, 0, 2]);
    }));
    assert!(ack.yiaddr().is_unspecified());
    assert!(ack.opts().get(OptionCode::AddressLeaseTime).is_none());
    assert!(ack.opts().get(OptionCode::Router).is_some());
    assert_eq!(to.ip().octets(), [10, 213, 0, 2]);
    // Never to where it would leave the bridge.
    let (_, to) = replied(&request(MessageType::Inform, |message| {
        message.set_ciaddr([192, 0, 2, 1]);
    }));
    assert_eq!(to.ip().octets(), [10, 213, 0, 2]);
}

#[test]
fn what_is_not_for_us_is_not_answered() {
    let silent = |bytes: &[u8]| match ask(bytes) {
        Outcome::Silence(why) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(silent(&udhcpc_discover([2, 0, 0, 0, 0, 9])), "no VM has its address");
    assert_eq!(silent(b""), "it is no DHCP");
    let relayed = request(MessageType::Discover, |message| {
        message.set_giaddr([10, 0, 0, 1]);
    });
    assert_eq!(silent(&relayed), "it came by a relay");
    let other = request(MessageType::Request, |message| {
        message.opts_mut().insert(DhcpOption::ServerIdentifier([10, 0, 0, 9].into()));
    });
    assert_eq!(silent(&other), "it asks another server");
    let release = request(MessageType::Release, |_| ());
    assert_eq!(silent(&release), "a declared address stays its VM's");
    let declined = ask(&request(MessageType::Decline, |_| ()));
    assert_eq!(declined, Outcome::Declined { vm: client(2, "one").vm });
    // A length that is none: beyond what the field holds.
    for length in [0, 1, 7, 16, 17, 255] {
        let mut lie = udhcpc_discover(client(2, "one").mac);
        lie[2] = length;
        assert_eq!(silent(&lie), "it is no request from an Ethernet");
    }
    let reply = {
        let mut bytes = udhcpc_discover(client(2, "one").mac);
        bytes[0] = 2;
        bytes
    };
    assert_eq!(silent(&reply), "it is no request from an Ethernet");
}

/// Of which dhcproto's own decoder panics.
#[test]
fn options_of_any_length_are_read() {
    for code in [1, 28, 50, 51, 53, 54, 58, 61, 82, 119] {
        for length in 0..8_u8 {
            let mut bytes = udhcpc_discover(client(2, "one").mac);
            bytes.truncate(240);
            bytes.extend([code, length]);
            bytes.resize(bytes.len() + usize::from(length), 1);
            ask(&bytes);
            bytes.extend([53, 1, 1, 255]);
            assert!(!matches!(ask(&bytes), Outcome::Silence("it is no DHCP")));
        }
    }
}

proptest! {
    #[test]
    fn no_datagram_does_more_than_it_may(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        at in 0..300_usize,
        cut in 0..301_usize,
    ) {
        ask(&noise);
        let mut bytes = udhcpc_discover(client(2, "one").mac);
        let end = (at + noise.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&noise[..end - at]);
        bytes.truncate(cut);
        if let Outcome::Reply { to, .. } = ask(&bytes) {
            prop_assert!(to.ip().is_broadcast() || network().spec.ipv4.unwrap().contains(to.ip()));
        }
    }
}
