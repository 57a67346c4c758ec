//! How much VMs have sent, and were sent: what their taps have counted.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

use inn_netlink::route::{Link, Rtnetlink, removed_link};
use inn_netlink::{Error, Protocol, Socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// linux/rtnetlink.h, `RTNLGRP_LINK`.
const LINKS: u32 = 1;

#[derive(Debug, thiserror::Error)]
#[error("cannot ask for the links' counters")]
pub struct SentError(#[from] Error);

/// Each link of the calling thread's network namespace, and how many packets
/// have come in by it. Of a tap they are its machine's; what is sent to that,
/// and router advertisements to all, are not among them. Blocks, shortly.
pub fn of_links() -> Result<Vec<(String, u64)>, SentError> {
    let links = Rtnetlink::open()?.links()?;
    let packets_in = |link: Link| {
        let [packets, ..] = link.counters;
        (link.name, packets)
    };
    Ok(links.into_iter().map(packets_in).collect())
}

/// What a tap has counted, in bytes of its machine's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    pub sent: u64,
    pub received: u64,
}

impl Carried {
    fn of(link: &Link) -> Self {
        let [_, _, sent, received, ..] = link.counters;
        Self { sent, received }
    }
}

/// Of each link of the calling thread's network namespace, as if it were a tap.
/// Blocks, shortly.
pub fn carried() -> Result<Vec<(String, Carried)>, SentError> {
    let links = Rtnetlink::open()?.links()?;
    Ok(links.into_iter().map(|link| (link.name.clone(), Carried::of(&link))).collect())
}

/// What links have carried that are removed, told by the kernel as they go: a
/// tap goes with its machine, and its counters with it.
#[derive(Debug)]
pub struct Farewells {
    socket: AsyncFd<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: Mutex<Socket>,
    number: RawFd,
}

impl AsRawFd for Shared {
    fn as_raw_fd(&self) -> RawFd {
        self.number
    }
}

impl Farewells {
    /// Of the network namespace that the calling thread is in.
    pub fn listen() -> io::Result<Self> {
        let socket = Socket::listen(Protocol::Route, &[LINKS])?;
        let number = socket.as_raw_fd();
        Ok(Self { socket: readable(Shared { socket: Mutex::new(socket), number })? })
    }

    /// Resolves once there may be some. Cancel safe.
    pub async fn ready(&self) -> io::Result<()> {
        self.socket.readable().await?.clear_ready();
        Ok(())
    }

    /// All that there are, by the links' names. What more there was than the
    /// kernel could keep is lost.
    pub fn take(&self) -> Vec<(String, Carried)> {
        let shared = self.socket.get_ref();
        // A message is read whole, or not at all.
        let mut socket = shared.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        let mut errors = 0;
        loop {
            let told = socket.told(|header, message| {
                if let Some(link) = removed_link(header.kind, message) {
                    all.push((link.name.clone(), Carried::of(&link)));
                }
            });
            match told {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return all,
                Err(_) if errors < 3 => errors += 1,
                Err(_) => return all,
            }
        }
    }
}

#[expect(deprecated, reason = "its successor is unsafe; a `Shared` owns its one descriptor")]
fn readable(shared: Shared) -> io::Result<AsyncFd<Shared>> {
    AsyncFd::with_interest(shared, Interest::READABLE)
}
