//! `inn vm cp`: files between here and a VM.
//!
//! A destination that ends in `/` is a directory to copy into, any other is
//! the copy's own path; here, a directory that exists is copied into as cp(1)
//! does.

mod download;
mod upload;
mod writer;

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use inn_client::Client;
use inn_client::api::FileKind;
use serde::Serialize;

use crate::args::{CopyArgs, GuestPath, Place};
use crate::context::Context;
use crate::failure::Failure;
use crate::pack;
use crate::pipe::{Count, StreamReader, stream_from};
use crate::progress::Meter;
use crate::signals::{Interrupt, Interrupts};
use crate::transfer::{blocking, open_dir, remark};
use crate::unpack;
use download::Download;
use upload::Upload;

const REDRAW: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
struct Copied {
    bytes: u64,
}

pub(crate) async fn copy(context: &Context, args: &CopyArgs) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let count = Count::default();
    let interrupted = match (&args.source, &args.destination) {
        (Place::Guest(from), to @ (Place::Host(_) | Place::Stream)) => {
            bring(context, (from, to), args.preserve, &count, &mut interrupts).await?
        }
        (Place::Host(from), Place::Guest(to)) => {
            send(context, (from, to), args.preserve, &count, &mut interrupts).await?
        }
        (Place::Stream, Place::Guest(to)) => {
            let client = context.client().await?;
            let work = upload::send_stdin(&client, to, count.clone());
            let what = (format!("copying to {}", to.vm), 0);
            watch(context, Box::pin(work), what, &count, &mut interrupts).await?
        }
        _ => {
            return Err(Failure::usage(
                "exactly one of SRC and DST must be VM:PATH, as in web:/root/main.py",
            ));
        }
    };
    if let Some(interrupt) = interrupted {
        return Ok(interrupt.exit_code());
    }
    let copied = Copied { bytes: count.get() };
    if context.json() && args.destination != Place::Stream {
        context.result(&copied, String::new)?;
    }
    Ok(0)
}

/// Redraws the bar while the work goes on; an interrupt ends it.
async fn watch(
    context: &Context,
    mut work: LocalBoxFuture<'_, Result<(), Failure>>,
    (step, total): (String, u64),
    count: &Count,
    interrupts: &mut Interrupts,
) -> Result<Option<Interrupt>, Failure> {
    let mut meter = Meter::start(context, step.clone());
    let mut ticks = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            // Goes on where it was: the future itself is kept.
            done = &mut work => return done.map(|()| None),
            // Cancel safe.
            _ = ticks.tick() => meter.update(&step, count.get(), total),
            // Cancel safe: a signal that came stays to be seen. What the work
            // has begun goes with it.
            interrupt = interrupts.next() => return Ok(Some(interrupt)),
        }
    }
}

async fn send(
    context: &Context,
    (from, to): (&Path, &GuestPath),
    preserve: bool,
    count: &Count,
    interrupts: &mut Interrupts,
) -> Result<Option<Interrupt>, Failure> {
    // What is not there is found out before an agent is started.
    let refuse = |e: io::Error| Failure::because(format!("cannot copy {}", from.display()), &e);
    let metadata: Metadata = std::fs::metadata(from).map_err(refuse)?;
    let target = guest_target(&to.path, from.file_name().and_then(|name| name.to_str()))?;
    let step = format!("copying to {}", to.vm);
    let client = context.client().await?;
    if metadata.is_dir() {
        let source = from.to_owned();
        let content =
            stream_from(move |out| pack::pack(&source, Path::new("."), out), count.passing());
        let work = async {
            client.write_tree(&to.vm, &target, content).await?;
            Ok(())
        };
        // Its length would have to be found by another walk.
        return watch(context, Box::pin(work), (step, 0), count, interrupts).await;
    }
    let to = GuestPath { vm: to.vm.clone(), path: target };
    let mut upload = Upload::new(context, &client, (from, &metadata), to, count.clone());
    if preserve {
        upload = upload.preserving(&metadata)?;
    }
    let work = Box::pin(upload.run());
    let done = watch(context, work, (step, metadata.len()), count, interrupts).await;
    if !matches!(done, Ok(None)) {
        upload.forget().await;
    }
    done
}

