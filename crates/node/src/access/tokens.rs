//! Bearer tokens for the API over TCP. Only their SHA-256 is kept, but for the
//! first one, which lies in a file that only the agent's user can read.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use inn_domain::Scope;
use inn_fail_point::{Point, fail_point};
use inn_store::Store;
use inn_units::{Digest, TokenId};
use sha2::{Digest as _, Sha256};

use super::{Principal, Who};
use crate::error::AgentError;

/// 256 bits: nobody guesses that, so no attempt needs to be slowed down.
const BYTES: usize = 32;

#[derive(Debug)]
pub(crate) struct Tokens {
    good: Vec<Digest>,
}

impl Tokens {
    /// Makes the first token where there is none. A file that is gone is made
    /// anew, with a token of its own.
    pub(crate) async fn open(store: &Store, file: &Path) -> Result<Self, AgentError> {
        let mut good = store.tokens().await?;
        if good.is_empty() || !file.exists() {
            let token = make()?;
            good.push(digest(&token));
            // The digest first: a token that is on the disk is a good one.
            store.add_token(digest(&token), jiff::Timestamp::now()).await?;
            fail_point(Point::TokenStored);
            write(file, &token)?;
        }
        Ok(Self { good })
    }

    /// Whose token this is, found out in constant time: all are looked at.
    pub(crate) fn principal(&self, token: &str) -> Option<Principal> {
        let given = digest(token);
        let found = self.good.iter().fold(None, |found, good| {
            if same(good.as_bytes(), given.as_bytes()) { Some(good) } else { found }
        })?;
        let who = Who::Token { id: id_of(found), name: "first".into() };
        Some(Principal { who, scope: Some(Scope::Admin), vms: None })
    }
}

fn make() -> Result<String, AgentError> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| AgentError::Start {
        step: "make the first token",
        source: std::io::Error::other(error),
    })?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("inn_{hex}"))
}

fn write(path: &Path, token: &str) -> Result<(), AgentError> {
    let failed = AgentError::io("write the token", path);
    let fresh = path.with_extension("new");
    let written = (|| {
        // Never an old file with another mode.
        if let Err(error) = std::fs::remove_file(&fresh)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        writeln!(file, "{token}")?;
        file.sync_all()?;
        fail_point(Point::TokenWritten);
        std::fs::rename(&fresh, path)
    })();
    written.map_err(failed)
}

/// Eight of a digest's bytes name a token and give nothing of it away.
fn id_of(digest: &Digest) -> TokenId {
    let mut id = [0; TokenId::BYTES];
    id.copy_from_slice(&digest.as_bytes()[..TokenId::BYTES]);
    TokenId::from_bytes(id)
}

fn digest(token: &str) -> Digest {
    Digest::from_sha256(Sha256::digest(token).into())
}

/// Looks at all bytes, whatever they are.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn the_first_token_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let store = Store::open(dir.path()).unwrap();
        let tokens = Tokens::open(&store, &file).await.unwrap();
        let token = std::fs::read_to_string(&file).unwrap();
        assert!(tokens.principal(token.trim()).is_some());
        assert_eq!(tokens.principal(""), None);
        assert_eq!(tokens.principal(&token), None, "the newline is not part of it");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        let again = Tokens::open(&store, &file).await.unwrap();
        assert!(again.principal(token.trim()).is_some());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), token);

        std::fs::remove_file(&file).unwrap();
        let fresh = Tokens::open(&store, &file).await.unwrap();
        let other = std::fs::read_to_string(&file).unwrap();
        assert!(fresh.principal(other.trim()).is_some() && other != token);
    }
}
