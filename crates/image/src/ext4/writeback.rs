use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Written bytes between two starts of writing back.
const STRIDE: u64 = 32 << 20;
/// One poke waits while another is served; more would say nothing new.
const POKES: usize = 1;

/// Brings what is written to the disk while more is being written: the image
/// has to be durable before it gets its name, and one sync at the end would
/// leave the disk idle until then and the processor idle after.
#[derive(Debug)]
pub(super) struct Writeback {
    pokes: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
    written: u64,
}

impl Writeback {
    pub(super) fn start(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let (pokes, poked) = sync_channel(POKES);
        let body = move || poked.iter().try_for_each(|()| file.sync_data());
        let thread = std::thread::Builder::new().name("image writeback".into()).spawn(body)?;
        Ok(Self { pokes, thread, written: 0 })
    }

    /// For one who writes beside.
    pub(super) fn pokes(&self) -> Pokes {
        Pokes(self.pokes.clone())
    }

    pub(super) fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
        if self.written >= STRIDE {
            self.written = 0;
            // Full: one is due already. Closed: it failed; finish says so.
            let _ = self.pokes.try_send(());
        }
    }

    /// Waits for it; all [`Pokes`] have to be gone. The kernel reports a failed write once to each open
    /// file, and ours shares it, so its error must not be lost.
    pub(super) fn finish(self) -> io::Result<()> {
        drop(self.pokes);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Has what another one has written brought to the disk, too.
#[derive(Debug)]
pub(super) struct Pokes(SyncSender<()>);

impl Pokes {
    pub(super) fn poke(&self) {
        // Full: one is due already. Closed: it failed; finish says so.
        let _ = self.0.try_send(());
    }
}
