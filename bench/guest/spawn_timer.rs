//! Times what an exec costs inside the guest itself, with nobody outside
//! involved: start `/bin/true`, wait for it. Compiled statically by
//! `inn-bench`, copied into the VM and run there.
//!
//! `spawn_timer COUNT` prints the microseconds of each, one per line.

use std::process::{Command, Stdio};
use std::time::Instant;

fn main() {
    let count: u32 =
        std::env::args().nth(1).and_then(|n| n.parse().ok()).expect("usage: spawn_timer COUNT");
    for _ in 0..count {
        let begin = Instant::now();
        let status =
            Command::new("/bin/true").stdin(Stdio::null()).status().expect("/bin/true starts");
        assert!(status.success(), "{status}");
        println!("{}", begin.elapsed().as_micros());
    }
}
