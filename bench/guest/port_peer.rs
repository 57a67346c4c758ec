//! The least that can be at the guest's end of a virtio-serial port: what the
//! guest agent's channel is measured against. `cargo xtask bench` compiles this
//! one file with rustc, statically, and runs it in the guest with the port's
//! device as its argument.
//!
//! A request is a letter and a length, eight bytes with the least first:
//! `e` has so many bytes sent back, `s` has them swallowed and one byte sent
//! when all are there, `f` has so many bytes sent.

use std::fs::File;
use std::io::{self, Read, Write};

const CHUNK: usize = 64 * 1024;

fn main() -> io::Result<()> {
    let device = std::env::args().nth(1).expect("the port's device is the argument");
    let mut port = File::options().read(true).write(true).open(device)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut request = [0; 9];
        read_whole(&mut port, &mut request)?;
        let [kind, length @ ..] = request;
        let mut left = u64::from_le_bytes(length);
        while left > 0 {
            let part = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            let part = match kind {
                b'f' => port.write(&chunk[..part])?,
                _ => read_some(&mut port, &mut chunk[..part])?,
            };
            if kind == b'e' {
                port.write_all(&chunk[..part])?;
            }
            left -= part as u64;
        }
        if kind == b's' {
            port.write_all(b"!")?;
        }
    }
}

fn read_whole(port: &mut File, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        let read = read_some(port, into)?;
        into = &mut into[read..];
    }
    Ok(())
}

/// A port that no host is connected to reads as ended, at once: until one is.
fn read_some(port: &mut File, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match port.read(into)? {
            0 => std::thread::sleep(std::time::Duration::from_millis(50)),
            read => return Ok(read),
        }
    }
}
