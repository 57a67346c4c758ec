use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use inn_api::FileChange;
use inn_api::Problem;

use crate::query::Target;
use crate::{ByteStream, Client, ClientError};

/// The longest line taken: two paths of 4096 bytes, each byte escaped.
const LINE_LIMIT: usize = 128 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    Change(FileChange),
    /// Changes were lost: look for yourself.
    Overflow,
}

/// Changes as they happen. It ends when what was watched is gone.
pub struct FileEvents {
    during: String,
    bytes: ByteStream,
    parser: Parser,
    ended: bool,
}

impl Client {
    /// What changes at `path`, or with `recursive` below it. Once this has
    /// answered, no change is missed without an overflow.
    pub async fn watch_files(
        &self,
        vm: &str,
        path: &str,
        recursive: bool,
    ) -> Result<FileEvents, ClientError> {
        let target = Target::api(&["vms", vm, "files", "watch"])
            .with("path", path)
            .with_flag("recursive", recursive);
        let during = format!("GET {}", target.as_str());
        let bytes = self.stream(&target).await?;
        Ok(FileEvents { during, bytes, parser: Parser::default(), ended: false })
    }
}

impl Stream for FileEvents {
    type Item = Result<FileEvent, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.ended {
            match this.parser.next(&this.during) {
                Ok(Some(event)) => return Poll::Ready(Some(Ok(event))),
                Ok(None) => {}
                Err(error) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            match ready!(this.bytes.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => this.parser.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => this.ended = true,
            }
        }
        Poll::Ready(None)
    }
}

impl fmt::Debug for FileEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileEvents").finish_non_exhaustive()
    }
}

/// Of server-sent events (WHATWG HTML, 9.2.6) as much as the agent uses.
#[derive(Debug, Default)]
struct Parser {
    buffer: Vec<u8>,
    kind: String,
    data: String,
}

impl Parser {
    /// The next whole event in the buffer.
    fn next(&mut self, during: &str) -> Result<Option<FileEvent>, ClientError> {
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
                "change" => {
                    let change = serde_json::from_str(&data).map_err(|e| nonsense(&e))?;
                    return Ok(Some(FileEvent::Change(change)));
                }
                "overflow" => return Ok(Some(FileEvent::Overflow)),
                "problem" => {
                    let problem: Problem = serde_json::from_str(&data).map_err(|e| nonsense(&e))?;
                    return Err(problem.into());
                }
                // A comment that keeps the connection alive, or what a later
                // version tells.
                _ => {}
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
                    data: {\"kind\":\"created\",\r\ndata: \"path\":\"/a\",\"directory\":false}\r\n\r\n";
        for size in [1, 7, text.len()] {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for part in text.as_bytes().chunks(size) {
                parser.buffer.extend_from_slice(part);
                while let Some(event) = parser.next("x").unwrap() {
                    events.push(event);
                }
            }
            assert_eq!(events.len(), 2, "{events:?}");
            assert_eq!(events[0], FileEvent::Overflow);
            let FileEvent::Change(change) = &events[1] else { panic!("{events:?}") };
            assert_eq!(change.path, "/a");
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
