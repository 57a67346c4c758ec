//! What is handed to Firecracker, and taken from it, when a machine is saved or
//! goes on.
//!
//! ```text
//!   not jailed: files of the agent's without a name, by /proc/AGENT/fd
//!   jailed:     files in its root directory, made by the agent and gone with it;
//!               but for the memory that it goes on from: see `jail::MEMORY`
//! ```
//!
//! The agent makes each file before Firecracker opens it, with room for all of a
//! memory: what is written there is not the machine's own use of memory, which may
//! have a limit. Only what the agent has opened is read, whatever is there by then.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inn_fail_point::{Point, fail_point};
use inn_units::Bytes;
use inn_vmm::Saved;
use inn_vmm::memory::{self, Ram};
use rustix::fs::{
    AtFlags, FallocateFlags, Mode, OFlags, fallocate, open, openat, statat, unlinkat,
};

use crate::api::Api;
use crate::requests::{self, SavedPaths};
use crate::{jail, places};

/// Of CPUs and devices, by far: some 20 KiB.
const MOST_STATE: Bytes = Bytes::mib(16);

/// What a Firecracker sees of the host's files.
enum View {
    /// The same as the agent.
    All,
    /// Its root directory, and whom it runs as.
    Jail { root: OwnedFd, uid: u32 },
}

/// A file that both have, as long as this lives.
struct Common<'a> {
    file: File,
    /// For Firecracker.
    path: PathBuf,
    /// Where it has a name.
    of: Option<(&'a OwnedFd, &'static str)>,
}

impl View {
    fn of(api: &Api) -> io::Result<Self> {
        let unknown = || io::Error::other("whose its API is cannot be told");
        let pid = api.pid().ok_or_else(unknown)?;
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(format!("/proc/{pid}/root"), directory, Mode::empty())?;
        let theirs = File::from(root.try_clone()?).metadata()?;
        let ours = std::fs::metadata("/")?;
        if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
            return Ok(Self::All);
        }
        Ok(Self::Jail { root, uid: api.uid() })
    }

    /// An empty one. Firecracker owns its root directory: what it has put there in
    /// the place of a file is not followed, nor opened.
    fn file(&self, name: &'static str) -> io::Result<Common<'_>> {
        match self {
            Self::All => Ok(Common::unnamed(memory::nameless(name)?)),
            Self::Jail { root, uid } => {
                let _none = unlinkat(root, name, AtFlags::empty());
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let mode = Mode::RUSR | Mode::WUSR;
                let file = File::from(openat(root, name, flags | OFlags::CLOEXEC, mode)?);
                let common = Common { file, path: jail::inside(name), of: Some((root, name)) };
                fchown(&common.file, Some(*uid), Some(*uid))?;
                Ok(common)
            }
        }
    }
}

impl Common<'_> {
    fn unnamed(file: File) -> Self {
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into();
        Self { file, path, of: None }
    }
}

impl Drop for Common<'_> {
    fn drop(&mut self) {
        if let Some((root, name)) = self.of
            && let Err(error) = unlinkat(root, name, AtFlags::empty())
        {
            tracing::debug!(name, %error, "a file stays until its machine ends");
        }
    }
}

/// Has a Firecracker that has no machine yet go on with this one, which stands
/// still then.
pub(crate) async fn load(api: &mut Api, saved: &Saved, tap: Option<&str>) -> io::Result<()> {
    let view = View::of(api)?;
    let none = || io::Error::new(ErrorKind::InvalidData, "what was saved has no memory of its own");
    let ram = saved.memory.as_ref().ok_or_else(none)?;
    let (state, memory) = match &view {
        View::All => (
            Common::unnamed(memory::reopened(&saved.state)?),
            Common::unnamed(memory::reopened(ram)?),
        ),
        View::Jail { .. } => {
            let mut state = view.file("state")?;
            io::copy(&mut memory::reopened(&saved.state)?, &mut state.file)?;
            // It was left that descriptor when it was started.
            let memory = Common { file: ram.try_clone()?, path: jail::MEMORY.into(), of: None };
            (state, memory)
        }
    };
    let from = SavedPaths { state: state.path.clone(), memory: memory.path.clone() };
    api.ask(&requests::load(&from, tap)).await
}

