//! What an image comes in: a directory, or a tar that is indexed once and
//! then read by offset.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::ImageError;
use crate::layer::{Compression, Kind, SkipRead, TarReader, tar_error};
use crate::watch::{ImportStep, Tally};

/// An archive of an image has a few files for each layer.
const MAX_FILES: usize = 100_000;
const CHUNK: usize = 256 * 1024;
/// Links from one archive member to another that are followed.
const MAX_LINKS: usize = 8;

#[derive(Debug)]
pub(crate) struct Package {
    /// The path as it was given, for messages.
    pub(super) path: PathBuf,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Directory,
    Archive { file: File, members: HashMap<Vec<u8>, Member> },
}

#[derive(Debug, Clone)]
enum Member {
    Data { offset: u64, size: u64 },
    Link(Vec<u8>),
}

/// One file of a package, from its beginning.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    at: u64,
    end: u64,
}

impl Part {
    pub(crate) fn size(&self) -> u64 {
        self.end - self.at
    }

    pub(crate) fn skip(&mut self, bytes: u64) {
        self.at = self.at.saturating_add(bytes).min(self.end);
    }

    /// The first bytes, without moving on.
    pub(crate) fn peek(&self) -> io::Result<Vec<u8>> {
        let mut head = vec![0; usize::try_from(self.size().min(4)).unwrap_or(4)];
        self.file.read_exact_at(&mut head, self.at)?;
        Ok(head)
    }
}

impl Read for Part {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let want = into.len().min(usize::try_from(self.size()).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut into[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Package {
    /// A compressed archive is unpacked into `spool` first, at most `limit`
    /// bytes of it.
    pub(crate) fn open(
        path: &Path,
        spool: &Path,
        limit: u64,
        tally: &Tally<'_>,
    ) -> Result<Self, ImageError> {
        let fail = |err| ImageError::io("open", path, err);
        let kind = match fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::NotFound {
                    what: format!("the image {}", path.display()),
                    hint: "give the path of an OCI layout directory, or of a tar of `docker save` or of an OCI layout".into(),
                });
            }
            Err(err) => return Err(fail(err)),
        };
        let path = path.to_owned();
        if kind.is_dir() {
            return Ok(Self { path, form: Form::Directory });
        }
        if !kind.is_file() {
            return Err(ImageError::invalid(
                path.display().to_string(),
                "is neither a directory nor a file",
            ));
        }
        let file = File::open(&path).map_err(fail)?;
        let mut head = [0u8; 4];
        let n = file.read_at(&mut head, 0).map_err(fail)?;
        let file = match Compression::detect(&head[..n]) {
            Compression::None => file,
            compression => spooled(&path, file, compression, (spool, limit), tally)?,
        };
        let members = index(&path, &file, tally)?;
        Ok(Self { path, form: Form::Archive { file, members } })
    }

    /// A file by its name in the package; `None` when it is not there.
    pub(crate) fn part(&self, name: &str) -> Result<Option<Part>, ImageError> {
        match &self.form {
            Form::Directory => open_in(&self.path, name),
            Form::Archive { file, members } => {
                let mut name = normal(name.as_bytes());
                for _ in 0..MAX_LINKS {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Member::Link(target)) => name = target.clone(),
                        Some(&Member::Data { offset, size }) => {
                            let file = file.try_clone();
                            let file =
                                file.map_err(|err| ImageError::io("open", &self.path, err))?;
                            return Ok(Some(Part { file, at: offset, end: offset + size }));
                        }
                    }
                }
                Ok(None)
            }
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.form, Form::Directory)
    }
}

/// Opens a plain file below a directory. Callers only pass names that they
/// made themselves; a link in the last place is not followed, and what is no
/// plain file is not waited for.
fn open_in(dir: &Path, name: &str) -> Result<Option<Part>, ImageError> {
    let path = dir.join(name);
    let fail = |err| ImageError::io("open", &path, err);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(fail(errno.into())),
    };
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(ImageError::invalid(path.display().to_string(), "is not a plain file"));
    }
    Ok(Some(Part { file, at: 0, end: metadata.len() }))
}

fn spooled(
    path: &Path,
    file: File,
    compression: Compression,
    (spool, limit): (&Path, u64),
    tally: &Tally<'_>,
) -> Result<File, ImageError> {
    let fail = |err| ImageError::io("decompress", path, err);
    let mut reader = compression.reader(file).map_err(fail)?;
    let mut out =
        tempfile::tempfile_in(spool).map_err(|err| ImageError::io("write to", spool, err))?;
    let mut chunk = vec![0; CHUNK];
    let mut total = 0u64;
    loop {
        tally.check()?;
        let n = reader.read(&mut chunk).map_err(|err| {
            ImageError::invalid(
                path.display().to_string(),
                format!("cannot be decompressed: {err}; get it again"),
            )
        })?;
        if n == 0 {
            break;
        }
        total += n as u64;
        if total > limit {
            let what = path.display().to_string();
            return Err(ImageError::TooLarge {
                what,
                limit: "it decompresses to more than an image may have".into(),
            });
        }
        io::Write::write_all(&mut out, &chunk[..n])
            .map_err(|err| ImageError::io("write to", spool, err))?;
        tally.add(ImportStep::Decompressing, n as u64);
    }
    Ok(out)
}

/// Where each member of the archive lies.
fn index(
    path: &Path,
    file: &File,
    tally: &Tally<'_>,
) -> Result<HashMap<Vec<u8>, Member>, ImageError> {
    let what = path.display().to_string();
    let fail = |err| ImageError::io("read", path, err);
    let mut file = file.try_clone().map_err(fail)?;
    file.rewind().map_err(fail)?;
    let len = file.metadata().map_err(fail)?.len();
    let mut tar = TarReader::new(Seeking(BufReader::with_capacity(4096, file)));
    let mut members = HashMap::new();
    while let Some(entry) = tar.next_entry().map_err(|err| tar_error(&what, err))? {
        tally.check()?;
        let name = normal(&entry.name);
        let member = match entry.kind {
            Kind::File if entry.offset.checked_add(entry.size).is_none_or(|end| end > len) => {
                return Err(ImageError::invalid(
                    &what,
                    "ends in the middle of an entry; it is truncated, get it again",
                ));
            }
            Kind::File if entry.sparse.is_some() => continue,
            Kind::File => Member::Data { offset: entry.offset, size: entry.size },
            Kind::HardLink => Member::Link(normal(&entry.link)),
            // `docker save` before 25 links a layer that several images share.
            Kind::Symlink => Member::Link(beside(&name, &entry.link)),
            _ => continue,
        };
        members.insert(name, member);
        if members.len() > MAX_FILES {
            return Err(ImageError::TooLarge {
                what,
                limit: format!("it has more than {MAX_FILES} files"),
            });
        }
    }
    Ok(members)
}

/// Without `.` and empty components. The names are only keys of a map:
/// nothing is opened by them.
fn normal(name: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> =
        name.split(|&c| c == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    parts.join(&b'/')
}

/// What a link's target means from the directory of `name`.
fn beside(name: &[u8], link: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = name.split(|&c| c == b'/').collect();
    parts.pop();
    for part in link.split(|&c| c == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// A file that passes over data by seeking.
struct Seeking(BufReader<File>);

impl Read for Seeking {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl BufRead for Seeking {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.0.consume(n);
    }
}

impl SkipRead for Seeking {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        let n = i64::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        self.0.seek_relative(n)
    }
}
