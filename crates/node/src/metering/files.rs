//! The files of the ledger: `000001.jsonl` and so on, a line a block, written
//! to at the end alone; `checkpoint.json` and `journal-N`, which are the
//! agent's own.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use inn_fail_point::{Point, fail_point};
use inn_host::process::host_boot_id;
use inn_meter::{Audit, Block, Head, Input, Meter, Standing};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Inner, Metering, now};
use crate::error::AgentError;
use crate::reconcile::sync_parent;

/// Of a file of the ledger: once it is larger, the next block begins another one.
pub(super) const FILE_BYTES: u64 = 8 << 20;

const CHECKPOINT: &str = "checkpoint.json";

/// What a pass leaves behind.
#[derive(Debug, Serialize, Deserialize)]
struct Checkpoint {
    meter: Meter,
    /// Of the first journal that comes after it.
    number: u64,
    file: u64,
    unsent: Vec<(u64, String)>,
}

impl Metering {
    /// Goes on from where an earlier life of the agent has left it. Blocks.
    pub(crate) fn open(directory: PathBuf, node: &str) -> Result<Self, AgentError> {
        let failed = AgentError::io("open the ledger of usage in", directory.clone());
        Self::try_open(directory, node).map_err(failed)
    }

    fn try_open(directory: PathBuf, node: &str) -> io::Result<Self> {
        let boot = host_boot_id()?;
        whole_lines(&directory)?;
        let mut inner = match read_checkpoint(&directory) {
            Ok(Some(checkpoint)) => {
                let Checkpoint { mut meter, number, file, unsent } = checkpoint;
                let number = replay(&directory, number, &mut meter)?;
                Inner { meter, journal: None, number, file, unsent, weighed: HashSet::new() }
            }
            Ok(None) => from_the_ledger(&directory, node, boot)?,
            Err(error) => {
                tracing::error!(%error, "the checkpoint of usage is of no use: what was used since the ledger's last block is lost");
                from_the_ledger(&directory, node, boot)?
            }
        };
        let head = last_block(&directory)?;
        inner.unsent.retain(|(_, line)| {
            Block::parse(line.as_bytes()).is_ok_and(|(block, ..)| block.block > head.block)
        });
        if inner.unsent.is_empty() && *inner.meter.head() != head {
            tracing::error!(
                ledger = head.block,
                expected = inner.meter.head().block,
                "the ledger of usage is not as it was left: `inn node usage verify` says what it has"
            );
        }
        inner.meter.resume(boot, now());
        let metering = Self {
            directory,
            inner: Mutex::new(inner),
            files: Mutex::default(),
            new_machine: Notify::new(),
            farewells: Mutex::default(),
            reading: Arc::default(),
        };
        // A full disk keeps no agent from its VMs: the next pass tries again.
        if let Err(error) = metering.save() {
            tracing::error!(%error, "what VMs use cannot be written down yet");
        }
        Ok(metering)
    }

