//! How long the links of a VM take: its tap opened, made a port, and written
//! down, beside so many others. In a network namespace of its own.
//!
//!     cargo run -p inn-net --example links -- [OTHERS [ROUNDS]]

use std::time::{Duration, Instant};

use inn_domain::network::{
    Attachment, Declared, DeclaredNetwork, Instance, NetworkKind, NetworkSpec, Policy, Uplink,
};
use inn_host::{netns::Netns, tap};
use inn_net::link::Links;
use inn_units::{NetworkId, VmId};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse().expect("a number"));
    let others: u16 = numbers.next().unwrap_or(0);
    let rounds = numbers.next().unwrap_or(20);
    let netns = Netns::make().expect("a network namespace");
    netns.run(move || measure(others, rounds));
}

fn measure(others: u16, rounds: u16) {
    let id = NetworkId::from_bytes([7, 0, 0, 0, 1]);
    let spec = NetworkSpec {
        name: "bench".parse().expect("a name"),
        kind: NetworkKind::Nat,
        ipv4: "10.213.0.0/16".parse().ok(),
        ipv6: "fd00:1:2:3::/64".parse().ok(),
        uplink: Uplink::DefaultRoute,
        mtu: None,
        peers: false,
        host: false,
        metadata: false,
    };
    let network = DeclaredNetwork { id, spec, uplink4: None, uplink6: None, mtu: 1500 };
    let vm = |number: u16| {
        let [high, low] = number.to_be_bytes();
        Attachment {
            vm: VmId::from_bytes([9, 0, 0, high, low]),
            name: format!("vm{number}").parse().expect("a name"),
            network: id,
            mac: [2, 9, 0, 0, high, low],
            ipv4: Some([10, 213, high, low].into()),
            ipv6: format!("fd00:1:2:3::9:{number:x}").parse().ok(),
            policy: Policy::AllowAll,
        }
    };
    let instance = Instance(Some("bench".to_owned()));
    let attachments: Vec<Attachment> = (2..2 + others).map(vm).collect();
    let taps: Vec<_> =
        attachments.iter().map(|vm| tap::open(vm.tap().as_str()).expect("a tap")).collect();
    let mut declared =
        Declared { instance, networks: vec![network], attachments, maps: Vec::new() };
    let mut links = Links::open().expect("netlink");
    let from = Instant::now();
    let done = links.converge(&declared).expect("links");
    assert!(done.failed.is_empty(), "{:?}", done.failed);
    println!("{others} VMs from nothing: {:?}", from.elapsed());
    let mut times: Vec<[Duration; 3]> = Vec::new();
    for round in 0..rounds {
        let vm = vm(2 + others + round);
        let from = Instant::now();
        let tap = tap::open(vm.tap().as_str()).expect("a tap");
        let opened = from.elapsed();
        let id = vm.vm;
        declared.attachments.push(vm);
        let done = links.attach(&declared, id).expect("links");
        assert!(done.failed.is_empty(), "{:?}", done.failed);
        let all = from.elapsed();
        let from = Instant::now();
        assert!(links.converge(&declared).expect("links").steps.is_empty());
        times.push([opened, all, from.elapsed()]);
        drop(tap);
        declared.attachments.pop();
        links.converge(&declared).expect("links");
    }
    for (column, what) in
        ["tap opened", "one VM more, in all", "a look that changes nothing"].into_iter().enumerate()
    {
        let mut sorted: Vec<Duration> = times.iter().map(|row| row[column]).collect();
        sorted.sort_unstable();
        let last = sorted.len() - 1;
        println!("{what}: median {:?}, slowest {:?}", sorted[last / 2], sorted[last]);
    }
    drop(taps);
}
