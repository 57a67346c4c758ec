//! Descriptors that QEMU is handed over its socket, since in its own root
//! directory it can open nothing by name.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::{Qmp, QmpError, within};

/// A set of one descriptor (qapi/misc.json, AddfdInfo).
#[derive(Debug, Deserialize)]
pub(super) struct Lent {
    #[serde(rename = "fdset-id")]
    set: u64,
}

impl Lent {
    pub(super) fn name(&self) -> String {
        format!("/dev/fdset/{}", self.set)
    }
}

impl Qmp<UnixStream> {
    /// QEMU keeps it by this name until a command takes it.
    pub(super) async fn hand_over(
        &mut self,
        name: &str,
        fd: BorrowedFd<'_>,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        let arguments = json!({ "fdname": name });
        self.execute_handing::<Value>("getfd", arguments, fd, deadline).await.map(drop)
    }

    /// QEMU opens it by this name, as it was opened, until it is taken back.
    pub(super) async fn lend(
        &mut self,
        fd: BorrowedFd<'_>,
        deadline: Duration,
    ) -> Result<Lent, QmpError> {
        self.execute_handing("add-fd", json!({}), fd, deadline).await
    }

    pub(super) async fn take_back(&mut self, lent: Lent, deadline: Duration) {
        let arguments = json!({ "fdset-id": lent.set });
        // Its connection's end takes it too.
        let _ = self.execute_with::<Value>("remove-fd", arguments, deadline).await;
    }

    async fn execute_handing<T: DeserializeOwned>(
        &mut self,
        command: &'static str,
        arguments: Value,
        fd: BorrowedFd<'_>,
        deadline: Duration,
    ) -> Result<T, QmpError> {
        within(command, deadline, async {
            let request = self.request(command, &arguments);
            let sent = send_with(&self.stream, request.as_bytes(), fd).await?;
            self.stream.write_all(&request.as_bytes()[sent..]).await?;
            self.answer::<T>(command).await
        })
        .await
    }

    /// Runs a command that takes the descriptor of this name, which is let go
    /// if it does not.
    pub(super) async fn execute_taking(
        &mut self,
        name: &str,
        command: &'static str,
        arguments: Value,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        let taken = self.execute_with::<Value>(command, arguments, deadline).await;
        if let Err(QmpError::Refused { .. }) = taken {
            let arguments = json!({ "fdname": name });
            // Most likely it is gone already; its connection's end takes it too.
            let _ = self.execute_with::<Value>("closefd", arguments, deadline).await;
        }
        taken.map(drop)
    }
}

/// At least the first of `bytes`, and the descriptor with it (unix(7),
/// SCM_RIGHTS). How many.
async fn send_with(stream: &UnixStream, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fds = [fd.as_fd()];
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)), "there is room for one");
            Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
        })
        .await
}
