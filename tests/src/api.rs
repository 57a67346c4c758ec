//! The API by hand, over the agent's socket: for tests that ask much, or that
//! ask an agent which dies before it answers.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::wait;

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
    }

    /// Fails the test unless it is a 2xx.
    #[track_caller]
    pub fn ok(self) -> Self {
        let text = String::from_utf8_lossy(&self.body);
        assert!(self.is_success(), "{}: {text}", self.status);
        self
    }
}

pub fn get(socket: &Path, path: &str) -> io::Result<Answer> {
    request(socket, "GET", path, b"")
}

pub fn post(socket: &Path, path: &str, body: &serde_json::Value) -> io::Result<Answer> {
    request(socket, "POST", path, body.to_string().as_bytes())
}

/// One request. An agent that goes away before its answer is an error.
pub fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
    request_with(socket, method, path, "", body)
}

/// The same with more headers, each with its line's end.
pub fn request_with(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(wait::PATIENCE))?;
    // 1.0: the answer ends with the connection and comes in no chunks.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: innkeeper\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn parse(answer: &[u8]) -> Option<Answer> {
    const END: &[u8] = b"\r\n\r\n";
    let end = answer.windows(END.len()).position(|window| window == END)?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = answer[end + END.len()..].to_vec();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    length.is_none_or(|length: usize| length == body.len()).then_some(Answer { status, body })
}
