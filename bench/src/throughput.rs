//! What a guest sends to its host in a second through a tap of ours, with our
//! links and tables, and by turns through one made by hand with `ip` for the
//! same QEMU. In network namespaces of their own; bench/guest/sender.rs is the
//! guest.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use inn_domain::network::{
    Attachment, Declared, DeclaredNetwork, Instance, NetworkKind, NetworkSpec, Policy, Uplink,
};
use inn_host::tap;
use inn_image::initramfs::ModuleSet;
use inn_image::kernel::{GuestBinary, KernelStore};
use inn_net::link::Links;
use inn_net::{nft, table};
use inn_units::{NetworkId, VmId};

use crate::agent::pause;
use crate::ports::Namespace;
use crate::program::build_guest_program;
use crate::raw::{Ended, arguments, microvm};
use crate::report::{Figure, Row};
use crate::{Accel, Bench};

/// What is received before the clock starts: an emulated CPU has seen nothing
/// of its kernel's network yet.
const FIRST: usize = 4 << 20;
const ALL: usize = 64 << 20;

/// For a boot, and for a byte more.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each is a boot, and the median has to be of some.
const LEAST_ROUNDS: usize = 5;

const MAC: [u8; 6] = [2, 9, 0, 0, 0, 2];

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let guest = Guest::prepare(bench)?;
    let mut rates = [Vec::new(), Vec::new()];
    let rounds = bench.options.rounds.div_ceil(2);
    let rounds = if bench.options.quick { 1 } else { rounds.max(LEAST_ROUNDS) };
    for _ in 0..rounds {
        for (rates, run) in
            rates.iter_mut().zip([with_ours as fn(&Guest) -> anyhow::Result<f64>, with_ip])
        {
            let namespace = Namespace::new()?;
            rates.push(namespace.run(|| run(&guest))?);
        }
    }
    let [ours, by_hand] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        let text = format!(
            "p50 {:.0} Mbit/s, {:.0} to {:.0}",
            rates[rates.len() / 2],
            rates[0],
            rates[rates.len() - 1]
        );
        (rates[rates.len() / 2], Figure::other(text, rates.len()))
    });
    bench.report.push(Row {
        what: "a guest sends its host 64 MiB by TCP through a tap of ours, and through one by hand",
        met: ours.0 >= 0.9 * by_hand.0,
        ours: ours.1,
        raw: Some(by_hand.1),
        target: "within 10 %",
    });
    Ok(())
}

struct Guest {
    vmlinux: PathBuf,
    initramfs: PathBuf,
    arguments: String,
    console: PathBuf,
    accel: Accel,
}

impl Guest {
    fn prepare(bench: &Bench) -> anyhow::Result<Self> {
        let dir = bench.work.path().join("throughput");
        fs::create_dir_all(&dir)?;
        let init = fs::read(build_guest_program("sender", &dir)?)?;
        let store = KernelStore::open(&dir.join("kernel"))?;
        let kernel = store.resolve(None, &bench.options.kernels)?;
        let initramfs = store.initramfs(&kernel, GuestBinary::new(&init), ModuleSet::Mmio)?;
        let accel = bench.options.accel;
        let arguments = arguments(accel);
        let console = dir.join("console");
        Ok(Self { vmlinux: kernel.vmlinux, initramfs, arguments, console, accel })
    }
}

fn with_ours(guest: &Guest) -> anyhow::Result<f64> {
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
    let tap = tap::open(vm.tap().as_str())?;
    let declared = Declared {
        instance: Instance(Some("bench".to_owned())),
        networks: vec![DeclaredNetwork { id, spec, uplink4: None, uplink6: None, mtu: 1500 }],
        attachments: vec![vm],
        maps: Vec::new(),
    };
    let done = Links::open()?.converge(&declared)?;
    ensure!(done.failed.is_empty(), "{:?}", done.failed);
    nft::Kernel::open(declared.instance.clone())?.reconcile(&table::tables(&declared))?;
    // QEMU inherits it.
    rustix::io::fcntl_setfd(&tap, rustix::io::FdFlags::empty())?;
    received(guest, &format!("tap,id=net,fd={}", tap.as_raw_fd()))
}

fn with_ip(guest: &Guest) -> anyhow::Result<f64> {
    for args in [
        "link add br0 type bridge",
        "addr add 10.213.0.1/24 dev br0",
        "link set br0 up",
        "tuntap add dev tap0 mode tap",
        "link set tap0 master br0 up",
    ] {
        crate::program::timed(crate::program::command("ip").args(args.split(' ')))?;
    }
    received(guest, "tap,id=net,ifname=tap0,script=no,downscript=no")
}

/// Mbit/s.
fn received(guest: &Guest, netdev: &str) -> anyhow::Result<f64> {
    let listener = TcpListener::bind("10.213.0.1:5001").context("the bridge has its address")?;
    let mut qemu = microvm(guest.accel, &guest.vmlinux, &guest.initramfs);
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    qemu.args(["-append", &guest.arguments, "-netdev", netdev]);
    qemu.args(["-device", &format!("virtio-net-device,netdev=net,mac={mac},host_mtu=1500")]);
    qemu.stdout(fs::File::create(&guest.console)?);
    let mut qemu = Ended(qemu.spawn().context("qemu-system-x86_64 did not start")?);
    let said = || fs::read_to_string(&guest.console).unwrap_or_default();
    let mut stream =
        accept(&listener, &mut qemu).with_context(|| format!("console: {}", said()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 256 * 1024];
    read(&mut stream, FIRST, &mut buffer)?;
    let begin = Instant::now();
    let bytes = read(&mut stream, ALL, &mut buffer)?;
    #[expect(clippy::cast_precision_loss, reason = "some MiB")]
    let megabits = bytes as f64 * 8.0 / 1e6;
    Ok(megabits / begin.elapsed().as_secs_f64())
}

fn accept(listener: &TcpListener, qemu: &mut Ended) -> anyhow::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let begin = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) if begin.elapsed() > PATIENCE => bail!("the guest does not connect"),
            Err(_) => {}
        }
        if let Some(status) = qemu.0.try_wait()? {
            bail!("QEMU has ended: {status}");
        }
        pause(Duration::from_millis(5));
    }
}

/// At least so many bytes.
fn read(stream: &mut TcpStream, all: usize, buffer: &mut [u8]) -> anyhow::Result<usize> {
    let mut bytes = 0;
    while bytes < all {
        let count = stream.read(buffer).with_context(|| format!("after {bytes} of {all} bytes"))?;
        ensure!(count > 0, "the guest has sent {bytes} of {all} bytes");
        bytes += count;
    }
    Ok(bytes)
}