    /// Puts all that is known into a checkpoint, and what is closed into the
    /// ledger. Blocks.
    pub(super) fn save(&self) -> io::Result<()> {
        let _files = self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (checkpoint, number) = {
            let mut inner = self.lock();
            let number = inner.number + 1;
            // What is told from now on comes after the checkpoint.
            inner.journal = Some(File::create(journal(&self.directory, number))?);
            inner.number = number;
            let Inner { meter, file, unsent, .. } = &*inner;
            let checkpoint =
                serde_json::to_vec(&CheckpointRef { meter, number, file: *file, unsent })?;
            (checkpoint, number)
        };
        fail_point(Point::UsageJournal);
        let path = self.directory.join(CHECKPOINT);
        let new = self.directory.join("checkpoint.new");
        let mut file = File::create(&new)?;
        file.write_all(&checkpoint)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        sync_parent(&path)?;
        fail_point(Point::UsageCheckpoint);
        self.send()?;
        fail_point(Point::UsageWritten);
        for entry in fs::read_dir(&self.directory)?.flatten() {
            if number_of(&entry.file_name(), "journal-", "").is_some_and(|n| n < number) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn send(&self) -> io::Result<()> {
        let unsent = self.lock().unsent.clone();
        for (file, line) in unsent {
            append(&self.directory, file, &line)?;
            self.lock().unsent.remove(0);
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct CheckpointRef<'a> {
    meter: &'a Meter,
    number: u64,
    file: u64,
    unsent: &'a [(u64, String)],
}

/// Whole or not at all.
fn append(directory: &Path, number: u64, line: &str) -> io::Result<()> {
    let path = directory.join(format!("{number:06}.jsonl"));
    let is_new = !path.exists();
    let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
    let before = file.metadata()?.len();
    let written = file.write_all(format!("{line}\n").as_bytes()).and_then(|()| file.sync_data());
    if let Err(error) = written {
        file.set_len(before)?;
        return Err(error);
    }
    if is_new { sync_parent(&path) } else { Ok(()) }
}

fn read_checkpoint(directory: &Path) -> io::Result<Option<Checkpoint>> {
    match fs::read(directory.join(CHECKPOINT)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The number of the last journal that there is.
fn replay(directory: &Path, first: u64, meter: &mut Meter) -> io::Result<u64> {
    let mut number = first;
    loop {
        match fs::read(journal(directory, number)) {
            Ok(bytes) => {
                for line in bytes.split(|byte| *byte == b'\n') {
                    // The last one may be half there, after a power loss.
                    if let Ok(input) = serde_json::from_slice::<Input>(line) {
                        meter.input(&input);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(number),
            Err(error) => return Err(error),
        }
        number += 1;
    }
}

/// A meter for a ledger whose checkpoint is lost, or that is not there yet.
fn from_the_ledger(directory: &Path, node: &str, boot: &str) -> io::Result<Inner> {
    let mut audit = Audit::new(Head::none());
    let mut file = 1;
    for (number, path) in ledger_files(directory)? {
        audit.file();
        file = number;
        for line in lines(&fs::read(path)?) {
            // Whether it is genuine is `verify`'s to say.
            audit.line(("", 0), line, |_, _, _| Ok(()), |_, _| ());
        }
    }
    let standing: Standing = audit.standing();
    let mut meter = Meter::new(node.to_owned(), boot.to_owned(), standing.head.clone());
    meter.take_up(&standing, now());
    let number = fs::read_dir(directory)?
        .flatten()
        .filter_map(|entry| number_of(&entry.file_name(), "journal-", ""))
        .max()
        .unwrap_or(0);
    Ok(Inner { meter, journal: None, number, file, unsent: Vec::new(), weighed: HashSet::new() })
}

/// A line that was cut by a power loss was never part of the ledger.
fn whole_lines(directory: &Path) -> io::Result<()> {
    let Some((_, path)) = ledger_files(directory)?.pop() else { return Ok(()) };
    let bytes = fs::read(&path)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < bytes.len() {
        tracing::warn!(file = %path.display(), cut = bytes.len() - whole, "the ledger's last line is half there");
        let file = OpenOptions::new().write(true).open(&path)?;
        file.set_len(u64::try_from(whole).unwrap_or(u64::MAX))?;
        file.sync_all()?;
    }
    Ok(())
}

fn last_block(directory: &Path) -> io::Result<Head> {
    for (_, path) in ledger_files(directory)?.into_iter().rev() {
        let bytes = fs::read(path)?;
        if let Some(line) = lines(&bytes).last() {
            return Ok(Head::of_line(line));
        }
    }
    Ok(Head::none())
}

pub(super) fn size_of(directory: &Path, number: u64) -> u64 {
    let path = directory.join(format!("{number:06}.jsonl"));
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// In order.
pub(super) fn ledger_files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files: Vec<_> = fs::read_dir(directory)?
        .flatten()
        .filter_map(|entry| {
            let number = number_of(&entry.file_name(), "", ".jsonl")?;
            Some((number, entry.path()))
        })
        .collect();
    files.sort();
    Ok(files)
}

pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn journal(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("journal-{number}"))
}

fn number_of(name: &std::ffi::OsStr, before: &str, after: &str) -> Option<u64> {
    name.to_str()?.strip_prefix(before)?.strip_suffix(after)?.parse().ok()
}
