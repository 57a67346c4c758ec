use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use inn_guest_proto::wire::Hello;
use inn_guest_proto::{Guest, GuestEvent};
use inn_node::guest::GuestSession;

/// A guest that keeps the rules and answers pings, and the node's session
/// with it.
pub(crate) struct Neighbour {
    pub(crate) session: GuestSession,
}

impl Neighbour {
    pub(crate) async fn start() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // Ends with the session.
        std::thread::spawn(move || serve(theirs));
        ours.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(ours).unwrap();
        Self { session: GuestSession::establish(stream).await.unwrap() }
    }
}

fn serve(mut stream: UnixStream) {
    let mut guest = Guest::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => guest.input().extend_from_slice(&buffer[..count]),
        }
        while let Some(event) = guest.next_event() {
            if let GuestEvent::Opened(nonce) = event {
                guest.greet(&nonce, Hello::default()).unwrap();
            }
        }
        loop {
            let out = guest.output().to_vec();
            if out.is_empty() {
                break;
            }
            if stream.write_all(&out).is_err() {
                return;
            }
            guest.wrote(out.len());
        }
    }
}
