//! A bounded reader of tar streams.
//!
//! The `tar` crate decodes headers; the walk from entry to entry is ours,
//! because the stream is hostile: names and PAX records are limited before
//! they are read into memory, and every number is checked. Formats: v7,
//! POSIX.1-1988 (ustar), GNU (long names, base-256 numbers, old sparse) and
//! POSIX.1-2001 (PAX, with GNU's three sparse forms).

use std::io::{self, BufRead, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::sparse::SparseMap;
use crate::error::shown;
use crate::ext4::Timestamp;

const BLOCK: u64 = 512;
/// Longest name or link target that is read at all.
const MAX_LONG_NAME: u64 = 64 * 1024;
/// Largest block of PAX records: extended attributes are below 64 KiB each.
const MAX_PAX: u64 = 4 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error("reading failed")]
    Io(#[source] io::Error),
    #[error("ends in the middle of an entry; it is truncated, get it again")]
    Truncated,
    #[error("is not a tar archive: the first header is damaged")]
    NotATar,
    #[error("is damaged: {0}")]
    Damaged(String),
    #[error("has an entry {0} that cannot be read: {1}")]
    Entry(String, String),
}

impl From<io::Error> for TarError {
    fn from(err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(err),
        }
    }
}

/// A reader that can pass over bytes more cheaply than by reading them.
pub(crate) trait SkipRead: BufRead {
    fn skip(&mut self, mut n: u64) -> io::Result<()> {
        while n > 0 {
            let chunk = self.fill_buf()?.len();
            if chunk == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = chunk.min(usize::try_from(n).unwrap_or(usize::MAX));
            self.consume(step);
            n -= step as u64;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Dir,
    Fifo,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    /// Bytes of data in the stream.
    pub(crate) size: u64,
    pub(crate) mode: u64,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: Timestamp,
    pub(crate) device: (u64, u64),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<SparseMap>,
    /// Where the data begins in the stream.
    pub(crate) offset: u64,
}

/// What records before a header say about the entry.
#[derive(Debug, Default)]
struct Extras {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Timestamp>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

/// GNU's sparse records (GNU tar manual, "Storing Sparse Files").
#[derive(Debug, Default)]
struct PaxSparse {
    /// Form 1.0: the map stands before the data.
    in_data: bool,
    present: bool,
    size: Option<u64>,
    parts: Vec<(u64, u64)>,
}

/// Reads entries; between two calls of `next_entry` it is a reader of the
/// entry's data.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: R,
    position: u64,
    /// Data of the current entry that was not read yet.
    left: u64,
    padding: u64,
    first: bool,
}

impl<R: SkipRead> TarReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, position: 0, left: 0, padding: 0, first: true }
    }

    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; `None` at the archive's end, which is two blocks of
    /// zeros or the stream's end in place of a header.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extras = Extras::default();
        loop {
            self.finish_entry()?;
            let Some(block) = self.header()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            let size = number(&header.as_old().size, "size")?;
            match header.entry_type() {
                EntryType::GNULongName => extras.name = Some(self.long_name(size)?),
                EntryType::GNULongLink => extras.link = Some(self.long_name(size)?),
                EntryType::XHeader => self.pax(size, &mut extras)?,
                // Defaults for the whole archive, such as git's commit id.
                EntryType::XGlobalHeader => self.expect_data(size),
                // GNU's volume label.
                other if other.as_byte() == b'V' => self.expect_data(size),
                _ => return self.entry(header, extras).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, extras: Extras) -> Result<Entry, TarError> {
        let old = header.as_old();
        let mut name = extras.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match header.entry_type() {
            // Before POSIX a directory was a file with a slash at the end.
            EntryType::Regular if old.linkflag[0] == 0 && name.ends_with(b"/") => Kind::Dir,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Char => Kind::CharDevice,
            EntryType::Block => Kind::BlockDevice,
            EntryType::Directory => Kind::Dir,
            EntryType::Fifo => Kind::Fifo,
            other => {
                let why = format!("its type {:?} is not supported", char::from(other.as_byte()));
                return Err(TarError::Entry(shown(&name), why));
            }
        };
        let refuse = |name: &[u8]| {
            let shown = shown(name);
            move |err: TarError| match err {
                TarError::Damaged(why) => TarError::Entry(shown.clone(), why),
                other => other,
            }
        };
        let field = |extra: Option<u64>, bytes: &[u8], what| match extra {
            Some(value) => Ok(value),
            None => number(bytes, what).map_err(refuse(&name)),
        };
        let stored = field(extras.size, &old.size, "size")?;
        let seconds = number(&old.mtime, "time").map_err(refuse(&name))?;
        let device = match header.as_ustar().map(|h| (h.dev_major, h.dev_minor)) {
            Some(numbers) => numbers,
            None => header.as_gnu().map(|h| (h.dev_major, h.dev_minor)).unwrap_or_default(),
        };
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => {
                (number(&device.0, "device")?, number(&device.1, "device")?)
            }
            _ => (0, 0),
        };
        let mut entry = Entry {
            kind,
            link: extras
                .link
                .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
                .unwrap_or_default(),
            // Only files have data, whatever the header says (as in pax(1)).
            size: if kind == Kind::File { stored } else { 0 },
            mode: number(&old.mode, "mode").map_err(refuse(&name))?,
            uid: field(extras.uid, &old.uid, "owner")?,
            gid: field(extras.gid, &old.gid, "group")?,
            mtime: extras
                .mtime
                .unwrap_or(Timestamp { secs: i64::from_le_bytes(seconds.to_le_bytes()), nanos: 0 }),
            device,
            xattrs: extras.xattrs,
            sparse: None,
            offset: self.position,
            name: std::mem::take(&mut name),
        };
        self.expect_data(entry.size);
        let sparse = if header.entry_type() == EntryType::GNUSparse {
            Some(self.old_sparse(header, entry.size)?)
        } else if extras.sparse.present && kind == Kind::File {
            Some(self.pax_sparse(extras.sparse)?)
        } else {
            None
        };
        if let Some((size, parts)) = sparse {
            let map = SparseMap::new(size, parts, self.left)
                .map_err(|why| TarError::Entry(shown(&entry.name), why.to_owned()))?;
            entry.sparse = Some(map);
            entry.size = self.left;
            entry.offset = self.position;
        }
        Ok(entry)
    }

    fn expect_data(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK;
    }

    /// Passes over what is left of the current entry. The padding behind the
    /// last one may be missing: `umoci insert` and others end with the data.
    fn finish_entry(&mut self) -> Result<(), TarError> {
        self.input.skip(self.left)?;
        match self.input.skip(self.padding) {
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => {}
            done => done?,
        }
        self.position = self.position.saturating_add(self.left).saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn block(&mut self) -> Result<[u8; 512], TarError> {
        let mut block = [0u8; 512];
        self.input.read_exact(&mut block)?;
        self.position += BLOCK;
        Ok(block)
    }

    fn header(&mut self) -> Result<Option<[u8; 512]>, TarError> {
        if self.input.fill_buf()?.is_empty() {
            return if self.first { Err(TarError::Truncated) } else { Ok(None) };
        }
        let block = self.block()?;
        if block == [0; 512] {
            if self.input.fill_buf()?.is_empty() || self.block()? == [0; 512] {
                return Ok(None);
            }
            return Err(TarError::Damaged("an end mark stands before other data".into()));
        }
        let sum = |range: std::ops::Range<usize>| {
            block[range].iter().map(|&byte| u64::from(byte)).sum::<u64>()
        };
        // The checksum's own eight bytes count as spaces.
        let expected = sum(0..148) + 8 * u64::from(b' ') + sum(156..512);
        if number(&block[148..156], "checksum").ok() != Some(expected) {
            return Err(if self.first {
                TarError::NotATar
            } else {
                TarError::Damaged(format!(
                    "the header at byte {} has a wrong checksum",
                    self.position - BLOCK
                ))
            });
        }
        self.first = false;
        Ok(Some(block))
    }

    fn data(&mut self, size: u64, limit: u64, what: &str) -> Result<Vec<u8>, TarError> {
        if size > limit {
            return Err(TarError::Damaged(format!(
                "{what} of {size} bytes is over the limit of {limit}"
            )));
        }
        self.expect_data(size);
        let mut data = Vec::new();
        self.by_ref().read_to_end(&mut data)?;
        if data.len() as u64 != size {
            return Err(TarError::Truncated);
        }
        Ok(data)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.data(size, MAX_LONG_NAME, "a long name")?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn pax(&mut self, size: u64, extras: &mut Extras) -> Result<(), TarError> {
        let data = self.data(size, MAX_PAX, "a block of PAX records")?;
        let mut rest = &data[..];
        while !rest.is_empty() {
            let record = pax_record(&mut rest)
                .ok_or_else(|| TarError::Damaged("a PAX record is malformed".into()))?;
            extras.set(record)?;
        }
        Ok(())
    }

    /// Four parts in the header, 21 in each block that follows it.
    fn old_sparse(
        &mut self,
        header: &Header,
        size: u64,
    ) -> Result<(u64, Vec<(u64, u64)>), TarError> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| TarError::Damaged("a sparse file has no GNU header".into()))?;
        let mut parts = Vec::new();
        let mut more = gnu.isextended[0] != 0;
        let real_size = number(&gnu.realsize, "size")?;
        let add = |parts: &mut Vec<(u64, u64)>, list: &[GnuSparseHeader]| {
            for part in list.iter().filter(|part| part.numbytes[0] != 0) {
                parts.push((number(&part.offset, "offset")?, number(&part.numbytes, "length")?));
            }
            check_parts(parts)
        };
        add(&mut parts, &gnu.sparse)?;
        while more {
            let block = self.block()?;
            let mut extension = GnuExtSparseHeader::new();
            extension.as_mut_bytes().copy_from_slice(&block);
            add(&mut parts, &extension.sparse)?;
            more = extension.isextended[0] != 0;
        }
        self.expect_data(size);
        Ok((real_size, parts))
    }

    fn pax_sparse(&mut self, mut sparse: PaxSparse) -> Result<(u64, Vec<(u64, u64)>), TarError> {
        let size =
            sparse.size.ok_or_else(|| TarError::Damaged("a sparse file has no size".into()))?;
        if sparse.in_data {
            let before = self.left;
            let count = self.decimal_line()?;
            for _ in 0..count {
                sparse.parts.push((self.decimal_line()?, self.decimal_line()?));
                check_parts(&sparse.parts)?;
            }
            let map = before - self.left;
            let mut padding = map.wrapping_neg() % BLOCK;
            while padding > 0 {
                let n = self.fill_buf()?.len().min(usize::try_from(padding).unwrap_or(usize::MAX));
                if n == 0 {
                    return Err(TarError::Truncated);
                }
                self.consume(n);
                padding -= n as u64;
            }
        }
        Ok((size, sparse.parts))
    }

    fn decimal_line(&mut self) -> Result<u64, TarError> {
        let mut line = Vec::new();
        self.by_ref().take(24).read_until(b'\n', &mut line)?;
        let digits = line.strip_suffix(b"\n").and_then(decimal);
        digits.ok_or_else(|| TarError::Damaged("a sparse file's map is malformed".into()))
    }
}

