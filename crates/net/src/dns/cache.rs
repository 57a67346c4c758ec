use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::time::Instant;

use super::decide::Question;
use super::wire;

/// How many answers are kept, and how long one may be: 4 MiB in all.
const ENTRIES: usize = 2048;
const LONGEST: usize = 2048;

/// What an answer lives at most, and one that there is nothing (RFC 2308, 5).
const MOST: Duration = Duration::from_secs(3600);
const MOST_NOTHING: Duration = Duration::from_secs(60);

/// What resolvers said, for all VMs: they have the same resolvers.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: HashMap<Key, Entry>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    name: String,
    kind: RecordType,
    edns: Option<bool>,
    checking_disabled: bool,
}

#[derive(Debug)]
struct Entry {
    response: Vec<u8>,
    since: Instant,
    until: Instant,
}

impl Key {
    fn of(question: &Question) -> Self {
        Self {
            name: question.name.clone(),
            kind: question.query.query_type(),
            edns: question.edns,
            checking_disabled: question.checking_disabled,
        }
    }
}

impl Cache {
    /// Aged, as if it had just come.
    pub(crate) fn get(&mut self, question: &Question, now: Instant) -> Option<Vec<u8>> {
        let key = Key::of(question);
        let entry = self.entries.get(&key)?;
        if entry.until <= now {
            self.entries.remove(&key);
            return None;
        }
        let mut response = entry.response.clone();
        let age = now.saturating_duration_since(entry.since).as_secs();
        wire::age(&mut response, u32::try_from(age).unwrap_or(u32::MAX)).then_some(response)
    }

    pub(crate) fn put(
        &mut self,
        question: &Question,
        message: &Message,
        response: &[u8],
        now: Instant,
    ) {
        let most = match message.metadata.response_code {
            ResponseCode::NoError if !message.answers.is_empty() => MOST,
            ResponseCode::NoError | ResponseCode::NXDomain => MOST_NOTHING,
            _ => return,
        };
        let Some(ttl) = wire::least_ttl(response) else { return };
        let life = Duration::from_secs(ttl.into()).min(most);
        if life.is_zero() || response.len() > LONGEST || message.metadata.truncation {
            return;
        }
        if self.entries.len() >= ENTRIES {
            self.entries.retain(|_, entry| entry.until > now);
        }
        // All of them are fresh: whoever asks for so many has no use for them.
        if self.entries.len() >= ENTRIES {
            self.entries.clear();
        }
        let entry = Entry { response: response.to_vec(), since: now, until: now + life };
        self.entries.insert(Key::of(question), entry);
    }
}
