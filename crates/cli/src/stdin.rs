use std::io::Read;

use bytes::Bytes;
use tokio::sync::mpsc;

/// Reads ahead of what has been sent: two chunks keep both ends busy.
const DEPTH: usize = 2;
/// Well below the largest message that the agent takes.
const CHUNK: usize = 32 << 10;

/// Our stdin, chunk by chunk; the channel ends with it. The reading thread is
/// never waited for: a read from a terminal cannot be called back, and ends
/// with the process.
pub(crate) fn read() -> mpsc::Receiver<Bytes> {
    let (send, receive) = mpsc::channel(DEPTH);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut chunk = vec![0; CHUNK];
        loop {
            match stdin.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => {
                    if send.blocking_send(Bytes::copy_from_slice(&chunk[..n])).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // A terminal that has hung up reads as an error: the end as well.
                Err(_) => return,
            }
        }
    });
    receive
}
