use std::io;

use inn_netlink::{Protocol, Socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// linux/rtnetlink.h, `RTNLGRP_*`: links, addresses and routes of both
/// families. Neighbours are not among them: every ARP answer of the host's
/// would be told.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

/// Tells that somebody changed links, addresses or routes; who and what, a new
/// look at all of it says.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
}

impl Monitor {
    /// Of the network namespace that the calling thread is in.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::listen(Protocol::Route, &GROUPS)?;
        Ok(Self { socket: readable(socket)? })
    }

    /// Resolves after a change, whoever made it; several at once are one.
    /// Cancel safe: what is not yet read stays.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.socket.readable_mut().await?;
        loop {
            match ready.get_inner_mut().told(|_, _| ()) {
                Ok(()) => {}
                Err(error) => match io::Error::from(error) {
                    error if error.kind() == io::ErrorKind::WouldBlock => break,
                    // More than it could hold: something changed, in any case.
                    error if error.raw_os_error() == Some(NOBUFS) => {}
                    error => return Err(error),
                },
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

#[expect(deprecated, reason = "its successor is unsafe; a `Socket` owns its one descriptor")]
fn readable(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

const NOBUFS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();
