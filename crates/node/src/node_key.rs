//! The node's own key, by which others know what it has said: Ed25519, in the
//! data directory, made at the first start.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::reconcile::sync_parent;

pub(crate) struct NodeKey(Ed25519KeyPair);

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeKey({})", self.public_hex())
    }
}

impl NodeKey {
    /// Blocks.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let pkcs8 = match std::fs::read(path) {
            Ok(pkcs8) => pkcs8,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
            Err(error) => return Err(error),
        };
        let unreadable = |why| {
            let way_out = "move it away to have another made";
            io::Error::other(format!("it is no key of ours ({why}); {way_out}"))
        };
        // v2 without its public half is what others write.
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).map(Self).map_err(unreadable)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }

    pub(crate) fn public_hex(&self) -> String {
        hex(self.0.public_key().as_ref())
    }
}

/// Under its name only once it is whole.
fn make(path: &Path) -> io::Result<Vec<u8>> {
    let fresh = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|_| io::Error::other("there is no randomness for it"))?;
    let new = path.with_extension("key.new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(fresh.as_ref())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    sync_parent(path)?;
    Ok(fresh.as_ref().to_vec())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn it_is_made_once_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        let key = NodeKey::open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(NodeKey::open(&path).unwrap().public_hex(), key.public_hex());
        let public = UnparsedPublicKey::new(&ED25519, key.0.public_key().as_ref());
        let signature = key.sign(b"said");
        public.verify(b"said", &signature).unwrap();
        assert!(public.verify(b"else", &signature).is_err());
        std::fs::write(&path, b"no key").unwrap();
        assert!(NodeKey::open(&path).unwrap_err().to_string().contains("move it away"));
    }
}
