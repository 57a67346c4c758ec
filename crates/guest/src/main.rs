//! Innkeeper's agent inside a virtual machine.
//!
//! ```text
//!  PID 1 ──boot──▶ port or vsock ──▶ serve for ever    (an OCI microVM)
//!  serve ──find───▶ port or vsock ──▶ serve till SIGTERM (a service of a full VM)
//!  --port NODE, --vsock PORT ───────▶ serve for ever     (the same, by hand)
//!  --socket PATH ─▶ accept ─▶ serve one host at a time   (a process in a test)
//! ```
//!
//! One thread runs everything but file transfers. Small and quick to start:
//! under an emulated CPU every instruction on the way to the handshake counts.

mod agent;
mod apart;
mod console;
mod exec;
mod files;
mod machine;
mod newcomers;
mod os;
mod presence;
mod refusal;
mod requests;
mod session;
mod stream;
mod telemetry;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use agent::{Agent, Role};
use os::boot::Channel;
use os::{boot, lifecycle, memory, port, raw, service, vsock};
use session::{Transport, serve};

const USAGE: &str =
    "usage: inn-guest serve | --port DEVICE | --vsock PORT | --socket PATH | --version";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        let channel = boot::boot().unwrap_or_else(|error| lifecycle::fail(&error));
        let source = match channel {
            Channel::Port => port::open_by_name(inn_guest_proto::PORT_NAME).map(Source::Port),
            Channel::Vsock => vsock::listen(inn_guest_proto::VSOCK_PORT).map(Source::Vsock),
        };
        let served = source.and_then(|source| run(Role::Init, source));
        // It only returns when its channel fails: without it nobody can reach us.
        let source = served.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
        lifecycle::fail(&boot::BootError { step: "serve its host".into(), source });
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["serve"] => run(Role::Resident, Source::Any)
            .map_err(|error| format!("cannot serve its host: {error}")),
        ["--vsock", port] => port
            .parse()
            .map_err(io::Error::other)
            .and_then(vsock::listen)
            .and_then(|socket| run(Role::Resident, Source::Vsock(socket)))
            .map_err(|error| format!("cannot serve the vsock port {port}: {error}")),
        ["--port", node] => port::open(Path::new(node))
            .and_then(|port| run(Role::Resident, Source::Port(port)))
            .map_err(|error| format!("cannot serve {node}: {error}")),
        ["--socket", path] => run(Role::Bare, Source::Socket(path.into()))
            .map_err(|error| format!("cannot serve {path}: {error}")),
        ["--version"] => {
            println!("inn-guest {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            console::say(&text);
            ExitCode::FAILURE
        }
    }
}

enum Source {
    /// A virtio-serial port.
    Port(port::Stream),
    /// A listening vsock.
    Vsock(port::Stream),
    /// Either, as a service finds them.
    Any,
    /// A unix socket to be made.
    Socket(PathBuf),
}

fn run(role: Role, source: Source) -> io::Result<()> {
    memory::be_frugal();
    // Before any thread starts: the signal is blocked in all of them.
    let signals = raw::child_signals()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(MAX_TRANSFERS)
        .thread_stack_size(STACK)
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let agent = Agent::new(role);
        let reaping = tokio::task::spawn_local(Rc::clone(&agent.reaper).run(signals));
        // Whichever ends first ends the process, and with it the others.
        tokio::select! {
            reaped = reaping => reaped.map_err(io::Error::other)?,
            served = serve_source(&agent, source) => served,
            () = agent.wire.tidy.run() => Ok(()),
            () = agent.stop.notified() => Ok(()),
        }
    })
}

/// Transfers of files at once: each is a thread for as long as it takes.
const MAX_TRANSFERS: usize = 8;

/// Of each of those. Less than the usual 2 MiB, which a kernel that likes huge
/// pages makes resident with the first byte, and which glibc keeps for the next.
const STACK: usize = 512 * 1024;

async fn serve_source(agent: &Rc<Agent>, source: Source) -> io::Result<()> {
    match source {
        Source::Port(port) => serve(agent, port, Transport::Lasting).await,
        Source::Vsock(socket) => service::serve_vsock(agent, socket).await,
        Source::Any => service::run(agent).await,
        Source::Socket(path) => {
            let listener = tokio::net::UnixListener::bind(path)?;
            loop {
                let (connection, _) = listener.accept().await?;
                let connection = connection.into_std()?;
                if let Err(error) = serve(agent, connection.into(), Transport::Connection).await {
                    console::say(&format!("lost a host: {error}"));
                }
            }
        }
    }
}
