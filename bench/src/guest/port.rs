//! The host's end of the raw port: bench/guest/port_peer.rs is the other.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::machine::GuestMachine;

const DEADLINE: Duration = Duration::from_secs(240);

const CHUNK: usize = 64 * 1024;

pub(crate) struct RawPort(UnixStream);

impl RawPort {
    pub(crate) fn open(machine: &GuestMachine) -> anyhow::Result<Self> {
        let stream = machine.echo_port()?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut port = Self(stream);
        port.echo(&[0; 16])?;
        Ok(port)
    }

    fn request(kind: u8, length: usize) -> Vec<u8> {
        let mut request = vec![kind];
        request.extend((length as u64).to_le_bytes());
        request
    }

    /// There and back, in one write and by one read where they come together.
    pub(crate) fn echo(&mut self, message: &[u8]) -> anyhow::Result<Duration> {
        let mut request = Self::request(b'e', message.len());
        request.extend(message);
        let mut back = vec![0; message.len()];
        let begin = Instant::now();
        self.0.write_all(&request)?;
        self.0.read_exact(&mut back)?;
        Ok(begin.elapsed())
    }

    /// So many bytes into the guest, until it has them all.
    pub(crate) fn sink(&mut self, length: usize) -> anyhow::Result<Duration> {
        let chunk = vec![7; CHUNK];
        let begin = Instant::now();
        self.0.write_all(&Self::request(b's', length))?;
        let mut left = length;
        while left > 0 {
            let part = left.min(CHUNK);
            self.0.write_all(&chunk[..part])?;
            left -= part;
        }
        self.0.read_exact(&mut [0])?;
        Ok(begin.elapsed())
    }

    pub(crate) fn flood(&mut self, length: usize) -> anyhow::Result<Duration> {
        let mut chunk = vec![0; CHUNK];
        let begin = Instant::now();
        self.0.write_all(&Self::request(b'f', length))?;
        let mut left = length;
        while left > 0 {
            let part = left.min(CHUNK);
            self.0.read_exact(&mut chunk[..part])?;
            left -= part;
        }
        Ok(begin.elapsed())
    }
}
