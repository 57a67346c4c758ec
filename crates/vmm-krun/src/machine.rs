use std::io::{self, ErrorKind};

use inn_host::socket;
use inn_units::Bytes;
use inn_vmm::Saved;
use inn_vmm::kept::{KeptMachine, KeptVmm};
use tokio::net::UnixStream;

use crate::protocol::{PORT, VSOCK};

#[derive(Debug)]
pub struct KrunMachine(pub(crate) KeptMachine);

impl KeptVmm for KrunMachine {
    fn kept(&self) -> &KeptMachine {
        &self.0
    }

    /// libkrun accepts before its guest does, and hangs up where that refuses.
    async fn channel(&self) -> io::Result<UnixStream> {
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

    async fn look_at_disk(&self, _serial: &str, _size: Bytes) -> io::Result<()> {
        self.0.has_no("way to tell a running guest that a disk has grown")
    }

    async fn stand_still(&self) -> io::Result<()> {
        self.0.has_no("pause")
    }

    /// It runs, as it was asked to.
    async fn go_on(&self) -> io::Result<()> {
        Ok(())
    }

    async fn write_down(&self) -> io::Result<Saved> {
        self.0.has_no("snapshots")
    }
}
