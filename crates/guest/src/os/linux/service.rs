//! `inn-guest serve`: the agent as a service of a full VM.
//!
//! ```text
//!            ┌────────────── the port has gone, or failed ──────────────┐
//!            ▼                                                          │
//!   start ─▶ waiting ── port innkeeper.agent.0, or a vsock ──▶ serving ─┘
//!                                    │
//!      SIGTERM, at any time ─────────┴──▶ thaw, network back ─▶ SIGTERM to the execs ─▶ end
//! ```
//!
//! The service's end is its execs' end: what is known of them goes with this
//! process, so that nobody could attach to what would be left. systemd kills
//! whatever of them outlives the grace (`KillMode=mixed` in the unit). What is
//! to stay up belongs to the guest's own init: `systemd-run`, a unit.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use inn_guest_proto::{MAX_FRAME, PORT_NAME, VSOCK_PORT};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::port::Stream;
use super::vsock::Listener;
use super::{init_system, port, process, vsock};
use crate::agent::Agent;
use crate::console;
use crate::machine;
use crate::session::{Transport, serve};

/// Between two looks for a channel at first: udev has just been started.
const LOOK_SOON: Duration = Duration::from_millis(100);

/// And later: a VM without a channel is nobody's of ours, and a look is three
/// system calls.
const LOOK_LATER: Duration = Duration::from_secs(2);

/// After a channel has failed, so that one which always fails costs nothing.
const AGAIN: Duration = Duration::from_secs(1);

/// For the execs to end after SIGTERM. Less than the unit's `TimeoutStopSec`.
const GRACE: Duration = Duration::from_secs(5);

/// For a network setup that nobody confirmed. With the grace of the execs it
/// is still less than the unit's `TimeoutStopSec`.
const TAKING_BACK: Duration = Duration::from_secs(3);

/// SIGTERM's number: signal(7).
const TERM: i32 = 15;

enum Channel {
    Port(PathBuf),
    Vsock,
}

/// Serves whatever leads to a host, until SIGTERM.
pub(crate) async fn run(agent: &Rc<Agent>) -> io::Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    console::prefix_priorities();
    process::spare_only_us();
    // Ready is who can be stopped and logs: a host may never come.
    init_system::tell("READY=1\nSTATUS=Waiting for the host's channel");
    tokio::select! {
        never = keep_serving(agent) => match never {},
        // A session is cut off: the host finds the next agent.
        _ = stop.recv() => {}
    }
    init_system::tell("STOPPING=1");
    agent.freezer.thaw();
    machine::leave(agent, TAKING_BACK).await;
    agent.execs.close();
    for exec in agent.execs.list().execs.iter().filter(|exec| exec.ended.is_none()) {
        // It has just ended.
        let _nobody = agent.execs.signal(&exec.id, TERM);
    }
    if timeout(GRACE, agent.reaper.childless()).await.is_err() {
        console::say("some execs are still there; they end with the service");
    }
    Ok(())
}

async fn keep_serving(agent: &Rc<Agent>) -> Infallible {
    loop {
        let served = match find_channel().await {
            Channel::Port(node) => {
                let text = format!("serving {}", node.display());
                init_system::tell(&format!("STATUS={text}"));
                console::note(&text);
                match port::open(&node) {
                    Ok(port) => {
                        disown(&port);
                        serve(agent, port, Transport::Lasting).await
                    }
                    Err(error) => Err(error),
                }
            }
            Channel::Vsock => {
                let text = format!("serving the vsock port {VSOCK_PORT}");
                init_system::tell(&format!("STATUS={text}"));
                console::note(&text);
                match vsock::listen(VSOCK_PORT) {
                    Ok(socket) => serve_vsock(agent, socket).await,
                    Err(error) => Err(error),
                }
            }
        };
        if let Err(error) = served {
            console::say(&format!("lost its channel: {error}"));
        }
        sleep(AGAIN).await;
    }
}

/// A port does not tell the host that the agent before us has died: it would
/// wait for an answer until its patience ends. What no session can go on after
/// tells it at once, and one that is just opening passes over it: a frame's
/// rest, whatever was half sent, and then a length that is none.
fn disown(port: &Stream) {
    let noise = [0xff; 4096];
    let mut left = MAX_FRAME + noise.len();
    while left > 0 {
        // No host, or one that takes nothing now: it has to find out by itself.
        let Ok(written) = rustix::io::write(port, &noise[..left.min(noise.len())]) else { return };
        left -= written;
    }
}

/// Nothing tells of a device but udev, which a guest need not have.
async fn find_channel() -> Channel {
    let mut pause = LOOK_SOON;
    loop {
        if let Some(node) = port::find(PORT_NAME) {
            return Channel::Port(node);
        }
        if vsock::is_there() {
            return Channel::Vsock;
        }
        sleep(pause).await;
        pause = (pause + pause / 8).min(LOOK_LATER);
    }
}

/// Serves one connection at a time, the latest: what is between us and the
/// host may not tell when the host dies, and a host that comes anew has lost
/// its old connection.
pub(crate) async fn serve_vsock(agent: &Rc<Agent>, socket: Stream) -> io::Result<()> {
    let listener = Listener::new(socket)?;
    let mut connection = listener.accept().await?;
    loop {
        connection = tokio::select! {
            served = serve(agent, connection, Transport::Connection) => {
                if let Err(error) = served {
                    console::say(&format!("lost a host: {error}"));
                }
                listener.accept().await?
            }
            // The older session's streams are detached as the next begins.
            newer = listener.accept() => newer?,
        };
    }
}