async fn bring(
    context: &Context,
    (from, to): (&GuestPath, &Place),
    preserve: bool,
    count: &Count,
    interrupts: &mut Interrupts,
) -> Result<Option<Interrupt>, Failure> {
    let client = context.client().await?;
    let info = client.file_info(&from.vm, &from.path, true).await?;
    let is_tree = info.kind == FileKind::Directory;
    let what = (format!("copying from {}", from.vm), if is_tree { 0 } else { info.size_bytes });
    let name = Path::new(&from.path).file_name().map(PathBuf::from);
    let download = Download { context, client: &client, from, info, count: count.clone() };
    let work: LocalBoxFuture<'_, _> = match to {
        Place::Host(to) if is_tree => {
            let target = host_target(to, name.as_deref());
            Box::pin(unpack_tree(&client, from, target, count.clone()))
        }
        // A directory has no bytes of its own; its tar is the next best thing.
        _ if is_tree => Box::pin(print_tree(&client, from, count.clone())),
        Place::Host(to) => {
            let target = host_target(to, name.as_deref());
            has_parent(&target)?;
            Box::pin(async move { download.save(&target, preserve).await })
        }
        _ => Box::pin(async move { download.print().await }),
    };
    watch(context, work, what, count, interrupts).await
}

async fn print_tree(client: &Client, from: &GuestPath, count: Count) -> Result<(), Failure> {
    let mut stream = client.read_tree(&from.vm, &from.path).await?;
    while let Some(part) = stream.next().await {
        let part = part?;
        count.passing().add(part.len());
        crate::context::print(&part)?;
    }
    Ok(())
}

async fn unpack_tree(
    client: &Client,
    from: &GuestPath,
    target: PathBuf,
    count: Count,
) -> Result<(), Failure> {
    let stream = client.read_tree(&from.vm, &from.path).await?;
    let reader = StreamReader::new(stream, count.passing());
    let what = format!("cannot copy {}:{}", from.vm, from.path);
    let done = blocking(move || {
        unpack::unpack(reader, &open_dir(&target)?).map_err(|e| Failure::because(what, &e))
    })
    .await?;
    remark(&done);
    Ok(())
}

/// Like cp: a directory that is not there is more likely a typing error.
fn has_parent(target: &Path) -> Result<(), Failure> {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            Err(Failure::new(format!("there is no directory {}", parent.display())))
        }
        _ => Ok(()),
    }
}

/// Where in the guest something called `name` goes.
fn guest_target(path: &str, name: Option<&str>) -> Result<String, Failure> {
    if !path.ends_with('/') {
        return Ok(path.to_owned());
    }
    match name {
        Some(name) => Ok(format!("{path}{name}")),
        // `.` and `/` have no name: what they hold goes there itself.
        None if path.len() > 1 => Ok(path.trim_end_matches('/').to_owned()),
        None => Err(Failure::usage("a destination in the VM is missing, as in web:/srv/site")),
    }
}

/// Where on this host something called `name` goes.
fn host_target(to: &Path, name: Option<&Path>) -> PathBuf {
    let into = to.is_dir() || to.as_os_str().to_string_lossy().ends_with('/');
    match (into, name) {
        (true, Some(name)) => to.join(name),
        _ => to.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_the_end_means_into() {
        let target = |path, name| guest_target(path, name).unwrap();
        assert_eq!(target("/root/a.py", Some("main.py")), "/root/a.py");
        assert_eq!(target("/srv/", Some("site")), "/srv/site");
        assert_eq!(target("/", Some("main.py")), "/main.py");
        assert_eq!(target("/srv/", None), "/srv");
        assert!(guest_target("/", None).is_err());
    }

    #[test]
    fn an_existing_directory_is_copied_into() {
        let dir = tempfile::tempdir().unwrap();
        let name = Some(Path::new("log"));
        assert_eq!(host_target(dir.path(), name), dir.path().join("log"));
        let new = dir.path().join("new");
        assert_eq!(host_target(&new, name), new);
    }

    #[test]
    fn a_file_lands_in_no_directory_that_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(has_parent(&dir.path().join("copy")).is_ok());
        assert!(has_parent(Path::new("copy")).is_ok());
        assert!(has_parent(&dir.path().join("no/such")).is_err());
    }
}
