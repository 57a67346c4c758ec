//! What a guest sends to its host in a second through a tap of ours, with our
//! links and tables, and by turns through one made by hand with `ip` for the
//! same QEMU. In network namespaces of its own.
//!
//!     cargo run -p inn-net --example throughput -- KERNEL INITRAMFS [ROUNDS]
//!
//! The initramfs has a card `eth0` of 10.213.0.2/24 send 16 MiB or more to
//! 10.213.0.1, port 5001.

#![expect(clippy::disallowed_methods, reason = "what is done by hand is done by programs")]

use std::io::Read;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use inn_domain::network::{
    Attachment, Declared, DeclaredNetwork, Instance, NetworkKind, NetworkSpec, Policy, Uplink,
};
use inn_host::{netns::Netns, tap};
use inn_net::link::Links;
use inn_net::{nft, table};
use inn_units::{NetworkId, VmId};

/// What is waited for of what the guest sends.
const ALL: u32 = 16 << 20;

/// Without a byte.
const PATIENCE: Duration = Duration::from_secs(10);

const MAC: [u8; 6] = [2, 9, 0, 0, 0, 2];

fn main() {
    let mut words = std::env::args().skip(1);
    let files = [words.next().expect("a kernel"), words.next().expect("an initramfs")];
    let rounds = words.next().map_or(3, |word| word.parse().expect("a number"));
    let (mut ours, mut by_hand) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (rates, run) in
            [(&mut ours, with_ours as fn(&[String; 2]) -> f64), (&mut by_hand, with_ip)]
        {
            let files = files.clone();
            rates.push(Netns::make().expect("a network namespace").run(move || run(&files)));
        }
    }
    for (what, mut rates) in [("ours", ours), ("by hand", by_hand)] {
        rates.sort_by(f64::total_cmp);
        println!("{what}: median {:.0} Mbit/s of {rates:.0?}", rates[rates.len() / 2]);
    }
}

fn with_ours(files: &[String; 2]) -> f64 {
    let id = NetworkId::from_bytes([7, 0, 0, 0, 1]);
    let spec = NetworkSpec {
        name: "bench".parse().expect("a name"),
        kind: NetworkKind::Nat,
        ipv4: "10.213.0.0/24".parse().ok(),
        ipv6: "fd00:1:2:3::/64".parse().ok(),
        uplink: Uplink::DefaultRoute,
        mtu: None,
        peers: false,
        host: true,
        metadata: false,
    };
    let vm = Attachment {
        vm: VmId::from_bytes([9, 0, 0, 0, 2]),
        name: "bench".parse().expect("a name"),
        network: id,
        mac: MAC,
        ipv4: Some([10, 213, 0, 2].into()),
        ipv6: "fd00:1:2:3::9".parse().ok(),
        policy: Policy::AllowAll,
    };
    let tap = tap::open(vm.tap().as_str()).expect("a tap");
    let declared = Declared {
        instance: Instance(Some("bench".to_owned())),
        networks: vec![DeclaredNetwork { id, spec, uplink4: None, uplink6: None, mtu: 1500 }],
        attachments: vec![vm],
        maps: Vec::new(),
    };
    let done = Links::open().expect("netlink").converge(&declared).expect("links");
    assert!(done.failed.is_empty(), "{:?}", done.failed);
    let mut kernel = nft::Kernel::open(declared.instance.clone()).expect("nf_tables");
    kernel.reconcile(&table::tables(&declared)).expect("tables");
    received(files, &format!("tap,id=net,fd={}", tap.as_raw_fd()), Some(tap))
}

fn with_ip(files: &[String; 2]) -> f64 {
    for args in [
        "link add br0 type bridge",
        "addr add 10.213.0.1/24 dev br0",
        "link set br0 up",
        "tuntap add dev tap0 mode tap",
        "link set tap0 master br0 up",
    ] {
        let done = Command::new("ip").args(args.split(' ')).status().expect("iproute2");
        assert!(done.success(), "ip {args}");
    }
    received(files, "tap,id=net,ifname=tap0,script=no,downscript=no", None)
}

/// Mbit/s, from the first byte to the last.
fn received(files: &[String; 2], netdev: &str, tap: Option<OwnedFd>) -> f64 {
    let listener = TcpListener::bind("10.213.0.1:5001").expect("the bridge has its address");
    if let Some(tap) = &tap {
        rustix::io::fcntl_setfd(tap, rustix::io::FdFlags::empty()).expect("a descriptor");
    }
    let mut qemu = qemu(files, netdev);
    drop(tap);
    let (mut stream, _) = listener.accept().expect("the guest connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut buffer = vec![0; 256 * 1024];
    let (mut bytes, from) = (0_u32, Instant::now());
    // Some programs keep the connection beyond what they had to send.
    while bytes < ALL {
        let count = stream
            .read(&mut buffer)
            .unwrap_or_else(|error| panic!("after {bytes} of {ALL} bytes: {error}"));
        assert!(count > 0, "the guest sends as much");
        bytes += u32::try_from(count).expect("a buffer");
    }
    let seconds = from.elapsed().as_secs_f64();
    let _ = qemu.kill();
    let _ = qemu.wait();
    f64::from(bytes) * 8.0 / 1e6 / seconds
}

fn qemu([kernel, initramfs]: &[String; 2], netdev: &str) -> Child {
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    Command::new("qemu-system-x86_64")
        .args(
            "-M q35,smm=off,vmport=off,hpet=off,sata=off,usb=off -accel tcg,tb-size=64".split(' '),
        )
        .args("-cpu max,-erms -m 256M -smp 1 -nodefaults -display none -no-reboot".split(' '))
        .args(["-serial", "file:/dev/null", "-kernel", kernel, "-initrd", initramfs])
        .args(["-append", "console=ttyS0 panic=-1", "-netdev", netdev])
        .arg("-device")
        .arg(format!(
            "virtio-net-pci,disable-legacy=on,netdev=net,mac={mac},host_mtu=1500,romfile="
        ))
        .stdin(Stdio::null())
        .spawn()
        .expect("QEMU")
}
