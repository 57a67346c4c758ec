use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{TcpListener, UdpSocket};

use inn_vmm::{Forward, ForwardPlan, ForwardTransport, Forwarded};

/// Real sockets of the host's, behind which nobody answers.
#[derive(Debug, Default)]
pub(crate) struct Listeners(BTreeMap<Forward, Listener>);

#[derive(Debug)]
#[expect(dead_code, reason = "they are held, and that is all")]
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Listeners {
    pub(crate) fn set(&mut self, wanted: &BTreeSet<Forward>) -> Forwarded {
        let there = self.0.keys().copied().collect();
        let plan = ForwardPlan::new(&there, wanted);
        self.0.retain(|forward, _| !plan.remove.contains(forward));
        let mut done = Forwarded { removed: plan.remove, ..Forwarded::default() };
        for forward in plan.make {
            match listen(&forward) {
                Ok(listener) => {
                    self.0.insert(forward, listener);
                    done.made.push(forward);
                }
                Err(error) => done.refused.push((forward, error.to_string())),
            }
        }
        done
    }
}

fn listen(forward: &Forward) -> io::Result<Listener> {
    let at = (forward.address, forward.port);
    match forward.transport {
        ForwardTransport::Tcp => TcpListener::bind(at).map(Listener::Tcp),
        ForwardTransport::Udp => UdpSocket::bind(at).map(Listener::Udp),
    }
}
