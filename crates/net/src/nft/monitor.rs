//! Who else changes nf_tables, told by the kernel as it happens.
//!
//! ```text
//!   a transaction:  NEWRULE, DELSET, …   each with its table's name
//!                   NEWGEN               its end, and who made it
//! ```
//!
//! Every message names the socket that the change came by, so our own changes
//! are told apart without counting them.

use std::io;

use inn_domain::network::Instance;
use inn_netlink::{Error, Header, Protocol, Socket, attributes, text};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::decode;
use super::kernel::KernelError;
use super::numbers::*;

/// nfnetlink.h, NFNLGRP_NFTABLES.
const GROUP: u32 = 7;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Somebody changed our tables.
    Ours { by: String },
    /// Somebody changed others' tables, which may block what ours let through.
    Others { by: String },
    /// More was changed than could be told: everything is to be read again.
    Missed,
}

/// Changes by everybody but one socket.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
    reader: Reader,
    told: std::collections::VecDeque<Change>,
}

/// Changes that one look at the socket brings; a datagram has at most so many
/// messages, and the queue is emptied before the next look.
const AT_ONCE: usize = 2048;

impl Monitor {
    /// In the network namespace of the calling thread; in a tokio runtime. Of
    /// changes by the socket with this port ([`super::Kernel::port`]) it does
    /// not tell.
    pub fn open(instance: &Instance, own_port: u32) -> Result<Self, KernelError> {
        let socket = Socket::listen(Protocol::Netfilter, &[GROUP]).map_err(KernelError::Open)?;
        let socket = readable(socket).map_err(|error| KernelError::Open(error.into()))?;
        let reader = Reader { table: instance.table(), own_port, ours: false };
        Ok(Self { socket, reader, told: std::collections::VecDeque::new() })
    }

    /// The next. What was told is not lost if this is cancelled.
    pub async fn next(&mut self) -> io::Result<Change> {
        loop {
            if let Some(change) = self.told.pop_front() {
                return Ok(change);
            }
            let mut ready = self.socket.readable_mut().await?;
            let socket = ready.get_inner_mut();
            let (reader, told) = (&mut self.reader, &mut self.told);
            let read = socket.told(|header, payload| {
                if let Some(change) = reader.message(header, payload)
                    && told.len() < AT_ONCE
                {
                    told.push_back(change);
                }
            });
            match read {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if is_loss(&error) => {
                    // The kernel goes on dropping until nothing is left to be
                    // read (net/netlink/af_netlink.c, netlink_rcv_wake).
                    while socket.told(|_, _| ()).map_or_else(|error| is_loss(&error), |()| true) {}
                    reader.ours = false;
                    told.clear();
                    told.push_back(Change::Missed);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[expect(deprecated, reason = "its successor is unsafe; a `Socket` owns its one descriptor")]
fn readable(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

fn is_loss(error: &Error) -> bool {
    error.is(Errno::NOBUFS) || error.is(Errno::MSGSIZE)
}

/// Puts the messages of a transaction together.
#[derive(Debug)]
struct Reader {
    table: String,
    own_port: u32,
    /// Whether one of this transaction's was about our tables.
    ours: bool,
}

impl Reader {
    fn message(&mut self, header: Header, payload: &[u8]) -> Option<Change> {
        if header.port == self.own_port || header.kind >> 8 != SUBSYSTEM {
            return None;
        }
        if header.kind & 0xFF != NEWGEN {
            // The table's name is the first attribute of everything.
            self.ours |= decode::name(payload, TABLE_NAME).as_deref() == Some(&*self.table);
            return None;
        }
        let by = process(payload);
        let ours = std::mem::take(&mut self.ours);
        Some(if ours { Change::Ours { by } } else { Change::Others { by } })
    }
}

/// Its name and number, as far as the kernel tells.
fn process(payload: &[u8]) -> String {
    let (mut name, mut pid) = (None, None);
    for (kind, content) in attributes(payload.get(4..).unwrap_or_default()) {
        match kind {
            GEN_PROC_PID => pid = inn_netlink::be32(content),
            GEN_PROC_NAME => name = Some(text(content)),
            _ => {}
        }
    }
    match (name, pid) {
        (Some(name), Some(pid)) => format!("{name} (pid {pid})"),
        (Some(name), None) => name,
        _ => "an unknown process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use inn_domain::network::{Declared, Listen, Transport};

    use super::*;
    use crate::namespace::Namespace;
    use crate::nft::Kernel;
    use crate::table::{tables, tests as sample};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn in_runtime<T>(work: impl AsyncFnOnce() -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, work()).await.unwrap() })
    }

    #[test]
    fn others_changes_are_told_apart_from_ours() {
        let name = "others_changes_are_told_apart_from_ours";
        let Some(namespace) = Namespace::new(name) else { return };
        namespace.run(|| {
            in_runtime(async || {
                let mut kernel = Kernel::open(Instance::default()).unwrap();
                let mut monitor = Monitor::open(&Instance::default(), kernel.port()).unwrap();
                let tables = tables(&sample::everything());
                kernel.reconcile(&tables).unwrap();
                namespace.nft("add table inet other");
                let first = monitor.next().await.unwrap();
                assert!(
                    matches!(&first, Change::Others { by } if by.starts_with("nft")),
                    "{first:?}"
                );
                namespace.nft("flush ruleset");
                // Seen, and repaired, which is not told again.
                assert!(matches!(monitor.next().await.unwrap(), Change::Ours { .. }));
                assert!(!kernel.reconcile(&tables).unwrap().is_empty());
                namespace.nft("add rule inet innkeeper forward drop");
                assert!(matches!(monitor.next().await.unwrap(), Change::Ours { .. }));
                assert!(!kernel.reconcile(&tables).unwrap().is_empty());
                namespace.nft("add table inet another");
                assert!(matches!(monitor.next().await.unwrap(), Change::Others { .. }));
            });
        });
    }

    #[test]
    fn a_flood_is_told_as_a_loss() {
        let Some(namespace) = Namespace::new("a_flood_is_told_as_a_loss") else { return };
        namespace.run(|| {
            in_runtime(async || {
                let mut monitor = Monitor::open(&Instance::default(), 0).unwrap();
                let to = (&["10.77.1.2"][..], 2);
                let many = sample::map(Listen::Any, Transport::Tcp, (1, 30_000), to);
                let declared = Declared { maps: vec![many], ..Declared::default() };
                let mut kernel = Kernel::open(Instance::default()).unwrap();
                kernel.reconcile(&tables(&declared)).unwrap();
                assert_eq!(monitor.next().await.unwrap(), Change::Missed);
                // It goes on afterwards.
                namespace.nft("add chain inet innkeeper foreign");
                while !matches!(monitor.next().await.unwrap(), Change::Ours { .. }) {}
            });
        });
    }
}
