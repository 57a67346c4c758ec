//! `inn vm vnc`: a VM's screen at a TCP address of this host.
//!
//! ```text
//!   VNC viewer ──TCP──▶ this program ──WebSocket──▶ agent ──▶ the machine's VNC server
//! ```
//! Each viewer has a connection of its own all the way. This program neither
//! reads nor writes a byte of them.

use std::net::SocketAddr;

use bytes::Bytes;
use inn_client::{Client, ConsoleReceiver, ConsoleSender};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::args::VncArgs;
use crate::context::{Context, complain};
use crate::failure::Failure;
use crate::signals::Interrupts;

/// What is read from a viewer at once: keys and pointers.
const CHUNK: usize = 16 << 10;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listening {
    listen: SocketAddr,
    password: String,
}

pub(crate) async fn vnc(context: &Context, args: &VncArgs) -> Result<u8, Failure> {
    let vm = args.vm.name();
    let client = context.client().await?;
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|e| Failure::because(format!("cannot listen at {}", args.listen), &e))?;
    let listen =
        listener.local_addr().map_err(|e| Failure::because("cannot tell where it listens", &e))?;
    let mut interrupts = Interrupts::listen()?;
    let password = client.set_vnc_password(vm).await?.password;
    let shown = Listening { listen, password };
    context.result(&shown, || format!("{} password {}\n", shown.listen, shown.password))?;
    if !listen.ip().is_loopback() {
        context
            .note("VNC is not encrypted: whoever is in between sees the screen and what is typed");
    }
    context.note(&format!("the screen of {vm} is at {listen}; Ctrl-C ends this"));
    loop {
        tokio::select! {
            // Cancel safe: a connection is taken whole or not at all.
            accepted = listener.accept() => match accepted {
                Ok((viewer, from)) => {
                    let (client, vm) = (client.clone(), vm.to_owned());
                    tokio::spawn(async move {
                        if let Err(failure) = pass_on(&client, &vm, viewer).await {
                            complain(&format!("{from}: {}", failure.sentence()));
                        }
                    });
                }
                Err(error) => return Err(Failure::because("cannot take connections", &error)),
            },
            // Cancel safe: a signal that came stays to be seen.
            interrupt = interrupts.next() => return Ok(interrupt.exit_code()),
        }
    }
}

/// Until either end closes.
async fn pass_on(client: &Client, vm: &str, viewer: TcpStream) -> Result<(), Failure> {
    let (sender, receiver) = client.vnc(vm).await?;
    // Keys are felt.
    let _ = viewer.set_nodelay(true);
    let (read, write) = viewer.into_split();
    tokio::select! {
        // What either has in hand when the other ends has nowhere to go.
        done = to_viewer(receiver, write) => done,
        done = to_screen(read, sender) => done,
    }
}

async fn to_viewer(mut screen: ConsoleReceiver, mut viewer: OwnedWriteHalf) -> Result<(), Failure> {
    while let Some(data) = screen.next().await? {
        if viewer.write_all(&data).await.is_err() {
            // It has gone.
            break;
        }
    }
    Ok(())
}

async fn to_screen(mut viewer: OwnedReadHalf, mut screen: ConsoleSender) -> Result<(), Failure> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match viewer.read(&mut chunk).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(n) => screen.send(Bytes::copy_from_slice(&chunk[..n])).await?,
        }
    }
}
