use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use rustix::io::Errno;
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
    set_socket_send_buffer_size_force, set_socket_timeout, socket_send_buffer_size,
};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::message::{self, DONE, DUMP, ERROR, INTERRUPTED, OVERRUN};
use crate::{ACK, BatchError, Error, Header, Message, messages};

/// The kernel answers at once; this only keeps a fault from being for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kernel's parts of a dump are at most 32 KiB (net/netlink/af_netlink.c).
const BUFFER: usize = 32 * 1024;

/// What a group's listener may leave unread; beyond it the kernel drops, and
/// says so by ENOBUFS.
const BACKLOG: usize = 1024 * 1024;

/// What a dump may be made anew before the kernel changes too fast to be read.
const TRIES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Route,
    Netfilter,
    SockDiag,
}

/// One that asks and is answered, or one that listens to groups.
pub struct Socket {
    inner: netlink_sys::Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Socket {
    pub fn open(protocol: Protocol) -> Result<Self, Error> {
        let number = match protocol {
            Protocol::Route => NETLINK_ROUTE,
            Protocol::Netfilter => NETLINK_NETFILTER,
            Protocol::SockDiag => NETLINK_SOCK_DIAG,
        };
        let mut inner = netlink_sys::Socket::new(number)?;
        let port = inner.bind_auto()?.port_number();
        set_socket_timeout(&inner, Timeout::Recv, Some(PATIENCE))?;
        // Without them (Linux before 4.12) there is the number alone.
        let _older = inner.set_ext_ack(true);
        // An answer need not repeat the question.
        let _older = inner.set_cap_ack(true);
        Ok(Self { inner, port, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// One that is told of changes, whoever makes them; it never blocks.
    pub fn listen(protocol: Protocol, groups: &[u32]) -> Result<Self, Error> {
        let mut socket = Self::open(protocol)?;
        // Beyond net.core.rmem_max only for who may.
        let _kept_as_it_is = set_socket_recv_buffer_size_force(&socket, BACKLOG);
        for group in groups {
            socket.inner.add_membership(*group)?;
        }
        socket.inner.set_non_blocking(true)?;
        socket.sequence = 0;
        Ok(socket)
    }

    /// By which the kernel knows this socket, and names it in what it tells
    /// others of a change.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Has one thing done.
    pub fn order(&mut self, kind: u16, flags: u16, payload: &[u8]) -> Result<(), Error> {
        self.send(kind, flags | ACK, payload)?;
        self.receive(|_, _| ()).map(drop)
    }

    /// Asks for all there is of something, each in a message of the kind
    /// `answer`.
    pub fn dump(&mut self, ask: u16, answer: u16, payload: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        for _ in 0..TRIES {
            self.send(ask, DUMP, payload)?;
            let mut all = Vec::new();
            let whole = self.receive(|header, message| {
                if header.kind == answer {
                    all.push(message.to_vec());
                }
            })?;
            if whole {
                return Ok(all);
            }
        }
        Err(Errno::INTR.into())
    }

    /// Asks for one thing, that a message of the kind `answer` tells.
    pub fn ask(&mut self, ask: u16, answer: u16, payload: &[u8]) -> Result<Vec<u8>, Error> {
        self.send(ask, ACK, payload)?;
        let mut told = None;
        self.receive(|header, message| {
            if header.kind == answer {
                told = Some(message.to_vec());
            }
        })?;
        told.ok_or_else(|| Errno::NOMSG.into())
    }

    /// Has all of it done, or nothing: `begin` and `end` are the subsystem's.
    pub fn batch(
        &mut self,
        begin: &Message,
        messages: &[Message],
        end: &Message,
    ) -> Result<(), BatchError> {
        let Some(last) = messages.len().checked_sub(1) else { return Ok(()) };
        let size: usize = messages.iter().map(|message| message.payload.len() + 32).sum();
        let mut out = Vec::with_capacity(size + 64);
        let first = self.sequence.wrapping_add(1);
        self.sequence = first;
        begin.write(first, &mut out);
        for (at, message) in messages.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            // The end itself is acknowledged by newer kernels alone.
            let flags = if at == last { message.flags | ACK } else { message.flags & !ACK };
            let payload = message.payload.as_bytes();
            message::write(message.kind, flags, payload, self.sequence, &mut out);
        }
        let acknowledged = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        end.write(self.sequence, &mut out);
        self.make_room(out.len())?;
        send(&self.inner, &out, SendFlags::empty()).map_err(Error::from)?;
        self.outcome(first, acknowledged)
    }

    /// The kernel says what is wrong with each message, and goes on to the
    /// last; but a whole batch that it won't have it refuses by its beginning.
    fn outcome(&mut self, first: u32, acknowledged: u32) -> Result<(), BatchError> {
        let mut refused: Option<BatchError> = None;
        loop {
            let (count, _) = self.recv()?;
            for (header, payload) in messages(&self.buffer[..count]) {
                let nth = header.sequence.wrapping_sub(first);
                if header.kind != ERROR || nth > acknowledged.wrapping_sub(first) {
                    continue;
                }
                let (number, said) = message::verdict(header, payload);
                if number != 0 {
                    let error = Error::refused(number, said);
                    // Messages count from 1: 0 is the beginning.
                    let at = usize::try_from(nth).ok().and_then(|nth| nth.checked_sub(1));
                    if at.is_none() {
                        return Err(BatchError { at, error });
                    }
                    refused.get_or_insert(BatchError { at, error });
                }
                if header.sequence == acknowledged {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// A batch is one datagram, and must fit the socket's buffer.
    fn make_room(&mut self, size: usize) -> Result<(), Error> {
        // The kernel counts its own bookkeeping too.
        let wanted = size.saturating_mul(2);
        if socket_send_buffer_size(&self.inner)? < wanted
            && set_socket_send_buffer_size_force(&self.inner, wanted).is_err()
        {
            set_socket_send_buffer_size(&self.inner, wanted)?;
        }
        Ok(())
    }

    /// What a listener was told since; `WouldBlock` if nothing, ENOBUFS if
    /// something was lost.
    pub fn told(&mut self, mut each: impl FnMut(Header, &[u8])) -> Result<(), Error> {
        let (count, _) = self.recv()?;
        for (header, payload) in messages(&self.buffer[..count]) {
            each(header, payload);
        }
        Ok(())
    }

    fn send(&mut self, kind: u16, flags: u16, payload: &[u8]) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut out = Vec::with_capacity(payload.len() + 32);
        message::write(kind, flags, payload, self.sequence, &mut out);
        send(&self.inner, &out, SendFlags::empty())?;
        Ok(())
    }

    /// Until the kernel says that the answer is complete, or what is wrong.
    /// Whether the answer is of one piece.
    fn receive(&mut self, mut each: impl FnMut(Header, &[u8])) -> Result<bool, Error> {
        let mut whole = true;
        loop {
            let (count, _) = self.recv()?;
            for (header, payload) in messages(&self.buffer[..count]) {
                if header.sequence != self.sequence {
                    continue;
                }
                whole &= header.flags & INTERRUPTED == 0;
                match header.kind {
                    DONE | ERROR => {
                        return match message::verdict(header, payload) {
                            (0, _) => Ok(whole),
                            (number, said) => Err(Error::refused(number, said)),
                        };
                    }
                    OVERRUN => return Err(Errno::NOBUFS.into()),
                    _ => each(header, payload),
                }
            }
        }
    }

    /// A datagram, and its length, which is not above the buffer's.
    fn recv(&mut self) -> Result<(usize, usize), Error> {
        loop {
            match recv(&self.inner, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((count, length)) if length > count => return Err(Errno::MSGSIZE.into()),
                Ok(received) => return Ok(received),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}
