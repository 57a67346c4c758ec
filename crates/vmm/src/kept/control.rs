use std::io::{self, ErrorKind};

use inn_host::socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::protocol::LONGEST_REPORT;
use super::{KeptFiles, QUIT, Report};

/// A connection to a keeper.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
    read: Vec<u8>,
}

impl Control {
    /// Where a pid is given, whoever listens has to have it: unix(7),
    /// SO_PEERCRED, as of its listen(2).
    pub async fn connect(files: &KeptFiles, pid: Option<u32>) -> io::Result<Self> {
        let stream = socket::connect(&files.control()).await?;
        let peer = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        if pid.is_some() && peer != pid {
            return Err(io::Error::other(format!("another process ({peer:?}) has its socket")));
        }
        Ok(Self { stream, read: Vec::new() })
    }

    /// Cancel safe: what was read stays.
    pub async fn next(&mut self) -> io::Result<Report> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(io::Error::other);
            }
            if self.read.len() > LONGEST_REPORT {
                return Err(io::Error::other("it says more than a report has"));
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub(super) async fn quit(&mut self) -> io::Result<()> {
        self.stream.write_all(QUIT).await
    }
}
