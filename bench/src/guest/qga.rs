//! QEMU's own guest agent, as its clients use it: a JSON object a line, and a
//! program's status polled for.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::agent::pause;

/// How often a client asks whether a program has ended.
const POLL: Duration = Duration::from_millis(2);

const DEADLINE: Duration = Duration::from_secs(120);

/// What a call of the file commands carries: more gained nothing.
const CHUNK: usize = 1 << 20;

pub(crate) struct Qga {
    lines: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Qga {
    pub(crate) fn connect(path: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| path.display().to_string())?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut qga = Self { lines: BufReader::new(stream.try_clone()?), stream };
        qga.call("guest-ping", &json!({}))?;
        Ok(qga)
    }

    fn call(&mut self, name: &str, arguments: &Value) -> anyhow::Result<Value> {
        let mut request = json!({ "execute": name, "arguments": arguments }).to_string();
        request.push('\n');
        self.stream.write_all(request.as_bytes())?;
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        let mut answer: Value =
            serde_json::from_str(&line).with_context(|| format!("{name} was answered {line:?}"))?;
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => bail!("{name}: {answer}"),
        }
    }

    pub(crate) fn ping(&mut self) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.call("guest-ping", &json!({}))?;
        Ok(begin.elapsed())
    }

    pub(crate) fn exec(&mut self, path: &str) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let started = self.call("guest-exec", &json!({ "path": path }))?;
        loop {
            let status = self.call("guest-exec-status", &json!({ "pid": started["pid"] }))?;
            if status["exited"] == true {
                let took = begin.elapsed();
                if status["exitcode"] != 0 {
                    bail!("{path} ended with {status}");
                }
                return Ok(took);
            }
            pause(POLL);
        }
    }

    /// `data` has to be a whole number of [`CHUNK`]s.
    pub(crate) fn write_file(&mut self, path: &str, data: &[u8]) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let handle = self.call("guest-file-open", &json!({ "path": path, "mode": "w" }))?;
        for chunk in data.chunks(CHUNK) {
            let request = json!({ "handle": handle, "buf-b64": base64(chunk) });
            let written = self.call("guest-file-write", &request)?;
            if written["count"] != chunk.len() {
                bail!("{written} of {} bytes were written", chunk.len());
            }
        }
        self.call("guest-file-close", &json!({ "handle": handle }))?;
        Ok(begin.elapsed())
    }

    pub(crate) fn read_file(&mut self, path: &str, expected: usize) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let handle = self.call("guest-file-open", &json!({ "path": path, "mode": "r" }))?;
        let mut read = 0;
        loop {
            let request = json!({ "handle": handle, "count": CHUNK });
            let piece = self.call("guest-file-read", &request)?;
            let text = piece["buf-b64"].as_str().context("a piece without content")?;
            read += decoded(text)?.len();
            if piece["eof"] == true {
                break;
            }
        }
        self.call("guest-file-close", &json!({ "handle": handle }))?;
        if read != expected {
            bail!("{read} bytes of {expected}");
        }
        Ok(begin.elapsed())
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - three.len()));
        for place in 0..4 {
            let sextet = (word >> (18 - 6 * place)) as usize & 63;
            text.push(if place > three.len() { '=' } else { char::from(ALPHABET[sextet]) });
        }
    }
    text
}

fn decoded(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut values = [255_u8; 256];
    for (value, letter) in (0_u8..).zip(ALPHABET) {
        values[usize::from(*letter)] = value;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let mut word = 0_u32;
        for place in 0..4 {
            let value = four.get(place).map_or(0, |letter| values[usize::from(*letter)]);
            if value == 255 {
                bail!("what is no base64");
            }
            word = word << 6 | u32::from(value);
        }
        bytes.extend_from_slice(&word.to_be_bytes()[1..four.len()]);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{base64, decoded};

    #[test]
    fn base64_is_rfc_4648_s() {
        // Its section 10.
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(decoded(text).unwrap(), bytes.as_bytes());
        }
        assert!(decoded("Zm9*").is_err());
    }
}
