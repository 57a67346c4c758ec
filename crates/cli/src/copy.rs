//! `inn vm cp`: files between here and a VM.
//!
//! A destination that ends in `/` is a directory to copy into, any other is
//! the copy's own path; here, a directory that exists is copied into as cp(1)
//! does.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use inn_client::{ByteStream, Client, ClientError, FileFormat, FileWrite};
use serde::Serialize;

use crate::args::{CopyArgs, GuestPath, Place};
use crate::context::Context;
use crate::failure::Failure;
use crate::pack;
use crate::pipe::{Count, StreamReader, stream_from};
use crate::progress::Meter;
use crate::stdin;
use crate::transfer::{blocking, open_dir, remark};
use crate::unpack::{self, Unpacked};

const REDRAW: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
struct Copied {
    bytes: u64,
}

pub(crate) async fn copy(context: &Context, args: &CopyArgs) -> Result<u8, Failure> {
    let count = Count::default();
    let (step, total, work): (_, _, futures_util::future::LocalBoxFuture<'_, _>) =
        match (&args.source, &args.destination) {
            (Place::Guest(from), Place::Host(to)) => {
                let client = context.client().await?;
                let work = bring(client, from, to, count.clone());
                (format!("copying from {}", from.vm), 0, Box::pin(work))
            }
            (Place::Guest(from), Place::Stream) => {
                let client = context.client().await?;
                let work = print(client, from, count.clone());
                (format!("copying from {}", from.vm), 0, Box::pin(work))
            }
            (Place::Host(from), Place::Guest(to)) => {
                let size = size_of(from)?;
                let client = context.client().await?;
                let work = send(client, from, to, count.clone());
                (format!("copying to {}", to.vm), size, Box::pin(work))
            }
            (Place::Stream, Place::Guest(to)) => {
                let client = context.client().await?;
                let work = send_stdin(client, to, count.clone());
                (format!("copying to {}", to.vm), 0, Box::pin(work))
            }
            _ => {
                return Err(Failure::usage(
                    "exactly one of SRC and DST must be VM:PATH, as in web:/root/main.py",
                ));
            }
        };
    watch(context, work, (step, total), &count).await?;
    let copied = Copied { bytes: count.get() };
    if context.json() && args.destination != Place::Stream {
        context.result(&copied, String::new)?;
    }
    Ok(0)
}

/// Redraws the bar while the work goes on.
async fn watch(
    context: &Context,
    mut work: futures_util::future::LocalBoxFuture<'_, Result<(), Failure>>,
    (step, total): (String, u64),
    count: &Count,
) -> Result<(), Failure> {
    let mut meter = Meter::start(context, step.clone());
    let mut ticks = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            // Goes on where it was: the future itself is kept.
            done = &mut work => return done,
            // Cancel safe.
            _ = ticks.tick() => meter.update(&step, count.get(), total),
        }
    }
}

/// A file's size, for the bar; 0 for a directory, which would have to be
/// walked twice. What is not there is found out before an agent is started.
fn size_of(path: &Path) -> Result<u64, Failure> {
    let metadata = std::fs::metadata(path)
        .map_err(|e| Failure::because(format!("cannot copy {}", path.display()), &e))?;
    Ok(if metadata.is_dir() { 0 } else { metadata.len() })
}

async fn send(client: Client, from: &Path, to: &GuestPath, count: Count) -> Result<(), Failure> {
    let refuse = |e: io::Error| Failure::because(format!("cannot copy {}", from.display()), &e);
    let metadata = std::fs::metadata(from).map_err(refuse)?;
    let target = guest_target(&to.path, from.file_name().and_then(|name| name.to_str()))?;
    if metadata.is_dir() {
        let source = from.to_owned();
        let content = stream_from(move |out| pack::pack(&source, Path::new("."), out), count);
        let write = FileWrite { path: &target, format: FileFormat::Tar, mode: None };
        return Ok(client.write_file(&to.vm, write, content).await?);
    }
    let mut file = File::open(from).map_err(refuse)?;
    let content = stream_from(move |out| io::copy(&mut file, out).map(drop), count);
    let mode = Some(metadata.permissions().mode() & 0o777);
    let write = FileWrite { path: &target, format: FileFormat::Raw, mode };
    Ok(client.write_file(&to.vm, write, content).await?)
}

