//! A distribution's cloud image, without an agent or a user in it, from its
//! first boot to a command run in it.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use inn_tests::Host;
use inn_tests::fixtures::CloudImage;
use inn_tests::netns::Netns;
use rustix::process::Signal;

/// As crypt(5) writes it; nobody's password.
const HASH: &str = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/";
pub(crate) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHTrkq0rqT3xXh2a5Xw0JH4R8tZ6mJbpJ2tYw1nqD0Qk tests";

/// Python on an emulated machine of two CPUs, of which the other tests leave
/// little: five boots' time.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn a_cloud_image_is_set_up_and_gets_an_agent() {
    let image = CloudImage::get().raw;
    // On a bridge where there can be one: it asks for its address as it is made to.
    let here = Netns::make();
    let host = match &here {
        Ok(here) => Host::bare().with_bridges(here),
        Err(why) => {
            println!("SKIPPED a cloud image's own DHCP client: no network namespace: {why}");
            Host::bare()
        }
    };
    fs::write(host.config(), "start_deadline = \"150s\"\ncloud_init_deadline = \"9m\"\n").unwrap();
    host.start_agent();
    let user_data = host.home().join("user-data");
    let text = "#cloud-config\nwrite_files:\n  - path: /etc/mine\n    permissions: '0640'\n    \
                content: |\n      s3cret\nruncmd:\n  - [sh, -c, 'echo ran >>/etc/ran']\n";
    fs::write(&user_data, text).unwrap();
    let created = host
        .inn(["vm", "create", "--name", "cloudy", "--cpus", "2", "--memory", "768MiB"])
        .args(["--disk", "2GiB", "--user", "ada", "--ssh-key", KEY, "--password-hash", HASH])
        .args(["--cloud-init".as_ref(), user_data.as_os_str()])
        .args(["--disk-image".as_ref(), image.as_os_str()])
        .limit(LIMIT)
        .output()
        .expect_code(0);
    assert!(created.stderr.contains("waiting for cloud-init"), "{created}");
    let shown = host.show("cloudy");
    assert_eq!(shown["cloudInit"], serde_json::json!({ "status": "done" }), "{shown}");
    assert_eq!(shown["guest"]["link"], "ready", "{shown}");
    assert_eq!(shown["guest"]["isInit"], false, "{shown}");
    let why = host.inn(["vm", "why", "cloudy", "-o", "json"]).json();
    assert_eq!(why["verdict"], "fine", "{why}");
    let phases: Vec<&str> = why["boot"]["phases"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|p| p["name"].as_str())
        .collect();
    assert!(phases.contains(&"cloud-init"), "{why}");

    let sh = |script: &str| host.inn(["vm", "exec", "cloudy", "--", "sh", "-c", script]).ok();
    assert_eq!(sh("hostname"), "cloudy\n");
    let card = sh("ip -4 -o address show eth0; ip -4 route");
    match here {
        Err(_) => assert!(card.contains(" 10.0.2.15/24 "), "{card}"),
        Ok(_) => has_its_lease(&host, &card),
    }
    assert_eq!(sh("cat /home/ada/.ssh/authorized_keys"), format!("{KEY}\n"));
    assert!(sh("getent shadow ada").starts_with(&format!("ada:{HASH}:")));
    assert_eq!(sh("cat /etc/mine; stat -c %a /etc/mine; cat /etc/ran"), "s3cret\n640\nran\n");
    let size: u64 = sh("df --output=size -B1M / | tail -n1").trim().parse().unwrap();
    assert!(size > 1600, "the file system has grown with its disk: {size} MiB");
    // What every boot runs changes nothing where it has run.
    let agent = "systemctl show -p MainPID --value inn-guest";
    let again = "mount -o ro LABEL=INN-GUEST /mnt && sh /mnt/install; umount /mnt";
    let pids = sh(&format!("{agent}; {again}; {agent}"));
    let pids: Vec<&str> = pids.lines().collect();
    assert!(pids.len() == 2 && pids[0] == pids[1], "{pids:?}");

    shows_its_screen(&host);
    // What is a secret is in no log of the agent's.
    let log = host.stop_agent().to_string();
    assert!(!log.contains(HASH) && !log.contains("s3cret"), "{log}");
    host.start_agent();
    host.finish();
}

/// By its distribution's own client, from the agent; and so are names.
fn has_its_lease(host: &Host, card: &str) {
    let address = host.inn(["vm", "ip", "cloudy"]).ok().trim().to_owned();
    let network = host.inn(["network", "show", "default", "-o", "json"]).json();
    let gateway = network[0]["gateways"][0].as_str().unwrap();
    assert!(card.contains(&format!(" {address}/24 ")) && card.contains("dynamic"), "{card}");
    assert!(card.contains(&format!("default via {gateway} ")), "{card}");
    let sh = |script: &str| host.inn(["vm", "exec", "cloudy", "--", "sh", "-c", script]).ok();
    let lease = sh("cat /run/systemd/netif/leases/* /var/lib/dhcp/*.leases 2>/dev/null; true");
    assert!(lease.contains(gateway) && lease.contains("default.inn.internal"), "{lease}");
    // The image says itself whom it asks for names.
    let ask = "getent ahostsv4 cloudy.default.inn.internal";
    let found = sh(&format!("echo nameserver {gateway} >/etc/resolv.conf; {ask}"));
    assert!(found.contains(&address), "{found}");
}

/// To whoever connects where the command says.
pub(crate) fn shows_its_screen(host: &Host) {
    let mut forwarding =
        host.inn(["vm", "vnc", "cloudy", "--listen", "127.0.0.1:0", "-o", "json"]).start();
    forwarding.until_stdout("}");
    let said = forwarding.stdout();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["password"].as_str().unwrap().len(), 8, "{said}");
    let mut viewer = TcpStream::connect(said["listen"].as_str().unwrap()).unwrap();
    viewer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut version = [0; 12];
    viewer.read_exact(&mut version).unwrap();
    assert_eq!(&version, b"RFB 003.008\n");
    drop(viewer);
    forwarding.signal(Signal::INT);
    forwarding.wait(Duration::from_secs(30));
}
