use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use inn_api::FileChange;

use crate::query::Target;
use crate::sse::Messages;
use crate::{Client, ClientError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    Change(FileChange),
    /// Changes were lost: look for yourself.
    Overflow,
}

/// Changes as they happen. It ends when what was watched is gone.
#[derive(Debug)]
pub struct FileEvents(Messages);

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
        Ok(FileEvents(Messages::new(during, bytes)))
    }
}

impl Stream for FileEvents {
    type Item = Result<FileEvent, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let message = match ready!(self.0.poll_message(cx)) {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            match message.kind.as_str() {
                "change" => {
                    return Poll::Ready(Some(self.0.read(&message).map(FileEvent::Change)));
                }
                "overflow" => return Poll::Ready(Some(Ok(FileEvent::Overflow))),
                // What a later version tells.
                _ => {}
            }
        }
    }
}
