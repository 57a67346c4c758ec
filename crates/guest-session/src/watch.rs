use inn_guest_proto::wire::{end, reply};

use super::link::{StreamEvent, StreamReader};
use super::session::unexpected;
use super::{FileChanges, FileInfo, GuestError, convert};

/// Changes below a path in the guest, as they happen. Dropping it ends the
/// watch. One that is not read stops the guest's sending, which then collects
/// the changes and at last tells an overflow in their place.
#[derive(Debug)]
pub struct FileWatch {
    info: FileInfo,
    reader: StreamReader,
}

impl FileWatch {
    /// Waits for the guest to say that the watch holds.
    pub(super) async fn begin(mut reader: StreamReader) -> Result<Self, GuestError> {
        match reader.reply().await? {
            reply::Kind::FileInfo(info) => Ok(Self { info: convert::file_info(info), reader }),
            _ => Err(convert::misdirected("another reply to a watch")),
        }
    }

    /// Of what is watched, as it was when the watch began.
    pub fn info(&self) -> &FileInfo {
        &self.info
    }

    /// The next changes; `None` once the guest has ended the watch, since what
    /// was watched is gone. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<FileChanges>, GuestError> {
        if self.reader.ended {
            return Ok(None);
        }
        match self.reader.next().await? {
            StreamEvent::Data(data) => convert::file_changes(data.bytes).map(Some),
            StreamEvent::End(end) => match convert::outcome(end)? {
                end::Outcome::Done(_) => Ok(None),
                other => Err(unexpected(&other)),
            },
            StreamEvent::Reply(_) | StreamEvent::Failed(_) => {
                Err(convert::misdirected("a second reply"))
            }
        }
    }
}
