//! The host's ports that lead into a machine: the forwards of QEMU's user-mode
//! network (libslirp), made and removed while it runs.
//!
//! Not on its command line: a port that somebody else has by then would keep
//! the whole machine from starting. QMP has no commands of its own for them, so
//! they go by the monitor for people, whose words are made of typed values only
//! and whose answers are sentences (net/slirp.c).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use inn_vmm::{Forward, ForwardPlan, ForwardTransport, Forwarded};
use serde_json::json;
use tokio::net::UnixStream;

use super::{Qmp, QmpError};

/// What `args` calls the network.
const NETDEV: &str = "net";

impl Qmp<UnixStream> {
    pub(crate) async fn set_forwards(
        &mut self,
        wanted: &BTreeSet<Forward>,
        deadline: Duration,
    ) -> Result<Forwarded, QmpError> {
        let there = parse(&self.people("info usernet".to_owned(), deadline).await?);
        let plan = ForwardPlan::new(&there, wanted);
        let mut done = Forwarded::default();
        for forward in plan.remove {
            let line = format!("hostfwd_remove {NETDEV} {}", listener(&forward));
            let said = self.people(line, deadline).await?;
            if !said.trim_end().ends_with("removed") {
                let reason = said.trim().to_owned();
                return Err(QmpError::Refused { command: "hostfwd_remove", reason });
            }
            done.removed.push(forward);
        }
        for forward in plan.make {
            let line = format!("hostfwd_add {NETDEV} {}-:{}", listener(&forward), forward.to);
            let said = self.people(line, deadline).await?;
            match said.trim() {
                "" => done.made.push(forward),
                said => done.refused.push((forward, said.to_owned())),
            }
        }
        Ok(done)
    }

    /// Whether a connection waits for the guest, which stands still.
    pub(crate) async fn is_knocked_at(&mut self, deadline: Duration) -> Result<bool, QmpError> {
        let shown = self.people("info usernet".to_owned(), deadline).await?;
        Ok(shown.lines().any(waits))
    }

    async fn people(&mut self, line: String, deadline: Duration) -> Result<String, QmpError> {
        let arguments = json!({ "command-line": line });
        self.execute_with("human-monitor-command", arguments, deadline).await
    }
}

/// `tcp:127.0.0.1:8080`, and `tcp::8080` for all addresses.
fn listener(forward: &Forward) -> String {
    let Forward { transport, address, port, .. } = forward;
    match address.is_unspecified() {
        true => format!("{transport}::{port}"),
        false => format!("{transport}:{address}:{port}"),
    }
}

/// `info usernet`'s lines that are forwards (libslirp's
/// `slirp_connection_info`):
/// `TCP[HOST_FORWARD]  12  127.0.0.1 28081  10.0.2.15  81  0  0`.
fn parse(text: &str) -> BTreeSet<Forward> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Forward> {
    let mut words = line.split_whitespace();
    let transport = match words.next()? {
        "TCP[HOST_FORWARD]" => ForwardTransport::Tcp,
        "UDP[HOST_FORWARD]" => ForwardTransport::Udp,
        _ => return None,
    };
    let _descriptor = words.next()?;
    let address = match words.next()? {
        "*" => Ipv4Addr::UNSPECIFIED,
        address => address.parse().ok()?,
    };
    let port = words.next()?.parse().ok()?;
    let _guest = words.next()?;
    let to = words.next()?.parse().ok()?;
    Some(Forward { transport, address, port, to })
}

/// Whether a line is a connection whose guest has not answered, or not taken
/// what was sent to it. Of a forward's the guest is the destination, and what
/// waits for it stands last (`so_snd` in `slirp_connection_info`).
fn waits(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["TCP[HOST_FORWARD]", ..] => false,
        ["TCP[SYN_SENT]", ..] => true,
        [kind, .., waiting] if kind.starts_with("TCP[") => {
            waiting.parse::<u64>().is_ok_and(|bytes| bytes > 0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU 7.2's own words.
    const SHOWN: &str = "Hub -1 (net):\r\n  \
        Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
        TCP[HOST_FORWARD]  12       127.0.0.1 28081       10.0.2.15    81     0     0\r\n  \
        TCP[ESTABLISHED]   15       10.0.2.15 45070    93.184.215.14    80     0     0\r\n  \
        TCP[HOST_FORWARD]  11               * 28080       10.0.2.15    80     0     0\r\n  \
        UDP[HOST_FORWARD]  14               * 28082       10.0.2.15    81     0     0\r\n  \
        UDP[239 sec]       13       10.0.2.15 28081         9.9.9.9    53     0     0\r\n";

    #[test]
    fn who_waits_for_the_guest_is_seen() {
        assert!(!SHOWN.lines().any(waits));
        for line in [
            "  TCP[SYN_SENT]      16       127.0.0.1 28081       10.0.2.15    81     0     0\r",
            "  TCP[ESTABLISHED]   16       127.0.0.1 28081       10.0.2.15    81     0    12\r",
        ] {
            assert!(waits(line), "{line}");
        }
    }

    #[test]
    fn forwards_are_read_as_qemu_shows_them() {
        let forward = |transport, address: [u8; 4], port, to| Forward {
            transport,
            address: address.into(),
            port,
            to,
        };
        let (tcp, udp) = (ForwardTransport::Tcp, ForwardTransport::Udp);
        let wanted = BTreeSet::from([
            forward(tcp, [127, 0, 0, 1], 28081, 81),
            forward(tcp, [0; 4], 28080, 80),
            forward(udp, [0; 4], 28082, 81),
        ]);
        assert_eq!(parse(SHOWN), wanted);
        assert_eq!(parse("nothing of the kind\n\nTCP[HOST_FORWARD] 1 * here"), BTreeSet::new());
        assert_eq!(listener(&forward(tcp, [127, 0, 0, 1], 1, 2)), "tcp:127.0.0.1:1");
        assert_eq!(listener(&forward(udp, [0; 4], 1, 2)), "udp::1");
    }
}
