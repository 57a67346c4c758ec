use std::io::{Read, Write};
use std::net::TcpListener;

use crate::suite::{SHARED_VM, host, host_with_vm};

/// 10.0.2.2 is the host's loopback in QEMU's user-mode network.
pub(crate) fn allow_all_reaches_the_host_s_loopback() {
    let host = host_with_vm();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"hello from the host\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    });
    let script = format!("echo hello from the guest | nc 10.0.2.2 {port}");
    let heard = host.inn(["vm", "exec", SHARED_VM, "--", "sh", "-c", &script]).ok();
    assert_eq!(heard, "hello from the host\n");
    assert_eq!(server.join().unwrap(), "hello from the guest\n");
    let shown = host.inn(["vm", "exec", SHARED_VM, "--", "sh", "-c", "ip addr; ip route"]).ok();
    assert!(shown.contains("10.0.2.15/24"), "{shown}");
    assert!(shown.contains("default via 10.0.2.2"), "{shown}");
}

pub(crate) fn none_has_no_device() {
    let script = "ls /sys/class/net; nc -w 2 10.0.2.2 1 2>&1; test $? -ne 0";
    let out =
        host().inn(["run", "--rm", "--network", "none", "mini", "--", "sh", "-c", script]).ok();
    assert_eq!(out.lines().next(), Some("lo"), "{out}");
    assert!(out.contains("nreachable"), "{out}");
}
