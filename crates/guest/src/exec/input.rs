//! What hosts type, and the process's stdin.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use inn_guest_proto::wire::InputTaken;
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
    /// Bytes that hosts sent and that the process was given, or never will be.
    taken: Cell<u64>,
    /// What ends the input of a terminal was typed.
    typed_end: Cell<bool>,
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

    /// How far the input has got.
    pub(super) fn taken(&self) -> InputTaken {
        InputTaken { bytes: self.taken.get(), ended: self.closed.get() || self.typed_end.get() }
    }

    fn close(&self, holder: u64) {
        if holder == self.holder.get() {
            self.closed.set(true);
            self.renew(None);
        }
    }

    /// Waits until the process took it all. What nobody will read any more is
    /// dropped: the process's end says the rest. Cancelled, it has written a
    /// part, which is counted.
    async fn write(&self, holder: u64, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && holder == self.holder.get() {
            let Some(feed) = self.feed.borrow().clone() else { return self.count(rest.len()) };
            // Both arms may be cancelled: what was written is reported, and a
            // change is seen by looking again. It goes first: another holder
            // was told how much has been written, and is to write what follows.
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                written = feed.write(rest) => match written {
                    Ok(count) => {
                        rest = &rest[count..];
                        self.count(count);
                    }
                    // The process has closed it.
                    Err(_) => self.forget(&feed),
                },
            }
        }
    }

    fn count(&self, bytes: usize) {
        self.taken.set(self.taken.get() + bytes as u64);
    }

    /// As somebody at a terminal does.
    async fn type_end(&self, holder: u64) {
        let before = self.taken.get();
        self.write(holder, END_OF_TRANSMISSION).await;
        if self.taken.get() > before {
            // It is none of what the host has sent.
            self.taken.set(before);
            self.typed_end.set(true);
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
                        () = exec.stdin.type_end(holder) => {}
                        () = listening.gone() => return,
                    }
                }
                Input::Eof(_) => exec.stdin.close(holder),
            }
            if exec.lasting.is_some() {
                // The follower tells how far it has got.
                exec.news.notify_waiters();
            }
        }
    });
}
