use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inn_units::Digest;

use crate::error::ImageError;
use crate::watch::ImportWatch;

/// How often an import that waits for another one looks whether it was
/// cancelled.
const LOOK: Duration = Duration::from_millis(100);

/// Which images are being imported right now, with their blobs. The second
/// import of an image waits for the first, and nothing claimed is swept.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    held: Mutex<BTreeMap<Digest, Vec<Digest>>>,
    freed: Condvar,
}

pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    manifest: Digest,
}

impl Claims {
    pub(crate) fn claim(
        &self,
        manifest: Digest,
        blobs: &[Digest],
        watch: &dyn ImportWatch,
    ) -> Result<Claim<'_>, ImageError> {
        let mut held = self.lock();
        while held.contains_key(&manifest) {
            if watch.cancelled() {
                return Err(ImageError::Cancelled);
            }
            let waited = self.freed.wait_timeout(held, LOOK);
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        held.insert(manifest, blobs.to_vec());
        Ok(Claim { claims: self, manifest })
    }

    /// While the guard lives, no import begins or ends.
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Vec<Digest>>> {
        // A panic elsewhere leaves the map whole: each change is one call.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.manifest);
        self.claims.freed.notify_all();
    }
}
