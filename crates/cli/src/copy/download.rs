//! A file of a guest, brought here in segments.
//!
//! ```text
//!   stat ──▶ segment 0..64 MiB ──sum agrees──▶ the next ──▶ … ──▶ renamed
//!              ▲     │ broken off
//!              └─────┘ read anew; what is here of it is passed over
//! ```
//! Each segment is a request of its own with a block sum of its own, and all
//! name the one content that the first look saw. The sum is compared with what
//! was written here, so also a segment in several tries is verified whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Buf;
use inn_client::api::FileInfo;
use inn_client::{Client, ClientError, FileRead};

use super::writer::{Target, Writer};
use crate::args::GuestPath;
use crate::context::Context;
use crate::failure::Failure;
use crate::pipe::Count;
use crate::retry::Patience;

/// What a broken connection costs at most to read again.
const SEGMENT: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Download<'a> {
    pub context: &'a Context,
    pub client: &'a Client,
    pub from: &'a GuestPath,
    pub info: FileInfo,
    pub count: Count,
}

/// Why a segment did not come to its end.
enum Stop {
    /// Of the connection, or the agent's answer.
    Client(ClientError),
    /// The target takes no more.
    Target,
    Other(Failure),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl Download<'_> {
    /// To stdout.
    pub(crate) async fn print(&self) -> Result<(), Failure> {
        self.write_to(Target::Stdout, &|e| Failure::output(&e)).await.map(drop)
    }

    /// To a file, which is there whole or not at all.
    pub(crate) async fn save(&self, target: &Path, preserve: bool) -> Result<(), Failure> {
        let refuse =
            |e: io::Error| Failure::because(format!("cannot write {}", target.display()), &e);
        let mut part = Part::beside(target)?;
        let file = part.create().map_err(refuse)?;
        let file = self.write_to(Target::File(file), &refuse).await?;
        if let Target::File(file) = file {
            // Set-id bits of a guest's file mean nothing here.
            let mode = u32::from_str_radix(&self.info.mode, 8).unwrap_or(0o644) & 0o777;
            file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(refuse)?;
            if preserve {
                file.set_modified(SystemTime::from(self.info.modified_at)).map_err(refuse)?;
            }
        }
        part.rename_to(target).map_err(refuse)
    }

    async fn write_to(
        &self,
        target: Target,
        refuse: &dyn Fn(io::Error) -> Failure,
    ) -> Result<Target, Failure> {
        let writer = Writer::start(target);
        match self.all(&writer).await {
            Ok(()) => writer.finish().await.map(|(target, _)| target).map_err(refuse),
            Err(Stop::Target) => match writer.finish().await {
                Err(e) => Err(refuse(e)),
                Ok(_) => Err(refuse(io::ErrorKind::BrokenPipe.into())),
            },
            Err(Stop::Client(e)) => Err(e.into()),
            Err(Stop::Other(failure)) => Err(failure),
        }
    }

    async fn all(&self, writer: &Writer) -> Result<(), Stop> {
        let size = self.info.size_bytes;
        let mut patience = Patience::default();
        let mut start = 0;
        loop {
            // A file without a size may yet have content, as those of /proc.
            let length = (size > 0).then(|| SEGMENT.min(size - start));
            let mut done = 0;
            while let Err(stop) =
                self.segment(writer, start, length, &mut done, &mut patience).await
            {
                match stop {
                    Stop::Client(error) if length.is_some() => {
                        patience.wait(self.context, error).await.map_err(Stop::Other)?;
                    }
                    stop => return Err(stop),
                }
            }
            start += done;
            if start >= size {
                return Ok(());
            }
        }
    }

    /// One try at a segment, of which `done` bytes have been written.
    async fn segment(
        &self,
        writer: &Writer,
        start: u64,
        length: Option<u64>,
        done: &mut u64,
        patience: &mut Patience,
    ) -> Result<(), Stop> {
        let GuestPath { vm, path } = self.from;
        let read = FileRead {
            offset: start,
            length,
            if_match: length.is_some().then(|| self.info.etag.clone()),
        };
        let mut download = self.client.read_file(vm, path, &read).await?;
        let mut known = *done;
        while let Some(part) = download.next().await {
            let mut part = part?;
            let passed = usize::try_from(known).unwrap_or(usize::MAX).min(part.len());
            part.advance(passed);
            known -= passed as u64;
            if part.is_empty() {
                continue;
            }
            let length_now = *done + part.len() as u64;
            if length.is_some_and(|length| length_now > length) {
                return Err(self.changed());
            }
            let size = part.len();
            if !writer.write(part).await {
                return Err(Stop::Target);
            }
            *done = length_now;
            self.count.passing().add(size);
            patience.renew();
        }
        if length.is_some_and(|length| *done < length) {
            return Err(self.changed());
        }
        let ours = writer.sum().await.ok_or(Stop::Target)?;
        match download.block_sum() {
            Some(theirs) if theirs != ours => Err(Stop::Other(Failure::new(format!(
                "{vm}:{path} was damaged on its way: the checksums of what was read there and of \
                 what was written here differ; nothing is kept of it"
            )))),
            // An agent of an older guest has none, and the node has checked.
            _ => Ok(()),
        }
    }

    fn changed(&self) -> Stop {
        let GuestPath { vm, path } = self.from;
        Stop::Other(Failure::new(format!(
            "{vm}:{path} changed while it was copied; nothing is kept of it, try again"
        )))
    }
}

/// A file in the making: `.NAME.inn-part` beside what it is to be. Dropped, it
/// is gone.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    made: bool,
}

impl Part {
    fn beside(target: &Path) -> Result<Self, Failure> {
        let Some(name) = target.file_name() else {
            return Err(Failure::usage(format!("{} is not a file's name", target.display())));
        };
        let mut part = std::ffi::OsString::from(".");
        part.push(name);
        part.push(".inn-part");
        Ok(Self { path: target.with_file_name(part), made: false })
    }

    /// A new file, never one that somebody has put there.
    fn create(&mut self) -> io::Result<File> {
        match std::fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let file = File::create_new(&self.path)?;
        self.made = true;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        Ok(file)
    }

    fn rename_to(mut self, target: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, target)?;
        self.made = false;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.made {
            // Nobody is left to be told.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
