use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use inn_domain::network::{Attachment, DeclaredNetwork, Policy};

use super::zone::{Local, authority, look_up};

/// What our messages may be over UDP, so that no path cuts them up
/// (dnsflagday.net/2020).
pub(crate) const PAYLOAD: u16 = 1232;

/// What whoever says nothing takes (RFC 1035, 4.2.1).
const USUAL_PAYLOAD: u16 = 512;

/// What a request leads to.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It is no request; an answer would only be another message.
    Drop,
    Reply(Vec<u8>),
    Forward(Question),
}

/// One for the host's resolvers.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) id: u16,
    pub(crate) query: Query,
    /// In lower case, without the dot at its end.
    pub(crate) name: String,
    pub(crate) checking_disabled: bool,
    /// Whether the client speaks EDNS, and wants signatures.
    pub(crate) edns: Option<bool>,
    /// What the client takes by UDP.
    pub(crate) payload: u16,
}

/// `clients` may be of any network; the one who asks is `client`.
pub(crate) fn decide(
    network: &DeclaredNetwork,
    clients: &[Attachment],
    client: &Attachment,
    request: &[u8],
) -> Decision {
    let Some(id) = request.first_chunk().map(|id| u16::from_be_bytes(*id)) else {
        return Decision::Drop;
    };
    // The highest bit of the third byte: it answers something.
    if request.len() < 12 || request[2] & 0x80 != 0 {
        return Decision::Drop;
    }
    let refuse = |op, code| Decision::Reply(bytes(&Message::error_msg(id, op, code)));
    let Ok(message) = Message::from_vec(request) else {
        return refuse(OpCode::Query, ResponseCode::FormErr);
    };
    let op = message.metadata.op_code;
    if op != OpCode::Query {
        return refuse(op, ResponseCode::NotImp);
    }
    let [query] = &message.queries[..] else { return refuse(op, ResponseCode::FormErr) };
    let name = query.name().to_lowercase().to_ascii();
    let question = Question {
        id,
        query: query.clone(),
        name: name.trim_end_matches('.').to_owned(),
        checking_disabled: message.metadata.checking_disabled,
        edns: message.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
        payload: message
            .edns
            .as_ref()
            .map_or(USUAL_PAYLOAD, |edns| edns.max_payload().clamp(USUAL_PAYLOAD, PAYLOAD)),
    };
    // Whole zones, and everything there is of a name: only for attackers.
    let whole = [RecordType::AXFR, RecordType::IXFR, RecordType::ANY];
    if query.query_class() != DNSClass::IN
        || whole.contains(&query.query_type())
        || client.policy == Policy::None
    {
        return Decision::Reply(error_reply(&question, ResponseCode::Refused));
    }
    let name = (&question.name[..], query.name());
    let Some(local) = look_up(network, clients, name, query.query_type()) else {
        return Decision::Forward(question);
    };
    let mut reply = response(
        &question,
        match local {
            Local::NoName => ResponseCode::NXDomain,
            Local::Records(_) | Local::Nothing => ResponseCode::NoError,
        },
    );
    reply.metadata.authoritative = true;
    match local {
        Local::Records(records) => {
            reply.add_answers(records);
        }
        Local::Nothing | Local::NoName => {
            reply.add_authorities(authority());
        }
    }
    Decision::Reply(bytes(&reply))
}

pub(crate) fn error_reply(question: &Question, code: ResponseCode) -> Vec<u8> {
    bytes(&response(question, code))
}

/// Tells a client to ask again by TCP.
pub(crate) fn truncated(question: &Question) -> Vec<u8> {
    let mut reply = response(question, ResponseCode::NoError);
    reply.metadata.truncation = true;
    bytes(&reply)
}

fn response(question: &Question, code: ResponseCode) -> Message {
    let mut reply = Message::response(question.id, OpCode::Query);
    reply.metadata.response_code = code;
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    reply.add_query(question.query.clone());
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        reply.set_edns(edns);
    }
    reply
}

impl Question {
    /// For a resolver: nothing of the client's but the question itself.
    pub(crate) fn forwarded(&self, id: u16) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(self.query.clone());
        if let Some(signatures) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD).set_dnssec_ok(signatures);
            message.set_edns(edns);
        }
        bytes(&message)
    }

    /// Whether this is a resolver's response to [`Question::forwarded`].
    pub(crate) fn is_answered_by(&self, id: u16, response: &[u8]) -> Option<Message> {
        let message = Message::from_vec(response).ok()?;
        let [query] = &message.queries[..] else { return None };
        let same = message.metadata.id == id
            && message.metadata.message_type == MessageType::Response
            && query.query_type() == self.query.query_type()
            && query.query_class() == self.query.query_class()
            && query.name().to_lowercase().to_ascii().trim_end_matches('.') == self.name;
        same.then_some(message)
    }
}

/// Messages of ours have a question that was read, and records that were made
/// here: none of them is too long to be written.
fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap_or_default()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
