//! A file of this host, sent to a guest.
//!
//! ```text
//!   sending from 0 ──▶ written, sums agree ──▶ done
//!      ▲     │ broken off
//!      │     ▼
//!   asked how much of it the guest has kept
//! ```
//! The guest puts the file in place at the end alone. What it keeps of one that
//! broke off it knows by an id that we make up.

use std::fs::{File, Metadata};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use inn_client::{Client, FileWrite};
use inn_guest_proto::BlockSum;
use jiff::Timestamp;

use super::writer::Sum;
use crate::args::GuestPath;
use crate::context::Context;
use crate::failure::Failure;
use crate::pipe::{Count, stream_from};
use crate::retry::{Patience, passes};
use crate::stdin;

const CHUNK: usize = 256 << 10;

/// How long a guest may take to forget an upload that was given up; later it
/// does so by itself.
const FORGET: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Upload<'a> {
    context: &'a Context,
    client: &'a Client,
    from: &'a Path,
    to: GuestPath,
    /// What the guest knows the upload by: 8 bytes in hex.
    id: String,
    mode: u32,
    modified_at: Option<Timestamp>,
    length: u64,
    count: Count,
}

/// What became of our side of a try.
#[derive(Debug, Clone, Default)]
struct Source(Arc<Mutex<Option<Result<Sum, io::Error>>>>);

