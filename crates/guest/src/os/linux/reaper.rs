//! Every child's end, told to whoever waits for it. As PID 1 we inherit all
//! orphans, so one loop reaps whatever there is; what nobody waits for was an
//! orphan.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::io::Interest;
use tokio::sync::{Notify, oneshot};

use super::raw;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
}

#[derive(Debug, Default)]
pub(crate) struct Reaper {
    waiting: RefCell<BTreeMap<i32, oneshot::Sender<Ended>>>,
    last_child_gone: Notify,
}

impl Reaper {
    /// Called right after the launch, before anything else can run: the end
    /// cannot be missed.
    pub(crate) fn expect(&self, pid: i32) -> oneshot::Receiver<Ended> {
        let (tell, told) = oneshot::channel();
        self.waiting.borrow_mut().insert(pid, tell);
        told
    }

    /// Resolves when there is no process but us (and the kernel's). Only where
    /// we are PID 1, since only there all processes are or become ours.
    pub(crate) async fn childless(&self) {
        loop {
            if self.reap() {
                return;
            }
            self.last_child_gone.notified().await;
        }
    }

    /// Serves for ever.
    pub(crate) async fn run(self: Rc<Self>, signals: OwnedFd) -> io::Result<()> {
        let signals = raw::watch(signals, Interest::READABLE)?;
        // Whoever was here before us may have left some.
        self.reap();
        loop {
            let mut ready = signals.readable().await?;
            // signalfd_siginfo is 128 bytes (signalfd(2)); a signal that is
            // pending already is not queued again, so there is one at most.
            let mut record = [0; 2 * 128];
            match rustix::io::read(signals.get_ref(), &mut record) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // After the read: who ends from here on sends another.
            self.reap();
        }
    }

    /// Whether no child is left.
    fn reap(&self) -> bool {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(ended)) => ended,
                Ok(None) => return false,
                Err(_no_child) => {
                    self.last_child_gone.notify_one();
                    return true;
                }
            };
            if let (Some(ended), Some(waiting)) =
                (read_status(status), self.waiting.borrow_mut().remove(&pid.as_raw_nonzero().get()))
            {
                let _gave_up = waiting.send(ended);
            }
        }
    }
}

fn read_status(status: WaitStatus) -> Option<Ended> {
    status.exit_status().map(Ended::Code).or_else(|| status.terminating_signal().map(Ended::Signal))
}
