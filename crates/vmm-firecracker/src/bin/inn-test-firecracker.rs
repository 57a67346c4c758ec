//! For tests of this crate alone: what an agent starts itself as, keeper and log
//! writer, which a test's own program can't be; and a stand-in for Firecracker
//! that ends at one of its requests, the Nth where its file is called `firecracker-N`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = inn_host::log_writer::if_asked() {
        return code;
    }
    if let Some(code) = inn_vmm_firecracker::if_asked() {
        return code;
    }
    match stand_in() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the stand-in: {error}");
            ExitCode::from(2)
        }
    }
}

fn stand_in() -> io::Result<ExitCode> {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "--version") {
        println!("Firecracker v1.7.0");
        return Ok(ExitCode::SUCCESS);
    }
    let name = Path::new(&args[0]).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let last: u32 = name.split('-').nth(1).and_then(|n| n.parse().ok()).unwrap_or(u32::MAX);
    let after = |flag: &str| args.iter().skip_while(|arg| *arg != flag).nth(1);
    let socket = after("--api-sock").ok_or_else(|| io::Error::other("no --api-sock"))?;
    let (stream, _) = UnixListener::bind(socket)?.accept()?;
    let mut lines = BufReader::new(stream);
    for request in 1.. {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                // A machine runs on when nobody asks it anything.
                loop {
                    std::thread::park();
                }
            }
            let header = line.trim().to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            if header.is_empty() {
                break;
            }
        }
        io::copy(&mut lines.by_ref().take(length), &mut io::sink())?;
        if request == last {
            eprintln!("the stand-in ends at request {request}");
            return Ok(ExitCode::from(7));
        }
        lines.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
    }
    Ok(ExitCode::SUCCESS)
}
