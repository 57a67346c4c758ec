//! Ports of the host's that lead into a machine.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use super::{Machine, MachineConfig, Place, Runtime, Subject, skipped};
use crate::{Forward, ForwardTransport, Nic, NicBackend};

/// Below the ports that a host gives away by itself
/// (net.ipv4.ip_local_port_range), so that nobody gets one by chance.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// As long as the machine has it and no longer, whoever looks after the
/// machine.
pub(super) async fn forwards_are_as_told(subject: &impl Subject) {
    use ForwardTransport::{Tcp, Udp};
    let runtime = subject.runtime();
    if !runtime.capabilities().port_forwards {
        return skipped(runtime, "forwards of its own");
    }
    let place = Place::new();
    let nic = Some(Nic { mac: [0x02, 0, 0, 0, 0, 1], backend: NicBackend::User });
    let config = MachineConfig { nic, ..subject.staying(place.path()) };
    let [a, b, taken] = free_ports();
    let somebody = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).expect("it was free");
    let at = |transport, port, to| {
        let address = Ipv4Addr::LOCALHOST;
        Forward { transport, address, port, to }
    };
    let machine = place.launch(runtime, &config).await;

    let wanted = BTreeSet::from([at(Tcp, a, 80), at(Udp, b, 53), at(Tcp, taken, 80)]);
    let done = machine.set_forwards(&wanted).await.expect("forwards are set");
    assert_eq!(done.made, [at(Tcp, a, 80), at(Udp, b, 53)]);
    assert_eq!(done.refused.len(), 1, "{done:?}");
    assert!(done.refused[0].0 == at(Tcp, taken, 80) && !done.refused[0].1.is_empty(), "{done:?}");
    TcpStream::connect((Ipv4Addr::LOCALHOST, a)).expect("somebody listens");
    UdpSocket::bind((Ipv4Addr::LOCALHOST, b)).expect_err("somebody listens");

    // In another life: what is there stays, what was in the way may have gone.
    let (identity, run_dir) = (machine.identity().clone(), config.run_dir.clone());
    drop((machine, somebody));
    TcpStream::connect((Ipv4Addr::LOCALHOST, a)).expect("nobody looks after it, and it is there");
    let machine = runtime.adopt(config.id, &identity, &run_dir).await.expect("adopted");
    let done = machine.set_forwards(&wanted).await.expect("forwards are set");
    assert_eq!((done.made, done.removed), (vec![at(Tcp, taken, 80)], vec![]));
    assert_eq!(done.refused, []);

    let wanted = BTreeSet::from([at(Tcp, a, 81)]);
    let done = machine.set_forwards(&wanted).await.expect("forwards are set");
    assert_eq!(done.made, [at(Tcp, a, 81)]);
    assert_eq!(done.removed.len(), 3, "{done:?}");
    TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).expect("it is free again");
    UdpSocket::bind((Ipv4Addr::LOCALHOST, b)).expect("it is free again");
    TcpStream::connect((Ipv4Addr::LOCALHOST, a)).expect("somebody listens");
    let again = machine.set_forwards(&wanted).await.expect("forwards are set");
    assert_eq!((again.made, again.removed, again.refused), (vec![], vec![], vec![]));

    machine.kill().await.expect("kill");
    TcpListener::bind((Ipv4Addr::LOCALHOST, a)).expect("it is free again");
    machine.set_forwards(&wanted).await.expect_err("the machine has ended");
}

/// Begun at one that tests beside this one begin elsewhere from.
fn free_ports<const N: usize>() -> [u16; N] {
    let spread = std::process::id().wrapping_mul(97) % u32::from(LAST - FIRST);
    let first = FIRST + u16::try_from(spread).expect("below the last");
    let is_free = |port: &u16| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
    };
    let all: Vec<u16> = (first..LAST).chain(FIRST..first).filter(is_free).take(N).collect();
    all.try_into().expect("ports are free")
}
