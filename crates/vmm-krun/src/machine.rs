use std::collections::BTreeSet;
use std::io::{self, ErrorKind};

use inn_host::socket;
use inn_units::Bytes;
use inn_vmm::kept::KeptMachine;
use inn_vmm::{Forward, Forwarded, Machine, MachineEnd, MachineIdentity, Saved, SavedAhead};
use tokio::net::UnixStream;

use crate::protocol::{PORT, VSOCK};

#[derive(Debug)]
pub struct KrunMachine(pub(crate) KeptMachine);

impl Machine for KrunMachine {
    fn identity(&self) -> &MachineIdentity {
        self.0.identity()
    }

    /// libkrun accepts before its guest does, and hangs up where that refuses.
    async fn connect_channel(&self) -> io::Result<UnixStream> {
        self.0.must_live()?;
        let path = self.0.files().in_run_dir(VSOCK);
        socket::connect(&path).await.map_err(|error| match error.kind() {
            // The socket comes with the guest's driver.
            ErrorKind::NotFound => io::Error::new(
                ErrorKind::ConnectionRefused,
                format!("nobody listens at the guest's vsock port {PORT} yet"),
            ),
            _ => error,
        })
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
        self.0.has_no("way to tell a running guest that a disk has grown")
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
        self.0.has_no("pause")
    }

    /// It runs, as it was asked to.
    async fn resume(&self) -> io::Result<()> {
        self.0.must_live()
    }

    async fn save_after(&self, _ahead: Option<SavedAhead>) -> io::Result<Saved> {
        self.0.has_no("snapshots")
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