/// A hostile map must not fill the memory.
fn check_parts(parts: &[(u64, u64)]) -> Result<(), TarError> {
    const MAX_PARTS: usize = 1 << 18;
    if parts.len() > MAX_PARTS {
        return Err(TarError::Damaged(format!("a sparse file has more than {MAX_PARTS} parts")));
    }
    Ok(())
}

impl<R: BufRead> Read for TarReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let n = chunk.len().min(into.len());
        into[..n].copy_from_slice(&chunk[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for TarReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let chunk = self.input.fill_buf()?;
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(&chunk[..chunk.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))])
    }

    fn consume(&mut self, n: usize) {
        self.input.consume(n);
        self.left -= n as u64;
        self.position += n as u64;
    }
}

impl Extras {
    fn set(&mut self, (key, value): (&[u8], &[u8])) -> Result<(), TarError> {
        let malformed = || TarError::Damaged(format!("the PAX record {} is malformed", shown(key)));
        let number = || decimal(value).ok_or_else(malformed);
        match key {
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = Some(pax_time(value).ok_or_else(malformed)?),
            b"GNU.sparse.name" => self.name = Some(value.to_vec()),
            b"GNU.sparse.major" => {
                self.sparse.present = true;
                self.sparse.in_data = value == b"1";
            }
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.present = true;
                self.sparse.size = Some(number()?);
            }
            b"GNU.sparse.offset" => self.sparse.parts.push((number()?, 0)),
            b"GNU.sparse.numbytes" => {
                self.sparse.parts.last_mut().ok_or_else(malformed)?.1 = number()?;
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> = value.split(|&c| c == b',').map(decimal).collect();
                let numbers = numbers.filter(|n| n.len() % 2 == 0).ok_or_else(malformed)?;
                self.sparse.parts =
                    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        check_parts(&self.sparse.parts)
    }
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record
/// (POSIX.1-2017, pax, "pax Extended Header").
fn pax_record<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let space = rest.iter().take(20).position(|&c| c == b' ')?;
    let len = usize::try_from(decimal(&rest[..space])?).ok()?;
    let record = rest.get(space + 1..len)?.strip_suffix(b"\n")?;
    *rest = &rest[len..];
    let equals = record.iter().position(|&c| c == b'=')?;
    Some((&record[..equals], &record[equals + 1..]))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction and sign; -1.5 is 0.5 s after -2.
fn pax_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut halves = text.splitn(2, |&c| c == b'.');
    let secs = i64::try_from(decimal(halves.next()?)?).ok()?;
    let fraction = halves.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0u32, |n, digit| n * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, nanos) => Timestamp { secs, nanos },
        (true, 0) => Timestamp { secs: -secs, nanos: 0 },
        (true, nanos) => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// A header's number: octal digits between spaces or NULs, or GNU's base-256
/// with the top bit set.
fn number(field: &[u8], what: &str) -> Result<u64, TarError> {
    let damaged = || TarError::Damaged(format!("its {what} is not a number"));
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        let (head, tail) = field.split_at(field.len().saturating_sub(8));
        // Longer fields may only repeat the sign above 64 bits.
        let negative = field[0] == 0xff;
        let filler = if negative { 0xff } else { 0 };
        let first_ok = head.first().is_none_or(|&byte| byte == 0x80 || byte == 0xff);
        if !first_ok || head.iter().skip(1).any(|&byte| byte != filler) {
            return Err(damaged());
        }
        let mut bytes = [0u8; 8];
        bytes[8 - tail.len()..].copy_from_slice(tail);
        if head.is_empty() {
            bytes[0] &= if negative { 0xff } else { 0x7f };
        }
        return Ok(u64::from_be_bytes(bytes));
    }
    let text: Vec<u8> = field.iter().copied().take_while(|&c| c != 0).collect();
    let digits = text.trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    std::str::from_utf8(digits)
        .ok()
        .filter(|digits| !digits.starts_with('+'))
        .and_then(|digits| u64::from_str_radix(digits, 8).ok())
        .ok_or_else(damaged)
}