/// Writes down a machine that stands still.
pub(crate) async fn save(api: &mut Api, has: Bytes, sparse: bool) -> io::Result<Saved> {
    let view = View::of(api)?;
    let (state, ram) = (view.file("inn-saved-state")?, view.file("inn-saved-memory")?);
    let room = ram.file.try_clone()?;
    let made = move || fallocate(&room, FallocateFlags::empty(), 0, has.get());
    tokio::task::spawn_blocking(made).await.map_err(io::Error::other)??;
    let to = SavedPaths { state: state.path.clone(), memory: ram.path.clone() };
    api.ask(&requests::save(sparse, &to)).await?;
    fail_point(Point::FirecrackerWritten);
    let written = (state.file.try_clone()?, ram.file.try_clone()?);
    let taken = move || {
        let (state, ram) = written;
        Ok::<_, io::Error>(Saved {
            state: Arc::new(state_in(&state)?),
            memory: Some(Arc::new(memory_in(ram, has)?)),
        })
    };
    tokio::task::spawn_blocking(taken).await.map_err(io::Error::other)?
}

/// What a Firecracker finds of a disk.
pub(crate) fn size_of_disk(api: &Api, run_dir: &Path, serial: &str) -> io::Result<Bytes> {
    let name = places::disk(serial);
    let size = match View::of(api)? {
        View::All => std::fs::metadata(run_dir.join(name))?.len(),
        View::Jail { root, .. } => {
            let found = statat(&root, name, AtFlags::SYMLINK_NOFOLLOW)?;
            u64::try_from(found.st_size).unwrap_or(0)
        }
    };
    Ok(Bytes(size))
}

/// A copy that nobody writes to, without the pages that are all zeros.
fn memory_in(written: File, has: Bytes) -> io::Result<File> {
    let copy = memory::copy(&Ram::Shared(written), has)?;
    memory::seal(&copy)?;
    Ok(copy)
}

fn state_in(written: &File) -> io::Result<File> {
    let mut bytes = Vec::new();
    memory::reopened(written)?.take(MOST_STATE.get() + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_STATE.get() {
        let text = format!("Firecracker has written more than {MOST_STATE} of devices");
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    let mut state = memory::nameless("inn-saved-state")?;
    state.write_all(&bytes)?;
    memory::seal(&state)?;
    Ok(state)
}

/// Whether memory may have gone where Firecracker does not look for what is in use
/// (mincore(2)): swaps, by proc(5).
pub(crate) fn host_swaps() -> bool {
    std::fs::read_to_string(Path::new("/proc/swaps")).map_or(true, |swaps| has_swaps(&swaps))
}

/// One line has the names of its columns.
fn has_swaps(swaps: &str) -> bool {
    swaps.lines().count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_swaps_is_known() {
        assert!(!has_swaps("Filename\tType\tSize\tUsed\tPriority\n"));
        assert!(has_swaps("Filename\tType\tSize\n/dev/sda2 partition 100 0 -2\n"));
    }

    #[test]
    fn no_more_of_a_state_is_taken_than_there_can_be() {
        let written = memory::nameless("inn-saved-state").unwrap();
        (&written).write_all(b"devices").unwrap();
        let mut taken = Vec::new();
        memory::reopened(&state_in(&written).unwrap()).unwrap().read_to_end(&mut taken).unwrap();
        assert_eq!(taken, b"devices");
        written.set_len(MOST_STATE.get() + 1).unwrap();
        assert!(state_in(&written).unwrap_err().to_string().contains("more than 16MiB"));
    }
}
