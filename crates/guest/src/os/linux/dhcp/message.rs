//! DHCPv4's messages (RFC 2131, RFC 2132), as far as a client with one card has
//! use for them. Pure; what a server says is bounded, and read by what it holds.

use std::net::Ipv4Addr;
use std::time::Duration;

/// RFC 2131, figure 1: up to the options, with their cookie.
const HEADER: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Answers by broadcast: there is no address yet that they could reach.
const BROADCAST: [u8; 2] = [0x80, 0];

/// As BOOTP had them; some servers throw away what is shorter.
const SHORTEST: usize = 300;

/// RFC 2132, by the sections' own names.
mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const SUBNET_MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const HOSTNAME: u8 = 12;
    pub(super) const REQUESTED: u8 = 50;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const KIND: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const WANTED: u8 = 55;
    pub(super) const END: u8 = 255;
}

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Who has an address?
    Discover,
    /// For what this server has offered.
    Take { address: Ipv4Addr, server: Ipv4Addr },
    /// To keep what it has.
    Keep { address: Ipv4Addr },
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) mac: [u8; 6],
    pub(super) hostname: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Offer,
    Ack,
    Nak,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u32,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) dns: Vec<Ipv4Addr>,
    pub(super) server: Ipv4Addr,
    /// What a server that says none means is for ever.
    pub(super) holds: Option<Duration>,
}

pub(super) fn write(client: &Client, xid: u32, ask: Ask) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SHORTEST);
    // A request, from an Ethernet, whose addresses have six bytes, by no relay.
    bytes.extend([1, 1, 6, 0]);
    bytes.extend(xid.to_be_bytes());
    bytes.extend([0, 0]);
    let (kind, own) = match ask {
        Ask::Discover => (1, None),
        Ask::Take { .. } => (3, None),
        Ask::Keep { address } => (3, Some(address)),
    };
    bytes.extend(if own.is_some() { [0, 0] } else { BROADCAST });
    bytes.extend(own.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    bytes.extend([0; 12]);
    bytes.extend(client.mac);
    // The rest of the address's place, and names that nobody has.
    bytes.resize(HEADER - COOKIE.len(), 0);
    bytes.extend(COOKIE);
    let mut put = |option: u8, value: &[u8]| {
        let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
        bytes.extend([option, length]);
        bytes.extend(&value[..usize::from(length)]);
    };
    put(option::KIND, &[kind]);
    put(option::WANTED, &[option::SUBNET_MASK, option::ROUTER, option::DNS]);
    if !client.hostname.is_empty() {
        put(option::HOSTNAME, client.hostname.as_bytes());
    }
    if let Ask::Take { address, server } = ask {
        put(option::REQUESTED, &address.octets());
        put(option::SERVER, &server.octets());
    }
    bytes.push(option::END);
    bytes.resize(bytes.len().max(SHORTEST), 0);
    bytes
}

/// `None` of what is no answer to this client's question.
pub(super) fn read(bytes: &[u8], client: &Client, xid: u32) -> Option<(Kind, Lease)> {
    let header = bytes.get(..HEADER)?;
    let ours = header[0] == 2
        && header[4..8] == xid.to_be_bytes()
        && header[28..34] == client.mac
        && header[HEADER - 4..] == COOKIE;
    if !ours {
        return None;
    }
    let options = Options(&bytes[HEADER..]);
    let kind = match options.find(option::KIND)? {
        [2] => Kind::Offer,
        [5] => Kind::Ack,
        [6] => Kind::Nak,
        _ => return None,
    };
    let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes.get(..4)?).ok().map(Ipv4Addr::from);
    let addresses = |option| {
        let (all, _) = options.find(option).unwrap_or_default().as_chunks::<4>();
        all.iter().map(|octets| Ipv4Addr::from(*octets)).collect::<Vec<_>>()
    };
    let given = address(&header[16..20])?;
    let mask = options.find(option::SUBNET_MASK).and_then(address);
    let holds = options.find(option::LEASE_TIME).and_then(|time| time.try_into().ok());
    let holds = holds.map(u32::from_be_bytes).filter(|seconds| *seconds != u32::MAX);
    let lease = Lease {
        address: given,
        // Before there were masks a class said it: nobody leases so.
        prefix: mask.map_or(24, |mask| mask.to_bits().leading_ones()),
        gateway: addresses(option::ROUTER).first().copied(),
        dns: addresses(option::DNS),
        server: options.find(option::SERVER).and_then(address).unwrap_or(given),
        holds: holds.map(|seconds| Duration::from_secs(seconds.into())),
    };
    (kind == Kind::Nak || !given.is_unspecified()).then_some((kind, lease))
}

