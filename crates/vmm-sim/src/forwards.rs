use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{TcpListener, UdpSocket};

use inn_vmm::{Forward, ForwardPlan, ForwardTransport, Forwarded};

/// Real sockets of the host's, behind which nobody answers.
#[derive(Debug, Default)]
pub(crate) struct Listeners(BTreeMap<Forward, Listener>);

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    #[expect(dead_code, reason = "it is held, and that is all")]
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

    /// Whether somebody has connected that was not seen before. Nobody answers
    /// them.
    pub(crate) fn is_knocked_at(&mut self) -> bool {
        let mut knocked = false;
        for listener in self.0.values() {
            if let Listener::Tcp(listener) = listener {
                knocked |= listener.accept().is_ok();
            }
        }
        knocked
    }
}

fn listen(forward: &Forward) -> io::Result<Listener> {
    let at = (forward.address, forward.port);
    match forward.transport {
        ForwardTransport::Tcp => {
            let listener = TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            Ok(Listener::Tcp(listener))
        }
        ForwardTransport::Udp => UdpSocket::bind(at).map(Listener::Udp),
    }
}
