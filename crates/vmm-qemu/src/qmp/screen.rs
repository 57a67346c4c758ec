//! The machine's screen: QEMU's VNC server listens nowhere and is handed each
//! connection over QMP, so that a VMM in a root directory of its own needs no
//! place for a socket, and nobody but the agent can connect to it.

use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{Qmp, QmpError};

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
        self.hand_over(NAME, theirs.as_fd(), deadline).await?;
        let arguments = json!({ "protocol": "vnc", "fdname": NAME, "skipauth": false });
        self.execute_taking(NAME, "add_client", arguments, deadline).await?;
        Ok(ours)
    }
}
