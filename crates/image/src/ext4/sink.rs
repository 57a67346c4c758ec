use std::fs::File;
use std::io::{self, BufRead};
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::Ext4Error;
use super::alloc::Run;
use super::layout::{BLOCK, BLOCK_BYTES};
use super::writeback::{Pokes, Writeback};

/// How much is gathered before it is written: small files are most of an
/// image, and one `pwrite` for each would be most of the time.
const BUFFER: usize = 1 << 20;

/// How much is copied from another image at once.
const COPY: u64 = 32 << 20;

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// The image file, with neighbouring writes gathered into large ones.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    /// Where `buffer` begins in the file.
    at: u64,
    buffer: Vec<u8>,
    writeback: Writeback,
}

/// A copy that runs beside the rest, and has to be over before that ends.
#[derive(Debug)]
pub(crate) struct BlockCopy {
    from: File,
    to: File,
    runs: Vec<Run>,
    pokes: Pokes,
}

impl BlockCopy {
    /// The kernel shares the blocks where the file system can. `go_on` is asked
    /// now and then.
    pub(crate) fn run<E: From<io::Error>>(
        self,
        go_on: &dyn Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        reserve(&self.to, &self.runs)?;
        for run in &self.runs {
            let end = (run.start + run.len) * BLOCK;
            let mut at = run.start * BLOCK;
            while at < end {
                go_on()?;
                let next = end.min(at + COPY);
                crate::scratch::copy_range(&self.from, &self.to, at, next)?;
                self.pokes.poke();
                at = next;
            }
        }
        Ok(())
    }
}

/// On ext4, which shares no blocks, has them allocated before they are written:
/// otherwise each start of writing back allocates, and holds the copy up (four
/// times as long for 700 MB).
fn reserve(file: &File, runs: &[Run]) -> io::Result<()> {
    /// EXT4_SUPER_MAGIC, of linux/magic.h.
    const EXT4: u64 = 0xef53;
    if rustix::fs::fstatfs(file)?.f_type.cast_unsigned() != EXT4 {
        return Ok(());
    }
    for run in runs {
        let (offset, len) = (run.start * BLOCK, run.len * BLOCK);
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, len) {
            // One without extents.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

impl Sink {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let writeback = Writeback::start(&file)?;
        Ok(Self { file, at: 0, buffer: Vec::with_capacity(BUFFER), writeback })
    }

    pub(super) fn write(&mut self, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        self.move_to(offset)?;
        while !bytes.is_empty() {
            let n = self.room()?.min(bytes.len());
            self.buffer.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Takes `len` bytes from `data` and zeros up to the end of the block.
    pub(super) fn store(
        &mut self,
        offset: u64,
        len: u64,
        data: &mut dyn BufRead,
    ) -> Result<(), Ext4Error> {
        self.move_to(offset)?;
        let mut left = len;
        while left > 0 {
            let room = self.room()?;
            let chunk = data.fill_buf().map_err(Ext4Error::Input)?;
            if chunk.is_empty() {
                return Err(Ext4Error::Input(io::ErrorKind::UnexpectedEof.into()));
            }
            let n = chunk.len().min(room).min(usize::try_from(left).unwrap_or(usize::MAX));
            self.buffer.extend_from_slice(&chunk[..n]);
            data.consume(n);
            left -= n as u64;
        }
        let tail = usize::try_from(len % BLOCK).expect("a remainder is below 4096");
        if tail > 0 {
            self.write(offset + len, &ZEROS[tail..])?;
        }
        Ok(())
    }

    /// Blocks of another image that are to come to the same places here.
    pub(super) fn copy(&self, from: File, runs: Vec<Run>) -> io::Result<BlockCopy> {
        Ok(BlockCopy { from, to: self.file.try_clone()?, runs, pokes: self.writeback.pokes() })
    }

    /// Makes a run that was written read as zeros again, taking no space
    /// where the file system can.
    pub(super) fn erase(&mut self, run: Run) -> io::Result<()> {
        if run.len == 0 {
            return Ok(());
        }
        self.flush()?;
        let (offset, len) = (run.start * BLOCK, run.len * BLOCK);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                for block in run.start..run.start + run.len {
                    self.write(block * BLOCK, &ZEROS)?;
                }
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes what is gathered, gives the file its final length and brings
    /// all of it to stable storage.
    pub(super) fn finish(mut self, len: u64) -> io::Result<()> {
        self.flush()?;
        self.file.set_len(len)?;
        self.writeback.finish()?;
        self.file.sync_all()
    }

    fn move_to(&mut self, offset: u64) -> io::Result<()> {
        if self.at + self.buffer.len() as u64 != offset {
            self.flush()?;
            self.at = offset;
        }
        Ok(())
    }

    fn room(&mut self) -> io::Result<usize> {
        if self.buffer.len() == BUFFER {
            self.flush()?;
        }
        Ok(BUFFER - self.buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        let len = self.buffer.len() as u64;
        self.at += len;
        self.buffer.clear();
        self.writeback.wrote(len);
        Ok(())
    }
}