async fn send_stdin(client: Client, to: &GuestPath, count: Count) -> Result<(), Failure> {
    if to.path.ends_with('/') {
        return Err(Failure::usage("what comes from stdin needs a file's name as destination"));
    }
    let content = stream::unfold((stdin::read(), count), |(mut input, count)| async move {
        let data = input.recv().await?;
        count.add(data.len());
        Some((Ok(data), (input, count)))
    });
    let write = FileWrite { path: &to.path, format: FileFormat::Raw, mode: None };
    Ok(client.write_file(&to.vm, write, content).await?)
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

async fn print(client: Client, from: &GuestPath, count: Count) -> Result<(), Failure> {
    let mut stream = match client.read_file(&from.vm, &from.path, FileFormat::Raw).await {
        Ok(stream) => stream,
        // A directory has no bytes of its own; its tar is the next best thing.
        Err(ClientError::Problem(_)) => {
            client.read_file(&from.vm, &from.path, FileFormat::Tar).await?
        }
        Err(e) => return Err(e.into()),
    };
    while let Some(part) = stream.next().await {
        let part = part?;
        count.add(part.len());
        crate::context::print(&part)?;
    }
    Ok(())
}

async fn bring(client: Client, from: &GuestPath, to: &Path, count: Count) -> Result<(), Failure> {
    let is_file = match client.read_file(&from.vm, &from.path, FileFormat::Raw).await {
        Ok(_) => true,
        Err(ClientError::Problem(_)) => false,
        Err(e) => return Err(e.into()),
    };
    let stream: ByteStream = client.read_file(&from.vm, &from.path, FileFormat::Tar).await?;
    let reader = StreamReader::new(stream, count);
    let name = Path::new(&from.path).file_name().map(PathBuf::from);
    let target = host_target(to, name.as_deref())?;
    let what = format!("cannot copy {}:{}", from.vm, from.path);
    let into = target.clone();
    let done = blocking(move || {
        let unpacked = if is_file {
            unpack_file(reader, name.as_deref(), &into)?
        } else {
            unpack::unpack(reader, &open_dir(&into)?)
        };
        unpacked.map_err(|e| Failure::because(what, &e))
    })
    .await?;
    if is_file && done.files == 0 {
        // The path is a link in the guest, and this is what it leads to there.
        let stream = client.read_file(&from.vm, &from.path, FileFormat::Raw).await?;
        return save(stream, &target).await;
    }
    remark(&done);
    Ok(())
}

/// Writes a stream to a file, which is there whole or not at all.
async fn save(mut stream: ByteStream, target: &Path) -> Result<(), Failure> {
    let refuse = |e: io::Error| Failure::because(format!("cannot write {}", target.display()), &e);
    let mut part = target.as_os_str().to_owned();
    part.push(format!(".part-{}", std::process::id()));
    let part = PathBuf::from(part);
    let written = async {
        let mut file = File::create_new(&part).map_err(refuse)?;
        while let Some(data) = stream.next().await {
            file.write_all(&data?).map_err(refuse)?;
        }
        std::fs::rename(&part, target).map_err(refuse)
    };
    let written = written.await;
    if written.is_err() {
        // It may never have been made.
        let _ = std::fs::remove_file(&part);
    }
    written
}

fn unpack_file(
    reader: impl Read,
    name: Option<&Path>,
    target: &Path,
) -> Result<Result<Unpacked, unpack::UnpackError>, Failure> {
    let (Some(name), Some(file)) = (name, target.file_name()) else {
        return Err(Failure::usage(format!("{} is not a file's name", target.display())));
    };
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Like cp: a directory that is not there is more likely a typing error.
    if !parent.is_dir() {
        return Err(Failure::new(format!("there is no directory {}", parent.display())));
    }
    Ok(unpack::unpack_renamed(reader, &open_dir(parent)?, name, Path::new(file)))
}

/// Where on this host something called `name` goes.
fn host_target(to: &Path, name: Option<&Path>) -> Result<PathBuf, Failure> {
    let into = to.is_dir() || to.as_os_str().to_string_lossy().ends_with('/');
    match (into, name) {
        (true, Some(name)) => Ok(to.join(name)),
        _ => Ok(to.to_owned()),
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
        assert_eq!(host_target(dir.path(), name).unwrap(), dir.path().join("log"));
        let new = dir.path().join("new");
        assert_eq!(host_target(&new, name).unwrap(), new);
    }

    #[test]
    fn a_file_lands_under_its_new_name_and_in_no_directory_that_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("hostname");
        std::fs::write(&source, "web\n").unwrap();
        let mut tar = Vec::new();
        pack::pack(&source, Path::new("hostname"), &mut tar).unwrap();
        let name = Some(Path::new("hostname"));
        unpack_file(tar.as_slice(), name, &dir.path().join("copy")).unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("copy")).unwrap(), "web\n");
        let missing = dir.path().join("no/such");
        assert!(unpack_file(tar.as_slice(), name, &missing).is_err());
    }
}
