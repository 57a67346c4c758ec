use hickory_proto::rr::{Name, RData};
use proptest::prelude::*;

use super::*;
use crate::testing::{client, network};

fn clients() -> Vec<Attachment> {
    vec![client(2, "one"), client(3, "two")]
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn ask(request: &[u8]) -> Decision {
    decide(&network(), &clients(), &client(2, "one"), request)
}

fn replied(request: &[u8]) -> Message {
    match ask(request) {
        Decision::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn data(message: &Message) -> Vec<String> {
    let text = |data: &RData| match data {
        RData::A(ip) => ip.0.to_string(),
        RData::AAAA(ip) => ip.0.to_string(),
        RData::PTR(name) => name.0.to_ascii(),
        other => format!("{other:?}"),
    };
    message.answers.iter().map(|record| text(&record.data)).collect()
}

#[test]
fn siblings_have_names_in_every_case() {
    for name in ["two.web.inn.internal.", "TWO.Web.INN.internal."] {
        let reply = replied(&query(name, RecordType::A));
        assert_eq!(data(&reply), ["10.213.0.3"]);
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
        assert_eq!(reply.metadata.id, 7);
        assert_eq!(reply.queries[0].name().to_ascii(), name);
    }
    let six = replied(&query("two.web.inn.internal.", RecordType::AAAA));
    assert_eq!(data(&six), ["fd00:1:2:3:b1:2ff:fe03:403"]);
}

#[test]
fn addresses_lead_back_to_names() {
    let reply = replied(&query("3.0.213.10.in-addr.arpa.", RecordType::PTR));
    assert_eq!(data(&reply), ["two.web.inn.internal."]);
    let six = "3.0.4.0.3.0.e.f.f.f.2.0.1.b.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(data(&replied(&query(six, RecordType::PTR))), ["two.web.inn.internal."]);
    let nobody = replied(&query("77.0.213.10.in-addr.arpa.", RecordType::PTR));
    assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
    let world = ask(&query("8.8.8.8.in-addr.arpa.", RecordType::PTR));
    assert!(matches!(world, Decision::Forward(_)));
}

#[test]
fn what_is_not_in_our_zone_says_so_with_its_authority() {
    for (name, kind, code) in [
        ("three.web.inn.internal.", RecordType::A, ResponseCode::NXDomain),
        ("one.other.inn.internal.", RecordType::A, ResponseCode::NXDomain),
        ("a.one.web.inn.internal.", RecordType::A, ResponseCode::NXDomain),
        ("one.web.inn.internal.", RecordType::TXT, ResponseCode::NoError),
        ("web.inn.internal.", RecordType::A, ResponseCode::NoError),
        ("inn.internal.", RecordType::A, ResponseCode::NoError),
    ] {
        let reply = replied(&query(name, kind));
        assert_eq!(reply.metadata.response_code, code, "{name}");
        assert!(reply.answers.is_empty(), "{name}");
        assert!(matches!(reply.authorities[0].data, RData::SOA(_)), "{name}");
    }
}

#[test]
fn the_world_is_asked_with_the_question_alone() {
    let Decision::Forward(question) = ask(&query("Example.COM.", RecordType::A)) else {
        panic!("it is not ours")
    };
    assert_eq!((&question.name[..], question.payload), ("example.com", 512));
    let sent = Message::from_vec(&question.forwarded(99)).unwrap();
    assert_eq!((sent.metadata.id, sent.metadata.recursion_desired), (99, true));
    assert!(sent.edns.is_none() && sent.additionals.is_empty());
    // Only the answer to it is one.
    let mut answer = sent.clone().into_response();
    answer.metadata.message_type = MessageType::Response;
    let bytes = answer.to_vec().unwrap();
    assert!(question.is_answered_by(99, &bytes).is_some());
    assert!(question.is_answered_by(98, &bytes).is_none());
    let other = query("example.net.", RecordType::A);
    assert!(question.is_answered_by(7, &other).is_none());
    // A name that only begins like our zone's is the world's.
    assert!(matches!(ask(&query("xinn.internal.", RecordType::A)), Decision::Forward(_)));
}

#[test]
fn hostile_requests_get_an_error_or_nothing() {
    assert!(matches!(ask(b""), Decision::Drop));
    assert!(matches!(ask(&[0; 11]), Decision::Drop));
    let mut response = query("example.com.", RecordType::A);
    response[2] |= 0x80;
    assert!(matches!(ask(&response), Decision::Drop), "an answer is never answered");
    let code = |request: &[u8]| replied(request).metadata.response_code;
    assert_eq!(code(&[7; 12]), ResponseCode::FormErr);
    for kind in [RecordType::AXFR, RecordType::ANY] {
        assert_eq!(code(&query("example.com.", kind)), ResponseCode::Refused);
    }
    let mut update = query("example.com.", RecordType::A);
    update[2] = 0x28;
    assert!(matches!(ask(&update), Decision::Reply(_)));
    let mut two = query("example.com.", RecordType::A);
    let question = two[12..].to_vec();
    two.extend(question);
    two[5] = 2;
    assert_eq!(code(&two), ResponseCode::FormErr);
    // A name that points at itself.
    let mut looped = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1];
    assert_eq!(code(&looped), ResponseCode::FormErr);
    looped[4] = 0xff;
    assert_eq!(code(&looped), ResponseCode::FormErr);
}

#[test]
fn who_may_reach_nothing_resolves_nothing() {
    let mut client = client(2, "one");
    client.policy = Policy::None;
    let request = query("two.web.inn.internal.", RecordType::A);
    match decide(&network(), &clients(), &client, &request) {
        Decision::Reply(bytes) => {
            let reply = Message::from_vec(&bytes).unwrap();
            assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn no_request_makes_more_of_itself(
        noise in prop::collection::vec(any::<u8>(), 0..200),
        at in 0..60_usize,
    ) {
        let mut request = query("one.web.inn.internal.", RecordType::A);
        let at = at.min(request.len());
        let end = (at + noise.len()).min(request.len());
        request[at..end].copy_from_slice(&noise[..end - at]);
        for request in [&request, &noise] {
            match ask(request) {
                // Bounded by what our own zone says: one record, one authority.
                Decision::Reply(bytes) => prop_assert!(bytes.len() < request.len() + 512),
                Decision::Forward(question) => {
                    prop_assert!(question.forwarded(1).len() < request.len() + 300);
                }
                Decision::Drop => {}
            }
        }
    }
}
