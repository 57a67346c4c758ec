//! A distribution's cloud image as a domain: its seed, its own DHCP client on a
//! network of libvirt's, and its screen.

use std::fs;

use inn_tests::Host;
use inn_tests::fixtures::CloudImage;
use inn_tests::libvirtd::Libvirtd;

use super::networks::{define_lab, start_lab};
use crate::cloud::{KEY, LIMIT, shows_its_screen};

pub(crate) fn a_cloud_image_is_set_up_on_a_network_of_libvirt_s() {
    let libvirtd = match Libvirtd::start() {
        Ok(libvirtd) => libvirtd,
        Err(why) => return eprintln!("SKIPPED a cloud image under libvirt: {why}"),
    };
    let image = CloudImage::get().raw;
    let host = Host::bare();
    let patient = "start_deadline = \"150s\"\ncloud_init_deadline = \"9m\"\n".to_owned();
    fs::write(host.config(), patient + &libvirtd.config()).unwrap();
    host.start_agent();
    define_lab(&libvirtd, &host);
    start_lab(&libvirtd);
    let created = host
        .inn(["vm", "create", "--name", "cloudy", "--cpus", "2", "--memory", "768MiB"])
        .args(["--disk", "2GiB", "--user", "ada", "--ssh-key", KEY])
        .args(["--network", "libvirt:lab"])
        .args(["--disk-image".as_ref(), image.as_os_str()])
        .limit(LIMIT)
        .output()
        .expect_code(0);
    assert!(created.stderr.contains("waiting for cloud-init"), "{created}");
    let shown = host.show("cloudy");
    assert_eq!(shown["cloudInit"], serde_json::json!({ "status": "done" }), "{shown}");
    assert_eq!(shown["guest"]["link"], "ready", "{shown}");
    let domain = format!("inn-{}", shown["id"].as_str().unwrap());
    assert_eq!(libvirtd.domains(), domain);

    let sh = |script: &str| host.inn(["vm", "exec", "cloudy", "--", "sh", "-c", script]).ok();
    assert_eq!(sh("hostname"), "cloudy\n");
    assert_eq!(sh("cat /home/ada/.ssh/authorized_keys"), format!("{KEY}\n"));
    let ip = host.inn(["vm", "ip", "cloudy", "--timeout", "60s", "-o", "json"]).json();
    assert_eq!(ip["source"], "lease", "{ip}");
    let card = sh("ip -4 -o address show eth0; ip -4 route");
    let address = ip["ipv4"].as_str().unwrap();
    assert!(card.contains(&format!(" {address}/24 ")) && card.contains("dynamic"), "{card}");
    assert!(card.contains("default via 192.0.2.1 "), "{card}");

    shows_its_screen(&host);
    let stopped = host.inn(["vm", "stop", "cloudy"]).limit(LIMIT).ok();
    assert!(stopped.contains("graceful"), "{stopped}");
    assert_eq!(libvirtd.domains(), "");
    host.finish();
}
