//! Unix sockets by names of any length.

use std::io;
use std::path::Path;

use tokio::net::UnixStream;

/// Connects to the socket at `path`.
///
/// A socket's address has room for some hundred bytes (sys/un.h), which a data
/// directory deep in a home directory exceeds. On Linux the name is then
/// looked up through an open descriptor of its directory, as the agent does;
/// elsewhere such a path is refused.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    #[cfg(target_os = "linux")]
    if let Some(short) = short(path)? {
        return UnixStream::connect(&short.1).await;
    }
    UnixStream::connect(path).await
}

/// The directory, which has to stay open, and the path through it.
#[cfg(target_os = "linux")]
fn short(path: &Path) -> io::Result<Option<(rustix::fd::OwnedFd, std::path::PathBuf)>> {
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;

    use rustix::fs::{Mode, OFlags, open};

    /// The room in `sockaddr_un`, less its closing zero.
    const LONGEST: usize = 107;

    if path.as_os_str().as_bytes().len() <= LONGEST {
        return Ok(None);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(parent, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok(Some((directory, short)))
}
