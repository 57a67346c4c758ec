use std::{fmt, io};

use rustix::io::Errno;

/// What the kernel, or the socket to it, answered instead of "done".
#[derive(Debug)]
pub struct Error {
    source: io::Error,
    /// The kernel's own sentence, where it has one.
    said: Option<String>,
}

impl Error {
    pub(crate) fn refused(number: i32, said: Option<String>) -> Self {
        Self { source: io::Error::from_raw_os_error(number.wrapping_neg()), said }
    }

    pub fn is(&self, errno: Errno) -> bool {
        self.source.raw_os_error() == Some(errno.raw_os_error())
    }

    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// What the kernel said beyond the number.
    pub fn said(&self) -> Option<&str> {
        self.said.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)?;
        match &self.said {
            Some(said) => write!(f, " ({said})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Self { source, said: None }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// For whoever only wants the number.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        error.source
    }
}

/// A batch that was not applied, nothing of it.
#[derive(Debug)]
pub struct BatchError {
    /// Which of its messages the kernel refused first; none if it refused the
    /// whole.
    pub at: Option<usize>,
    pub error: Error,
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for BatchError {}

impl From<Error> for BatchError {
    fn from(error: Error) -> Self {
        Self { at: None, error }
    }
}
