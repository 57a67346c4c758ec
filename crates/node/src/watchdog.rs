//! Signs of life for the init system, as proof and not as a timer's word.
//!
//! ```text
//!   every third of its interval:
//!     a task is run ▶ the store answers ▶ /health over our own socket ▶ WATCHDOG=1
//!           └──────────────┴───────────────────┴─ not in time: said in the log alone
//! ```
//! An agent that has said nothing for an interval is ended and started again
//! by the init system. VMs run on.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use inn_host::init_system::{InitSystem, Said};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::node::Node;

/// Of the interval: two tries may fail before the third is too late.
const TRIES: u32 = 3;

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const GOOD: &[u8] = b"HTTP/1.1 200";

/// Until it is dropped. Nothing where nobody wants signs of life.
pub(crate) async fn show_life(node: Arc<Node>, init: Arc<InitSystem>, socket: PathBuf) {
    let Some(interval) = init.watchdog() else { return };
    let every = interval / TRIES;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match timeout(every, prove(&node, &socket)).await {
            Ok(Ok(())) => {
                if let Err(error) = init.say(&[Said::Alive]) {
                    tracing::warn!(%error, "the init system is not told that the agent lives");
                }
            }
            Ok(Err(why)) => tracing::error!(why, "the agent is not as it should be"),
            Err(_) => tracing::error!(?every, "the agent does not answer itself in time"),
        }
    }
}

async fn prove(node: &Node, socket: &std::path::Path) -> Result<(), String> {
    // Another task than this one, whose turn comes only if the runtime's
    // workers are not all stuck.
    tokio::spawn(async {}).await.map_err(|error| format!("a task does not run: {error}"))?;
    node.store.node_value("id").await.map_err(|error| format!("the store: {error}"))?;
    ask(socket).await.map_err(|error| format!("{}: {error}", socket.display()))
}

async fn ask(socket: &std::path::Path) -> io::Result<()> {
    let mut stream = inn_host::socket::connect(socket).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = [0; GOOD.len()];
    stream.read_exact(&mut answer).await?;
    if answer == GOOD { Ok(()) } else { Err(io::Error::other("/health is not well")) }
}
