//! Telling a host what changes in a directory.

use std::time::Duration;

use inn_guest_proto::wire::{
    Channel, Done, FailureKind, FileChange, FileChanges, FileInfo, WatchFiles, end::Outcome, reply,
};
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::sleep;

use super::meta;
use crate::os::watch::{Batch, MAX_DIRS, Watch, WatchEnd, WatchError};
use crate::refusal::{OrRefuse, Refusal};
use crate::stream::{Gone, Stream};

/// Changes seldom come alone: those within so long after the first go together.
const TOGETHER: Duration = Duration::from_millis(20);

/// Bytes of one message: well below what a Data holds, whatever one more path
/// (4096 bytes, twice) adds.
const MESSAGE: usize = 32 * 1024;

pub(super) fn start(stream: Stream, request: WatchFiles) {
    drop(spawn_local(async move {
        let end = match watch(&stream, request).await {
            Ok(Ok(())) => Outcome::Done(Done {}),
            Ok(Err(refusal)) => refusal.into(),
            Err(Gone) => Outcome::Done(Done {}),
        };
        stream.end(end);
    }));
}

async fn watch(stream: &Stream, request: WatchFiles) -> Result<Result<(), Refusal>, Gone> {
    let path = request.path.clone();
    let (mut watch, info) = match on_thread(move || open(&request)).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(refusal)) | Err(refusal) => return Ok(Err(refusal)),
    };
    let bell = match watch.bell().or_refuse(|| format!("watch {path}")) {
        Ok(bell) => bell,
        Err(refusal) => return Ok(Err(refusal)),
    };
    stream.reply(reply::Kind::FileInfo(info));
    loop {
        // Cancelled, all the rest is for nobody.
        tokio::select! {
            rung = bell.rings() => if let Err(refusal) = rung.or_refuse(|| format!("watch {path}")) {
                return Ok(Err(refusal));
            },
            () = stream.gone() => return Err(Gone),
        }
        tokio::select! {
            () = sleep(TOGETHER) => {}
            () = stream.gone() => return Err(Gone),
        }
        bell.heard().await;
        loop {
            // New directories are looked through, which may take a while.
            let taken = on_thread(move || {
                let taken = watch.take();
                (watch, taken)
            });
            let (batch, all) = match taken.await {
                Ok((back, taken)) => {
                    watch = back;
                    taken
                }
                Err(refusal) => return Ok(Err(refusal)),
            };
            let end = batch.end;
            tell(stream, batch).await?;
            match end {
                Some(WatchEnd::Gone) => return Ok(Ok(())),
                Some(WatchEnd::TooMany) => return Ok(Err(too_many(&path))),
                None if all => break,
                None => {}
            }
        }
    }
}

fn open(request: &WatchFiles) -> Result<(Watch, FileInfo), Refusal> {
    let path = meta::absolute(&request.path)?;
    let watch = Watch::open(path, request.recursive).map_err(|error| match error {
        WatchError::TooMany => too_many(&request.path),
        WatchError::NoWatches => {
            let what = format!("watch {}: the system has no watches left", request.path);
            Refusal::new(FailureKind::Exhausted, what)
        }
        WatchError::Io(error) => Refusal::io(format!("watch {}", request.path), &error),
    })?;
    // After the watch holds: whatever changes from here on is told.
    Ok((watch, meta::stat(&request.path, true)?))
}

fn too_many(path: &str) -> Refusal {
    let what = format!("watch more than {MAX_DIRS} directories in {path}");
    Refusal::new(FailureKind::Exhausted, what)
}

async fn on_thread<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let what = "go on watching";
    spawn_blocking(job).await.map_err(|_| Refusal::new(FailureKind::Failed, what))
}

async fn tell(stream: &Stream, batch: Batch) -> Result<(), Gone> {
    let FileChanges { changes, overflow } = batch.changes;
    let mut messages = pack(changes);
    match messages.last_mut() {
        Some(last) => last.overflow = overflow,
        None if overflow => messages.push(FileChanges { changes: Vec::new(), overflow }),
        None => {}
    }
    for message in messages {
        stream.send(Channel::Main, message.to_bytes(), 0).await?;
    }
    Ok(())
}

fn pack(changes: Vec<FileChange>) -> Vec<FileChanges> {
    let mut messages: Vec<FileChanges> = Vec::new();
    let mut size = MESSAGE;
    for change in changes {
        if size >= MESSAGE {
            messages.push(FileChanges::default());
            size = 0;
        }
        // Numbers and tags of a change take less.
        size += change.path.len() + change.from.len() + 32;
        if let Some(last) = messages.last_mut() {
            last.changes.push(change);
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_changes_are_several_messages_and_none_is_none() {
        assert!(pack(Vec::new()).is_empty());
        let change = FileChange { path: "x".repeat(4096), ..FileChange::default() };
        let messages = pack(vec![change; 100]);
        assert!(messages.len() > 1);
        assert_eq!(messages.iter().map(|message| message.changes.len()).sum::<usize>(), 100);
        assert!(
            messages.iter().all(|message| message.to_bytes().len() <= inn_guest_proto::MAX_DATA)
        );
    }
}