impl Source {
    fn set(&self, outcome: Result<Sum, io::Error>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    fn take(&self) -> Option<Result<Sum, io::Error>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<'a> Upload<'a> {
    pub(crate) fn new(
        context: &'a Context,
        client: &'a Client,
        (from, metadata): (&'a Path, &Metadata),
        to: GuestPath,
        count: Count,
    ) -> Self {
        Self {
            context,
            client,
            from,
            to,
            // Random enough to differ from every other: the standard library
            // seeds it with randomness of the kernel's.
            id: format!("{:016x}", RandomState::new().build_hasher().finish()),
            mode: metadata.permissions().mode() & 0o777,
            modified_at: None,
            length: metadata.len(),
            count,
        }
    }

    /// Has the guest's file changed last when ours was.
    pub(crate) fn preserving(mut self, metadata: &Metadata) -> Result<Self, Failure> {
        let modified = metadata.modified().map_err(|e| self.refuse(&e))?;
        self.modified_at =
            Some(Timestamp::try_from(modified).map_err(|e| self.refuse(&io::Error::other(e)))?);
        Ok(self)
    }

    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let GuestPath { vm, path } = &self.to;
        let mut patience = Patience::default();
        let mut offset = 0;
        loop {
            let error = match self.attempt(offset).await? {
                None => return Ok(()),
                Some(error) => error,
            };
            patience.wait(self.context, error).await?;
            offset = loop {
                match self.client.upload_state(vm, path, &self.id).await {
                    Ok(state) => break state.offset,
                    Err(error) => patience.wait(self.context, error).await?,
                }
            };
            if offset > 0 {
                patience.renew();
            }
        }
    }

    /// Sends what the guest does not have yet. An error that may pass is the
    /// answer; any other is a failure.
    async fn attempt(&self, offset: u64) -> Result<Option<inn_client::ClientError>, Failure> {
        let GuestPath { vm, path } = &self.to;
        let mut file = File::open(self.from).map_err(|e| self.refuse(&e))?;
        let (source, length) = (Source::default(), self.length);
        let ours = source.clone();
        let content = stream_from(
            move |out| {
                let read = send(&mut file, out, (offset, length));
                match read {
                    Ok(sum) => ours.set(Ok(sum)),
                    Err(Send::Source(e)) => {
                        let again = io::Error::new(e.kind(), e.to_string());
                        ours.set(Err(e));
                        return Err(again);
                    }
                    Err(Send::Sink(e)) => return Err(e),
                }
                Ok(())
            },
            self.count.go_on(offset),
        );
        let write = FileWrite {
            mode: Some(self.mode),
            modified_at: self.modified_at,
            upload: Some(self.id.clone()),
            offset,
            length: Some(length),
            ..FileWrite::default()
        };
        let written = self.client.write_file(vm, path, &write, content).await;
        match (written, source.take()) {
            (_, Some(Err(e))) => Err(self.refuse(&e)),
            (Ok(written), Some(Ok(sum))) => {
                compare(written.block_sum.as_deref(), sum, &self.to)?;
                Ok(None)
            }
            (Ok(_), None) => Err(Failure::new(format!(
                "the agent took {vm}:{path} before all of it was sent; try again"
            ))),
            (Err(error), _) if passes(&error) => Ok(Some(error)),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Has the guest drop what it has kept. It may be away, and does so by
    /// itself later.
    pub(crate) async fn forget(&self) {
        let dropping = self.client.drop_upload(&self.to.vm, &self.to.path, &self.id);
        // Given up after a while: nobody waits for it.
        let _ = tokio::time::timeout(FORGET, dropping).await;
    }

    fn refuse(&self, error: &io::Error) -> Failure {
        Failure::because(format!("cannot copy {}", self.from.display()), error)
    }
}

/// Which side of the copying failed.
enum Send {
    Source(io::Error),
    Sink(io::Error),
}

/// Sends `length` bytes of a file but the first `offset`; the sum is of all.
fn send(file: &mut File, out: &mut dyn Write, (offset, length): (u64, u64)) -> Result<Sum, Send> {
    let mut sum = BlockSum::default();
    let mut chunk = vec![0; CHUNK];
    file.seek(SeekFrom::Start(0)).map_err(Send::Source)?;
    while sum.position() < length {
        let at = sum.position();
        // A boundary at the offset, so that each chunk is sent whole or not.
        let end = if at < offset { offset.min(length) } else { length };
        let room = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let n = file.read(&mut chunk[..room]).map_err(Send::Source)?;
        if n == 0 {
            return Err(Send::Source(io::Error::other("it shrank while it was read")));
        }
        sum.add(&chunk[..n]);
        if at >= offset {
            out.write_all(&chunk[..n]).map_err(Send::Sink)?;
        }
    }
    Ok(sum.finish())
}

/// What comes from stdin. It cannot be read again, so that a connection which
/// breaks off ends the copy.
pub(crate) async fn send_stdin(
    client: &Client,
    to: &GuestPath,
    count: Count,
) -> Result<(), Failure> {
    if to.path.ends_with('/') {
        return Err(Failure::usage("what comes from stdin needs a file's name as destination"));
    }
    let source = Source::default();
    let state = (stdin::read(), BlockSum::default(), source.clone(), count.passing());
    let content = stream::unfold(state, |(mut input, mut sum, source, count)| async move {
        let Some(data) = input.recv().await else {
            source.set(Ok(sum.finish()));
            return None;
        };
        let data: Bytes = data;
        sum.add(&data);
        count.add(data.len());
        Some((Ok(data), (input, sum, source, count)))
    });
    let written = match client.write_file(&to.vm, &to.path, &FileWrite::default(), content).await {
        Ok(written) => written,
        Err(error) if passes(&error) => {
            return Err(Failure::because(
                format!(
                    "{}:{} is not written, since what comes from stdin cannot be sent again; \
                     try again, or copy a file",
                    to.vm, to.path
                ),
                &error,
            ));
        }
        Err(error) => return Err(error.into()),
    };
    match source.take() {
        Some(Ok(sum)) => compare(written.block_sum.as_deref(), sum, to),
        _ => Ok(()),
    }
}

/// An older guest's agent has no sum, and the node has checked.
fn compare(theirs: Option<&str>, ours: Sum, to: &GuestPath) -> Result<(), Failure> {
    let ours: String = ours.iter().map(|byte| format!("{byte:02x}")).collect();
    match theirs {
        Some(theirs) if !theirs.eq_ignore_ascii_case(&ours) => Err(Failure::new(format!(
            "{}:{} is not what was sent: the checksums here and in the VM differ; copy it again",
            to.vm, to.path
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_has_the_sum_of_the_whole() {
        let content: Vec<u8> = (0..700_000u32).map(|n| (n % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let mut whole = BlockSum::default();
        whole.add(&content);
        let whole = whole.finish();
        for offset in [0, 1, 262_144, 300_001, 700_000] {
            let mut out = Vec::new();
            let sum = send(&mut file, &mut out, (offset, 700_000));
            assert!(matches!(sum, Ok(sum) if sum == whole), "{offset}");
            assert!(out == content[usize::try_from(offset).unwrap()..], "{offset}");
        }
        let cut = send(&mut file, &mut io::sink(), (0, 700_001));
        assert!(matches!(cut, Err(Send::Source(e)) if e.to_string().contains("shrank")));
    }

    #[test]
    fn another_sum_is_an_error() {
        let to = GuestPath { vm: "web".into(), path: "/x".into() };
        let ours = BlockSum::default().finish();
        let hex: String = ours.iter().map(|byte| format!("{byte:02X}")).collect();
        assert!(compare(Some(&hex), ours, &to).is_ok());
        assert!(compare(None, ours, &to).is_ok());
        assert!(compare(Some("00"), ours, &to).unwrap_err().sentence().contains("web:/x"));
    }
}
