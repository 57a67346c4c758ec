//! Which uploads are at work here. One request at a time writes one of them,
//! and it is the latest: a client comes again because its former connection
//! broke off, of which the agent may not have heard yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use inn_units::VmId;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

type Key = (VmId, String, [u8; 8]);

#[derive(Debug, Default)]
pub(crate) struct Uploads {
    known: Mutex<HashMap<Key, Weak<Place>>>,
}

/// Of one upload.
#[derive(Debug)]
struct Place {
    /// Whoever has it writes.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The latest one's: those before it give up.
    latest: watch::Sender<CancellationToken>,
}

/// The right to write an upload, until a later request wants it.
#[derive(Debug)]
pub(super) struct Turn {
    _turn: OwnedMutexGuard<()>,
    _place: Arc<Place>,
    /// Told when it is to be given up.
    pub(super) over: CancellationToken,
}

impl Uploads {
    /// Waits until those before have given up. `None`: a later one came.
    pub(super) async fn take(&self, key: Key) -> Option<Turn> {
        let over = CancellationToken::new();
        let place = self.place(key);
        place.latest.send_replace(over.clone()).cancel();
        let turn = Arc::clone(&place.turn).lock_owned();
        let turn = over.run_until_cancelled(turn).await?;
        Some(Turn { _turn: turn, _place: place, over })
    }

    fn place(&self, key: Key) -> Arc<Place> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, place| place.strong_count() > 0);
        if let Some(place) = known.get(&key).and_then(Weak::upgrade) {
            return place;
        }
        let latest = watch::Sender::new(CancellationToken::new());
        let place = Arc::new(Place { turn: Arc::default(), latest });
        known.insert(key, Arc::downgrade(&place));
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Key {
        (VmId::from_bytes([0; VmId::BYTES]), path.to_owned(), [1; 8])
    }

    #[tokio::test]
    async fn the_latest_writes_once_those_before_have_given_up() {
        let uploads = Arc::new(Uploads::default());
        let first = uploads.take(key("/a")).await.unwrap();
        let other = uploads.take(key("/b")).await.unwrap();
        let next = |uploads: &Arc<Uploads>| {
            let uploads = Arc::clone(uploads);
            tokio::spawn(async move { uploads.take(key("/a")).await })
        };
        let second = next(&uploads);
        first.over.cancelled().await;
        assert!(!second.is_finished(), "the first has not let go");
        let third = next(&uploads);
        assert!(second.await.unwrap().is_none(), "the third came before its turn");
        drop(first);
        let third = third.await.unwrap().unwrap();
        assert!(!third.over.is_cancelled() && !other.over.is_cancelled());
        drop((third, other));
        drop(uploads.take(key("/c")).await);
        assert_eq!(uploads.known.lock().unwrap().len(), 1);
    }
}