/// The field of options; those that are cut short are not there.
struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    fn find(&self, wanted: u8) -> Option<&'a [u8]> {
        let mut rest = self.0;
        loop {
            match *rest {
                [] | [option::END, ..] => return None,
                [option::PAD, ref after @ ..] => rest = after,
                [option, length, ref after @ ..] => {
                    let (value, next) = after.split_at_checked(length.into())?;
                    if option == wanted {
                        return Some(value);
                    }
                    rest = next;
                }
                [_] => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client() -> Client {
        Client { mac: [2, 0, 0, 0, 0, 7], hostname: "web".to_owned() }
    }

    fn answer(kind: u8, options: &[u8]) -> Vec<u8> {
        let mut bytes = write(&client(), 7, Ask::Discover);
        bytes.truncate(HEADER);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[192, 0, 2, 9]);
        bytes.extend([option::KIND, 1, kind]);
        bytes.extend(options);
        bytes.push(option::END);
        bytes
    }

    #[test]
    fn a_question_has_its_parts_where_servers_look() {
        let take = Ask::Take { address: [192, 0, 2, 9].into(), server: [192, 0, 2, 1].into() };
        let bytes = write(&client(), 0x0102_0304, take);
        assert_eq!(
            (bytes.len(), &bytes[..12]),
            (300, &[1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0][..])
        );
        assert_eq!((&bytes[28..34], &bytes[236..240]), (&client().mac[..], &COOKIE[..]));
        let options = Options(&bytes[HEADER..]);
        assert_eq!(options.find(option::KIND), Some(&[3][..]));
        assert_eq!(options.find(option::REQUESTED), Some(&[192, 0, 2, 9][..]));
        assert_eq!(options.find(option::HOSTNAME), Some(&b"web"[..]));
        let keep = write(&client(), 1, Ask::Keep { address: [192, 0, 2, 9].into() });
        assert_eq!((&keep[10..12], &keep[12..16]), (&[0, 0][..], &[192, 0, 2, 9][..]));
        assert_eq!(Options(&keep[HEADER..]).find(option::SERVER), None);
    }

    #[test]
    fn an_answer_says_what_to_take() {
        let options = [
            [1, 4, 255, 255, 255, 0].as_slice(),
            &[0, 0, 3, 8, 192, 0, 2, 1, 192, 0, 2, 2],
            &[6, 4, 192, 0, 2, 53],
            &[51, 4, 0, 0, 14, 16],
            &[54, 4, 192, 0, 2, 1],
        ]
        .concat();
        let (kind, lease) = read(&answer(5, &options), &client(), 7).unwrap();
        let wanted = Lease {
            address: [192, 0, 2, 9].into(),
            prefix: 24,
            gateway: Some([192, 0, 2, 1].into()),
            dns: vec![[192, 0, 2, 53].into()],
            server: [192, 0, 2, 1].into(),
            holds: Some(Duration::from_secs(3600)),
        };
        assert_eq!((kind, lease), (Kind::Ack, wanted));
        let (kind, lease) = read(&answer(6, &[51, 4, 255, 255, 255, 255]), &client(), 7).unwrap();
        assert_eq!((kind, lease.holds, lease.gateway), (Kind::Nak, None, None));
    }

    #[test]
    fn what_is_for_others_is_no_answer() {
        assert!(read(&answer(2, &[]), &client(), 7).is_some());
        assert_eq!(read(&answer(2, &[]), &client(), 8), None);
        let other = Client { mac: [2; 6], ..client() };
        assert_eq!(read(&answer(2, &[]), &other, 7), None);
        assert_eq!(read(&answer(1, &[]), &client(), 7), None);
        assert_eq!(read(&write(&client(), 7, Ask::Discover), &client(), 7), None);
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_breaks_anything(options in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&answer(5, &options), &client(), 7);
            let _ = read(&options, &client(), 7);
        }
    }
}
