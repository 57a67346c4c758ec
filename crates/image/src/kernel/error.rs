use std::io;
use std::path::{Path, PathBuf};

/// Why there is no kernel to boot, or no initramfs for it.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("no kernel was found in {}; {hint}", list(looked_in))]
    NotFound { looked_in: Vec<PathBuf>, hint: String },
    #[error("{} {why}", path.display())]
    NotAKernel { path: PathBuf, why: String },
    #[error("the kernel {version} neither has {module} built in nor as a module in {}; {hint}", dir.display())]
    MissingModule { module: String, version: String, dir: PathBuf, hint: &'static str },
    #[error("the kernel module {} {why}", path.display())]
    BadModule { path: PathBuf, why: String },
    #[error("cannot {step} {}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The bzImage is sound, and its vmlinux is beyond us: see [`super::Kernel::vmlinux`].
    #[error("the kernel's vmlinux cannot be extracted: {why}")]
    Unextractable { why: String },
    /// The bzImage is damaged.
    #[error("the kernel's payload {why}")]
    Payload { why: String },
    #[error("cannot write what was made from the kernel")]
    Write(#[from] io::Error),
}

impl KernelError {
    pub(crate) fn io(step: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { step, path: path.to_owned(), source }
    }

    pub(crate) fn not_a_kernel(path: &Path, why: impl Into<String>) -> Self {
        Self::NotAKernel { path: path.to_owned(), why: why.into() }
    }

    pub(crate) fn bad_module(path: &Path, why: impl Into<String>) -> Self {
        Self::BadModule { path: path.to_owned(), why: why.into() }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" or ")
}
