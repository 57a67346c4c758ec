use std::io::{Read, Write};
use std::net::TcpListener;

use crate::suite::host;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// An agent of one answer, which wants to know what it is asked.
pub(crate) fn the_environment_s_trace_goes_along() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let body = "{\"items\":[]}";
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(head).unwrap()
    });
    host().inn(["--host", &url, "vm", "list"]).env("TRACEPARENT", TRACE).ok();
    let head = asked.join().unwrap();
    assert!(head.contains(&format!("traceparent: {TRACE}\r\n")), "{head}");
}
