//! The machine's screen: QEMU's VNC server listens nowhere and is handed each
//! connection over QMP, so that a VMM in a root directory of its own needs no
//! place for a socket, and nobody but the agent can connect to it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::{Qmp, QmpError, within};

/// What QEMU calls the descriptor in between: it is taken at once.
const NAME: &str = "vnc";

impl Qmp<UnixStream> {
    /// By no other way: what stands in an argv everybody can read.
    pub(crate) async fn set_vnc_password(
        &mut self,
        password: &str,
        deadline: Duration,
    ) -> Result<(), QmpError> {
        let arguments = json!({ "protocol": "vnc", "password": password });
        self.execute_with::<Value>("set_password", arguments, deadline).await.map(drop)
    }

    /// A new connection to its VNC server.
    pub(crate) async fn connect_vnc(&mut self, deadline: Duration) -> Result<UnixStream, QmpError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        within("getfd", deadline, async {
            let request = self.request("getfd", &json!({ "fdname": NAME }));
            let sent = send_with(&self.stream, request.as_bytes(), theirs.as_fd()).await?;
            self.stream.write_all(&request.as_bytes()[sent..]).await?;
            self.answer::<Value>("getfd").await
        })
        .await?;
        let arguments = json!({ "protocol": "vnc", "fdname": NAME, "skipauth": false });
        let added = self.execute_with::<Value>("add_client", arguments, deadline).await;
        if let Err(error @ QmpError::Refused { .. }) = added {
            // QEMU keeps it else.
            let arguments = json!({ "fdname": NAME });
            let _ = self.execute_with::<Value>("closefd", arguments, deadline).await;
            return Err(error);
        }
        added.map(|_: Value| ours)
    }
}

/// At least the first of `bytes`, and the descriptor with it (unix(7),
/// SCM_RIGHTS). How many.
async fn send_with(stream: &UnixStream, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fds = [fd];
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)), "there is room for one");
            Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
        })
        .await
}
