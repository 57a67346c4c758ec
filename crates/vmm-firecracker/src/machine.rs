use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use inn_host::socket;
use inn_units::Bytes;
use inn_vmm::kept::{KeptMachine, KeptVmm};
use inn_vmm::{CardLimits, Saved, memory};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::Api;
use crate::discover::Found;
use crate::kind::{API, VSOCK};
use crate::requests::{self, Request};
use crate::saved;

/// The guest agent's port.
const PORT: u32 = 5161;

/// For a guest to accept. One whose driver is not there yet keeps a connection
/// waiting for ever.
const ACCEPT: Duration = Duration::from_secs(2);

/// `OK` and the number of a port of the host's.
const LONGEST_GREETING: usize = 32;

#[derive(Debug)]
pub struct FirecrackerMachine {
    kept: KeptMachine,
    found: Arc<Found>,
    /// Its guest can accept nothing, as far as is known.
    stands: AtomicBool,
}

impl FirecrackerMachine {
    pub(crate) fn new(kept: KeptMachine, found: Arc<Found>, stands: bool) -> Self {
        Self { kept, found, stands: AtomicBool::new(stands) }
    }

    async fn api(&self) -> io::Result<Api> {
        Api::connect(&self.kept.files().in_run_dir(API)).await
    }

    async fn ask(&self, request: &Request) -> io::Result<()> {
        self.api().await?.ask(request).await
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

impl KeptVmm for FirecrackerMachine {
    fn kept(&self) -> &KeptMachine {
        &self.kept
    }

    async fn channel(&self) -> io::Result<UnixStream> {
        let nobody = || {
            let text = format!("nobody listens at the guest's vsock port {PORT} yet");
            io::Error::new(ErrorKind::ConnectionRefused, text)
        };
        if self.stands.load(Ordering::Relaxed) {
            return Err(nobody());
        }
        let mut stream = socket::connect(&self.kept.files().in_run_dir(VSOCK)).await?;
        match timeout(ACCEPT, to_port(&mut stream)).await {
            Ok(Ok(())) => Ok(stream),
            // Whatever it was, nobody has accepted.
            Ok(Err(_)) | Err(_) => Err(nobody()),
        }
    }

    async fn look_at_disk(&self, serial: &str, size: Bytes) -> io::Result<()> {
        let mut api = self.api().await?;
        // Firecracker takes whatever the file has.
        let has = saved::size_of_disk(&api, self.kept.files().run_dir(), serial)?;
        if has != size {
            let text = format!("its file has {has}, and not {size}");
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        api.ask(&requests::resize(serial)).await
    }

    async fn hold_card_to(&self, limits: &CardLimits) -> io::Result<()> {
        self.ask(&requests::limit_card(limits)).await
    }

    async fn stand_still(&self) -> io::Result<()> {
        self.ask(&requests::pause()).await?;
        self.stands.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn go_on(&self) -> io::Result<()> {
        self.ask(&requests::resume()).await?;
        self.stands.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn write_down(&self) -> io::Result<Saved> {
        let version = &self.found.version;
        if !version.saves() {
            return self.kept.has_no(&format!("snapshots of ours in its version {}", version.text));
        }
        let mut api = self.api().await?;
        let memory = memory::recorded(self.kept.files().run_dir())?;
        let sparse = version.saves_sparsely() && !saved::host_swaps();
        saved::save(&mut api, memory, sparse).await
    }
}
