use std::fmt;
use std::io;
use std::path::PathBuf;

use inn_image::disk_image::DiskImageError;
use inn_store::StoreError;

use crate::disk_images::DiskFetchError;

/// Why the agent does not run: one sentence each, with the cause as source.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Lock(#[from] inn_host::LockError),
    #[error(transparent)]
    Store(#[from] inn_store::StoreError),
    #[error("the image cache cannot be opened")]
    Images(#[source] inn_image::ImageError),
    #[error("the cache of disk images cannot be opened")]
    DiskImages(#[source] inn_image::disk_image::DiskImageError),
    #[error("the kernel cache cannot be opened")]
    Kernels(#[source] inn_image::kernel::KernelError),
    #[error("cannot {step} {}", path.display())]
    Io { step: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot listen at {address}; choose another one with api_listen, or none")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    #[error(
        "{} belongs to another user (uid {owner}); set {key} to a directory of your own",
        path.display()
    )]
    NotOurs { path: PathBuf, owner: u32, key: &'static str },
    #[error(
        "{} is on a read-only file system; remount it, or set {key} to another directory",
        path.display()
    )]
    ReadOnly { path: PathBuf, key: &'static str },
    #[error(
        "{} belongs to another user (uid {owner}): run the agent as that user, or hand the file over by chown",
        path.display()
    )]
    ForeignFile { path: PathBuf, owner: u32 },
    #[error("the API cannot be served by TLS")]
    Tls(#[from] crate::http::TlsError),
    #[error("cannot {step}")]
    Start { step: &'static str, source: io::Error },
}

impl AgentError {
    pub(crate) fn io(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { step, path, source }
    }
}

/// Whether a write failed for want of space, however deep in the chain.
pub(crate) fn is_full_disk(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        error.downcast_ref::<io::Error>().is_some_and(|error| full.contains(&error.kind()))
            || matches!(error.downcast_ref(), Some(inn_image::ImageError::DiskFull { .. }))
            || matches!(error.downcast_ref(), Some(DiskImageError::DiskFull { .. }))
            || matches!(error.downcast_ref(), Some(StoreError::Full { .. }))
            || matches!(error.downcast_ref(), Some(DiskFetchError::Image(DiskImageError::DiskFull { .. })))
            // Transparent: what it holds is no source of its own.
            || matches!(error.downcast_ref(), Some(AgentError::Store(StoreError::Full { .. })))
    })
}

/// An error and all its causes in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
