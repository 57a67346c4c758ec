use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::time::Duration;

use inn_host::socket;
use inn_units::Bytes;
use inn_vmm::kept::KeptMachine;
use inn_vmm::{Forward, Forwarded, Machine, MachineEnd, MachineIdentity, Saved, SavedAhead};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::Api;
use crate::kind::{API, VSOCK};
use crate::requests::{self, Request};

/// The guest agent's port.
const PORT: u32 = 5161;

/// For a guest to accept. One whose driver is not there yet keeps a connection
/// waiting for ever.
const ACCEPT: Duration = Duration::from_secs(2);

/// `OK` and the number of a port of the host's.
const LONGEST_GREETING: usize = 32;

#[derive(Debug)]
pub struct FirecrackerMachine(pub(crate) KeptMachine);

impl FirecrackerMachine {
    async fn ask(&self, request: &Request) -> io::Result<()> {
        self.0.must_live()?;
        Api::connect(&self.0.files().in_run_dir(API)).await?.ask(request).await
    }
}

/// docs/vsock.md in Firecracker, "Host-Initiated Connections".
async fn to_port(stream: &mut UnixStream) -> io::Result<()> {
    stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).await?;
    let mut greeting = Vec::new();
    // No byte more: what follows is the guest's.
    while greeting.last() != Some(&b'\n') {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 || greeting.len() > LONGEST_GREETING {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        greeting.push(byte[0]);
    }
    match greeting.starts_with(b"OK ") {
        true => Ok(()),
        false => Err(ErrorKind::ConnectionRefused.into()),
    }
}

impl Machine for FirecrackerMachine {
    fn identity(&self) -> &MachineIdentity {
        self.0.identity()
    }

    async fn connect_channel(&self) -> io::Result<UnixStream> {
        self.0.must_live()?;
        let mut stream = socket::connect(&self.0.files().in_run_dir(VSOCK)).await?;
        match timeout(ACCEPT, to_port(&mut stream)).await {
            Ok(Ok(())) => Ok(stream),
            // Whatever it was, nobody has accepted.
            Ok(Err(_)) | Err(_) => Err(io::Error::new(
                ErrorKind::ConnectionRefused,
                format!("nobody listens at the guest's vsock port {PORT} yet"),
            )),
        }
    }

    async fn connect_console(&self) -> io::Result<UnixStream> {
        self.0.connect_console().await
    }

    async fn set_vnc_password(&self, _password: &str) -> io::Result<()> {
        self.0.has_no("screens")
    }

    async fn connect_vnc(&self) -> io::Result<UnixStream> {
        self.0.has_no("screens")
    }

    async fn resize_disk(&self, _serial: &str, _size: Bytes) -> io::Result<()> {
        self.0.has_no("disks that grow here while they are in use")
    }

    async fn press_power_button(&self) -> io::Result<()> {
        self.0.has_no("power button")
    }

    async fn set_forwards(&self, _forwards: &BTreeSet<Forward>) -> io::Result<Forwarded> {
        self.0.has_no("network of its own whose ports could be forwarded")
    }

    async fn is_knocked_at(&self) -> io::Result<bool> {
        self.0.has_no("network of its own whose ports could be forwarded")
    }

    async fn pause(&self) -> io::Result<()> {
        self.ask(&requests::pause()).await
    }

    async fn resume(&self) -> io::Result<()> {
        self.ask(&requests::resume()).await
    }

    async fn save_after(&self, _ahead: Option<SavedAhead>) -> io::Result<Saved> {
        self.0.has_no("snapshots here")
    }

    async fn save_ahead(&self) -> io::Result<Option<SavedAhead>> {
        Ok(None)
    }

    async fn wait(&self) -> MachineEnd {
        self.0.wait().await
    }

    async fn kill(&self) -> io::Result<()> {
        self.0.kill().await
    }
}
