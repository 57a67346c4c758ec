//! Server-sent events (WHATWG HTML, 9.2.6), as much of them as the agent uses.

use std::fmt;
use std::task::{Context, Poll, ready};

use inn_api::Problem;

use crate::{ByteStream, ClientError};

/// The longest line taken: two paths of 4096 bytes, each byte escaped.
const LINE_LIMIT: usize = 128 << 10;

/// One event, but for its id, which is in the data of those that have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: String,
    pub(crate) data: String,
}

/// Events as they come. An event `problem` is the error that it tells of.
pub(crate) struct Messages {
    during: String,
    bytes: ByteStream,
    parser: Parser,
    ended: bool,
}

impl Messages {
    pub(crate) fn new(during: String, bytes: ByteStream) -> Self {
        Self { during, bytes, parser: Parser::default(), ended: false }
    }

    /// Nothing follows an error.
    pub(crate) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, ClientError>>> {
        while !self.ended {
            match self.parser.next(&self.during) {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            match ready!(self.bytes.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => self.parser.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => self.ended = true,
            }
        }
        Poll::Ready(None)
    }

    pub(crate) fn read<T: serde::de::DeserializeOwned>(
        &self,
        message: &Message,
    ) -> Result<T, ClientError> {
        serde_json::from_str(&message.data)
            .map_err(|error| ClientError::protocol(&self.during, error.to_string()))
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("during", &self.during).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Parser {
    buffer: Vec<u8>,
    kind: String,
    data: String,
}

impl Parser {
    /// The next whole event in the buffer.
    fn next(&mut self, during: &str) -> Result<Option<Message>, ClientError> {
        let nonsense = |what: &dyn fmt::Display| ClientError::protocol(during, what.to_string());
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = std::str::from_utf8(&line[..end]).map_err(|e| nonsense(&e))?;
            let line = line.strip_suffix('\r').unwrap_or(line);
            if !line.is_empty() {
                self.field(line);
                continue;
            }
            let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            match kind.as_str() {
                "problem" => {
                    let problem: Problem = serde_json::from_str(&data).map_err(|e| nonsense(&e))?;
                    return Err(problem.into());
                }
                // A comment that keeps the connection alive.
                "" => {}
                _ => return Ok(Some(Message { kind, data })),
            }
        }
        match self.buffer.len().max(self.data.len()) > LINE_LIMIT {
            true => Err(nonsense(&"an event without an end")),
            false => Ok(None),
        }
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_they_are_cut() {
        let text = ": hello\n\nevent: overflow\ndata:\n\nid: 4\r\nevent:change\r\n\
                    data: {\"a\":1,\r\ndata: \"b\":2}\r\n\r\n";
        for size in [1, 7, text.len()] {
            let mut parser = Parser::default();
            let mut messages = Vec::new();
            for part in text.as_bytes().chunks(size) {
                parser.buffer.extend_from_slice(part);
                while let Some(message) = parser.next("x").unwrap() {
                    messages.push(message);
                }
            }
            let message = |kind: &str, data: &str| Message { kind: kind.into(), data: data.into() };
            assert_eq!(
                messages,
                [message("overflow", ""), message("change", "{\"a\":1,\n\"b\":2}")]
            );
        }
    }

    #[test]
    fn what_has_no_end_is_no_event() {
        let mut parser = Parser::default();
        parser.buffer.resize(LINE_LIMIT + 1, b'x');
        assert!(parser.next("x").unwrap_err().to_string().contains("without an end"));
        let problem = Problem::new(inn_api::Code::GuestUnavailable, "the guest is gone");
        let json = serde_json::to_string(&problem).unwrap();
        let text = format!("event: problem\ndata: {json}\n\n");
        let mut parser = Parser { buffer: text.into(), ..Parser::default() };
        assert_eq!(parser.next("x").unwrap_err().to_string(), "the guest is gone");
    }
}
