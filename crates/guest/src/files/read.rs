//! The content of one file, out.

use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};

use bytes::{Bytes, BytesMut};
use inn_guest_proto::wire::{FailureKind, FileInfo, ReadFile, Transferred};
use inn_guest_proto::{BlockSum, MAX_DATA, is_zero};

use super::job::{Out, gone};
use super::meta;
use crate::os::files;
use crate::refusal::{OrRefuse, Refusal};

/// A message holds one of the sum's blocks (VERSIONING.md, "Block sums").
const BLOCK: u64 = MAX_DATA as u64;

/// A file that has no blocks on a disk and is no larger than this may be one
/// that the kernel writes as it is read, with a length that says nothing.
const MADE_UP: u64 = 4096;

/// The most that is read of such a one.
const MADE_UP_CONTENT: usize = 4 * 1024 * 1024;

pub(super) fn read(request: &ReadFile, out: &mut Out) -> Result<Transferred, Refusal> {
    let path = meta::absolute(&request.path)?;
    let what = || format!("read {}", request.path);
    let mut file = files::open_to_read(path).or_refuse(what)?;
    let meta = file.metadata().or_refuse(what)?;
    if !meta.is_file() {
        return Err(Refusal::invalid(format!("read {}, which is no file", request.path)));
    }
    check_version(request, &meta)?;
    let info = files::info(&meta, None);
    let transferred = if request.sparse {
        let mut sender = Sender { request, out, sum: BlockSum::default(), bytes: 0 };
        if info.allocated == 0 && info.size <= MADE_UP {
            sender.made_up(&file, info)?
        } else {
            sender.holes_left_out(&mut file, info)?
        }
    } else {
        out.info(info).map_err(gone)?;
        whole(request, &mut file, out)?
    };
    if request.expect.is_some() {
        check_version(request, &file.metadata().or_refuse(what)?)?;
    }
    Ok(transferred)
}

fn check_version(request: &ReadFile, meta: &Metadata) -> Result<(), Refusal> {
    match &request.expect {
        Some(expected) if *expected != files::version(meta) => {
            let what = format!("read {} as it was: it has changed", request.path);
            Err(Refusal::new(FailureKind::Changed, what))
        }
        _ => Ok(()),
    }
}

/// Up to the end that it has when it is reached.
fn whole(request: &ReadFile, file: &mut File, out: &mut Out) -> Result<Transferred, Refusal> {
    let what = || format!("read {}", request.path);
    if request.offset > 0 {
        file.seek(SeekFrom::Start(request.offset)).or_refuse(what)?;
    }
    let mut left = request.limit.unwrap_or(u64::MAX);
    loop {
        let want = usize::try_from(left).unwrap_or(MAX_DATA).min(MAX_DATA);
        let bytes = fill(file, want).or_refuse(what)?;
        if bytes.is_empty() {
            return out.finish().map_err(gone);
        }
        left -= bytes.len() as u64;
        out.content(bytes).map_err(gone)?;
    }
}

/// So many bytes, or as many as there are.
fn fill(file: &File, want: usize) -> std::io::Result<Bytes> {
    let mut buffer = BytesMut::with_capacity(want);
    while buffer.len() < want {
        let missing = want - buffer.len();
        if files::read_some(file, &mut buffer, missing)? == 0 {
            break;
        }
    }
    Ok(buffer.freeze())
}

struct Sender<'a> {
    request: &'a ReadFile,
    out: &'a mut Out,
    sum: BlockSum,
    bytes: u64,
}

impl Sender<'_> {
    /// The file as long as it was at first, in blocks counted from the
    /// request's offset; those of nothing but zeros are left out.
    fn holes_left_out(&mut self, file: &mut File, info: FileInfo) -> Result<Transferred, Refusal> {
        let request = self.request;
        let what = || format!("read {}", request.path);
        let start = request.offset.min(info.size);
        let end = start.saturating_add(request.limit.unwrap_or(u64::MAX)).min(info.size);
        self.out.info(info).map_err(gone)?;
        let (mut at, mut hole, mut cursor) = (start, start, None);
        while at < end {
            if at >= hole {
                let Some(data) = files::next_data(file, at).or_refuse(what)? else { break };
                if data >= end {
                    break;
                }
                hole = files::next_hole(file, data).or_refuse(what)?;
                at = at.max(start + (data - start) / BLOCK * BLOCK);
                cursor = None;
            }
            if cursor != Some(at) {
                file.seek(SeekFrom::Start(at)).or_refuse(what)?;
            }
            let want = usize::try_from((end - at).min(BLOCK)).unwrap_or(MAX_DATA);
            let bytes = fill(file, want).or_refuse(what)?;
            if bytes.len() < want {
                let what = format!("read {} to its end: it was cut meanwhile", request.path);
                return Err(Refusal::new(FailureKind::Changed, what));
            }
            let from = at;
            at += bytes.len() as u64;
            cursor = Some(at);
            self.send(bytes, from, start)?;
        }
        Ok(self.finish(end - start))
    }

    /// All of it first, since only its end tells how long it is.
    fn made_up(&mut self, file: &File, info: FileInfo) -> Result<Transferred, Refusal> {
        let request = self.request;
        let what = || format!("read {}", request.path);
        let content = fill(file, MADE_UP_CONTENT).or_refuse(what)?;
        if content.len() == MADE_UP_CONTENT {
            let what = format!("read {}, which does not say how long it is", request.path);
            return Err(Refusal::new(FailureKind::Unsupported, what));
        }
        let size = (content.len() as u64).max(info.size);
        self.out.info(FileInfo { size, ..info }).map_err(gone)?;
        let start = request.offset.min(size);
        let end = start.saturating_add(request.limit.unwrap_or(u64::MAX)).min(size);
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
        let mut at = start;
        while at < end {
            let to = at.saturating_add(BLOCK).min(end);
            let bytes = content.slice(index(at)..index(to));
            self.send(bytes, at, start)?;
            at = to;
        }
        Ok(self.finish(end - start))
    }

    fn send(&mut self, bytes: Bytes, at: u64, start: u64) -> Result<(), Refusal> {
        if is_zero(&bytes) {
            return Ok(());
        }
        self.sum.skip(at - start - self.sum.position());
        self.sum.add(&bytes);
        self.bytes += bytes.len() as u64;
        self.out.piece(bytes, at).map_err(gone)
    }

    fn finish(&mut self, length: u64) -> Transferred {
        let mut sum = std::mem::take(&mut self.sum);
        sum.skip(length - sum.position());
        sum_up(sum, self.bytes, length)
    }
}

/// What both ends of a sparse transfer say at its end.
pub(super) fn sum_up(sum: BlockSum, bytes: u64, length: u64) -> Transferred {
    Transferred {
        bytes,
        block_sum: Bytes::copy_from_slice(&sum.finish()),
        length,
        ..Transferred::default()
    }
}
