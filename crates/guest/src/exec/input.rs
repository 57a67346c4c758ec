//! What hosts type, and the process's stdin.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Notify;

use super::detach;
use super::state::ExecState;
use crate::os::pipes::Feed;
use crate::stream::{Input, Stream};

/// What Ctrl-D types on a terminal.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// The stdin of an exec, through all its runs. It belongs to whoever attached
/// last; what others send is dropped.
#[derive(Debug, Default)]
pub(super) struct Stdin {
    feed: RefCell<Option<Rc<Feed>>>,
    /// A host has ended it: later runs find it at its end.
    closed: Cell<bool>,
    holder: Cell<u64>,
    /// Another feed, or another holder.
    changed: Notify,
}

impl Stdin {
    /// The next run's. What is being written goes on there.
    pub(super) fn renew(&self, feed: Option<Feed>) {
        *self.feed.borrow_mut() = feed.filter(|_| !self.closed.get()).map(Rc::new);
        self.changed.notify_waiters();
    }

    pub(super) fn is_open(&self) -> bool {
        self.feed.borrow().is_some()
    }

    /// From now on it is the caller's, who gets a number for it.
    fn take_over(&self) -> u64 {
        self.holder.set(self.holder.get() + 1);
        self.changed.notify_waiters();
        self.holder.get()
    }

    fn close(&self, holder: u64) {
        if holder == self.holder.get() {
            self.closed.set(true);
            self.renew(None);
        }
    }

    /// Waits until the process took it all. What nobody will read any more is
    /// dropped: the process's end says the rest. Cancelled, it has written a
    /// part.
    async fn write(&self, holder: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() && holder == self.holder.get() {
            let Some(feed) = self.feed.borrow().clone() else { return };
            // Both arms may be cancelled: what was written is reported, and a
            // change is seen by looking again.
            tokio::select! {
                written = feed.write(bytes) => match written {
                    Ok(count) => bytes = &bytes[count..],
                    // The process has closed it.
                    Err(_) => return self.forget(&feed),
                },
                () = self.changed.notified() => {}
            }
        }
    }

    /// Unless another run has a new one by now.
    fn forget(&self, feed: &Rc<Feed>) {
        let mut current = self.feed.borrow_mut();
        if current.as_ref().is_some_and(|current| Rc::ptr_eq(current, feed)) {
            *current = None;
        }
    }
}

/// Passes a stream's input to the process, where it has a stdin.
pub(super) fn feed(exec: &Rc<ExecState>, stream: &Rc<Stream>) {
    let holder = exec.stdin.take_over();
    let (exec, stream) = (Rc::clone(exec), Rc::downgrade(stream));
    detach(async move {
        loop {
            let Some(listening) = stream.upgrade() else { return };
            // Ends when the host cancels or its session is over; a stream that
            // has ended is deaf, and this task goes with its last owner.
            let Ok(input) = listening.input().await else { return };
            match input {
                Input::Data { bytes, .. } => {
                    // Both arms may be cancelled: the rest is for nobody.
                    tokio::select! {
                        () = exec.stdin.write(holder, &bytes) => {}
                        () = listening.gone() => return,
                    }
                    listening.consumed(bytes.len());
                }
                Input::Eof(_) if exec.tty => {
                    tokio::select! {
                        () = exec.stdin.write(holder, END_OF_TRANSMISSION) => {}
                        () = listening.gone() => return,
                    }
                }
                Input::Eof(_) => exec.stdin.close(holder),
            }
        }
    });
}
