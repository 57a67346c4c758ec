//! Bearer tokens for the API over TCP.
//!
//! ```text
//!   create ─▶ good ──revoke──▶ revoked ──┐ 30 days on
//!               └── its time is over ──▶ expired ──┴─▶ forgotten
//! ```
//! Only their SHA-256 is kept, but for the first one, which lies in a file
//! that only the agent's user can read. The database is written first and
//! memory after it: what holds here holds for the next life, too.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use inn_domain::Scope;
use inn_fail_point::{Point, fail_point};
use inn_store::{Store, StoreError, TokenRecord};
use inn_units::{Digest, TokenId, VmId};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Principal, Who};
use crate::error::{AgentError, Chain};

/// 256 bits: nobody guesses that.
const BYTES: usize = 32;

/// `inn_` and two hexadecimal digits for each byte: all that is worth a hash.
const TEXT: usize = 4 + 2 * BYTES;

/// Tokens that are known at a time. All of them are compared with whatever
/// anybody sends: a thousand comparisons take 20 µs.
const MOST: usize = 1_000;

/// How long one that is good no more is listed.
const LISTED: Duration = Duration::from_secs(30 * 24 * 3600);

/// How exactly its last use is known: a write each time would be one for every
/// request.
const USE_RESOLUTION: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Tokens {
    store: Store,
    known: RwLock<Vec<Arc<Known>>>,
    /// Held over a change's write, so that no two take one name.
    changes: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    /// Without its last use.
    record: TokenRecord,
    /// Seconds since 1970; 0 never.
    used_at: AtomicI64,
    principal: Principal,
    /// Cancelled once it is revoked.
    end: CancellationToken,
}

/// The end of a token, which may never come.
#[derive(Debug, Clone)]
pub(crate) struct TokenEnd {
    revoked: CancellationToken,
    expires_at: Option<Timestamp>,
}

impl TokenEnd {
    /// Waits for it.
    pub(crate) async fn over(self) {
        /// The clock may be set meanwhile.
        const LOOK_AGAIN: Duration = Duration::from_secs(60);
        let Some(expires_at) = self.expires_at else { return self.revoked.cancelled().await };
        loop {
            let left = expires_at.duration_since(Timestamp::now());
            let Ok(left) = Duration::try_from(left) else { return };
            if left.is_zero() {
                return;
            }
            // Cancel safe: it is waited for anew.
            if tokio::time::timeout(left.min(LOOK_AGAIN), self.revoked.cancelled()).await.is_ok() {
                return;
            }
        }
    }
}

/// What a new token is to be.
#[derive(Debug)]
pub(crate) struct NewToken {
    pub(crate) name: Option<String>,
    pub(crate) scope: Scope,
    pub(crate) vms: Option<Vec<VmId>>,
    pub(crate) ttl: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("a token's name has 1 to 64 letters, digits, dots, dashes and underscores")]
    BadName,
    #[error("a token named {0} is there; revoke it first or choose another name")]
    NameTaken(String),
    #[error("there are {MOST} tokens; revoke some that are not needed")]
    TooMany,
    #[error("a token lasts from a second to a hundred years")]
    BadTime,
    #[error("there is no randomness to make a token of: {0}")]
    NoRandomness(getrandom::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Tokens {
    /// Makes the first token where there is none. A file that is gone is made
    /// anew, with a token of its own.
    pub(crate) async fn open(store: &Store, file: &Path) -> Result<Self, AgentError> {
        let now = Timestamp::now();
        let mut known = Vec::new();
        for record in store.tokens().await? {
            if is_stale(&record, now) {
                store.forget_token(record.id).await?;
            } else {
                known.push(Arc::new(Known::new(record)));
            }
        }
        let tokens =
            Self { store: store.clone(), known: RwLock::new(known), changes: Default::default() };
        if tokens.read().is_empty() || !file.exists() {
            tokens.make_first(file, now).await?;
        }
        Ok(tokens)
    }

    /// The file is written beside its place, then the digest is stored, then
    /// the file is put there: one that is in its place holds a good token, and
    /// an agent that dies or fails in between leaves no digest that nobody has
    /// the token of.
    async fn make_first(&self, file: &Path, now: Timestamp) -> Result<(), AgentError> {
        let fresh = file.with_extension("new");
        let in_place = || std::fs::rename(&fresh, file).map_err(AgentError::io("write", file));
        let left = std::fs::read_to_string(&fresh).unwrap_or_default();
        let left = self.read().iter().any(|known| {
            let record = &known.record;
            is_good(record, now) && record.digest == digest(left.trim_end())
        });
        if left {
            return in_place();
        }
        let new = NewToken { name: None, scope: Scope::Admin, vms: None, ttl: None };
        let failed = |error| match error {
            TokenError::Store(error) => error.into(),
            error => AgentError::Start {
                step: "make the first token",
                source: std::io::Error::other(error),
            },
        };
        let (token, record) = self.draft("first", new, now).await.map_err(failed)?;
        write(&fresh, &token)?;
        self.add(record).await.map_err(failed)?;
        fail_point(Point::TokenStored);
        in_place()
    }

    /// Whose token this is, and when it will not be theirs any more. Found out in constant
    /// time: all are looked at.
    pub(crate) fn principal(&self, token: &str, now: Timestamp) -> Option<(Principal, TokenEnd)> {
        if token.len() != TEXT {
            return None;
        }
        let given = digest(token);
        let known = self.read();
        let found = known.iter().fold(None, |found, known| {
            let good = known.record.digest.as_bytes();
            if same(good, given.as_bytes()) { Some(known) } else { found }
        })?;
        if !is_good(&found.record, now) || found.end.is_cancelled() {
            return None;
        }
        self.note_use(found, now);
        let end = TokenEnd { revoked: found.end.clone(), expires_at: found.record.expires_at };
        Some((found.principal.clone(), end))
    }

    /// All that are remembered, oldest first.
    pub(crate) fn all(&self) -> Vec<TokenRecord> {
        self.read().iter().map(|known| known.record_now()).collect()
    }

    /// By id or by name; of several that had the name, the one that is good.
    pub(crate) fn find(&self, name_or_id: &str) -> Option<TokenRecord> {
        let known = self.read();
        let by_id = known.iter().find(|known| known.record.id.to_string() == name_or_id);
        let mut of_name = known.iter().rev().filter(|known| known.record.name == name_or_id);
        let newest = of_name.clone().next();
        let good = of_name.find(|known| !known.end.is_cancelled());
        by_id.or(good).or(newest).map(|known| known.record_now())
    }

    /// The token, which is told this once, and what is remembered of it.
    pub(crate) async fn create(&self, new: NewToken) -> Result<(String, TokenRecord), TokenError> {
        let _alone = self.changes.lock().await;
        let (token, record) = self.draft("token", new, Timestamp::now()).await?;
        self.add(record.clone()).await?;
        Ok((token, record))
    }

    /// A token that is to be, and there is room for.
    async fn draft(
        &self,
        stem: &str,
        new: NewToken,
        now: Timestamp,
    ) -> Result<(String, TokenRecord), TokenError> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(TokenError::NoRandomness)?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let token = format!("inn_{hex}");
        let id = id_of(&digest(&token));
        let name = match new.name {
            Some(name) if is_name(&name) => name,
            Some(_) => return Err(TokenError::BadName),
            None => format!("{stem}-{}", &id.to_string()[..6]),
        };
        self.admit(&name, now).await?;
        let record = TokenRecord {
            id,
            name,
            digest: digest(&token),
            scope: new.scope,
            vms: new.vms,
            created_at: now,
            expires_at: new.ttl.map(|ttl| end(now, ttl)).transpose()?,
            used_at: None,
            revoked_at: None,
        };
        Ok((token, record))
    }

    async fn add(&self, record: TokenRecord) -> Result<(), TokenError> {
        self.store.add_token(record.clone()).await?;
        fail_point(Point::TokenAdded);
        self.write().push(Arc::new(Known::new(record)));
        Ok(())
    }

    /// Makes room of what is remembered for no good reason.
    async fn admit(&self, name: &str, now: Timestamp) -> Result<(), TokenError> {
        let (mut taken, mut stale) = (false, Vec::new());
        for known in self.read().iter() {
            let record = known.record_now();
            taken |= record.name == name && is_good(&record, now);
            if is_stale(&record, now) {
                stale.push(record.id);
            }
        }
        if taken {
            return Err(TokenError::NameTaken(name.to_owned()));
        }
        for id in &stale {
            self.store.forget_token(*id).await?;
        }
        self.write().retain(|known| !stale.contains(&known.record.id));
        if self.read().len() < MOST { Ok(()) } else { Err(TokenError::TooMany) }
    }

    /// From the moment this returns on, it is good for nothing. One that is
    /// revoked stays so.
    pub(crate) async fn revoke(&self, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let _alone = self.changes.lock().await;
        let now = Timestamp::now();
        self.store.revoke_token(id, now).await?;
        fail_point(Point::TokenRevoked);
        let mut known = self.write();
        let Some(place) = known.iter_mut().find(|known| known.record.id == id) else {
            return Ok(None);
        };
        let mut record = place.record_now();
        record.revoked_at.get_or_insert(now);
        place.end.cancel();
        *place = Arc::new(Known::new(record.clone()));
        Ok(Some(record))
    }

    fn note_use(&self, known: &Known, now: Timestamp) {
        let (now_s, before) = (now.as_second(), known.used_at.load(Ordering::Relaxed));
        let resolution = i64::try_from(USE_RESOLUTION.as_secs()).unwrap_or(i64::MAX);
        if now_s.abs_diff(before) < resolution.unsigned_abs() {
            return;
        }
        // Whoever of several gets here first writes it down.
        let swap =
            known.used_at.compare_exchange(before, now_s, Ordering::Relaxed, Ordering::Relaxed);
        if swap.is_err() {
            return;
        }
        let (store, id) = (self.store.clone(), known.record.id);
        tokio::spawn(async move {
            if let Err(error) = store.token_used(id, now).await {
                tracing::warn!(token = %id, error = %Chain(&error), "its use is not noted");
            }
        });
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Known>>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<Known>>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn new(record: TokenRecord) -> Self {
        let who = Who::Token { id: record.id, name: record.name.as_str().into() };
        let vms = record.vms.as_ref().map(|vms| Arc::new(vms.iter().copied().collect()));
        let end = CancellationToken::new();
        if record.revoked_at.is_some() {
            end.cancel();
        }
        Self {
            principal: Principal { who, scope: Some(record.scope), vms },
            used_at: AtomicI64::new(record.used_at.map_or(0, Timestamp::as_second)),
            record,
            end,
        }
    }

    fn record_now(&self) -> TokenRecord {
        let used_at = match self.used_at.load(Ordering::Relaxed) {
            0 => None,
            seconds => Timestamp::from_second(seconds).ok(),
        };
        TokenRecord { used_at, ..self.record.clone() }
    }
}

fn is_good(record: &TokenRecord, now: Timestamp) -> bool {
    record.revoked_at.is_none() && record.expires_at.is_none_or(|end| end > now)
}

fn is_stale(record: &TokenRecord, now: Timestamp) -> bool {
    let ended = [record.revoked_at, record.expires_at].into_iter().flatten().min();
    ended.is_some_and(|at| now.duration_since(at) > LISTED.try_into().unwrap_or_default())
}

/// A century is enough, and jiff's times end in the year 9999.
fn end(now: Timestamp, ttl: Duration) -> Result<Timestamp, TokenError> {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    if ttl < Duration::from_secs(1) || ttl > CENTURY {
        return Err(TokenError::BadTime);
    }
    now.checked_add(ttl).map_err(|_| TokenError::BadTime)
}

fn is_name(name: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

fn write(path: &Path, token: &str) -> Result<(), AgentError> {
    let written = (|| {
        // Never an old file with another mode.
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{token}")?;
        file.sync_all()
    })();
    written.map_err(AgentError::io("write the token", path))?;
    fail_point(Point::TokenWritten);
    Ok(())
}

/// What a client's certificate is called.
pub(crate) fn id_of_certificate(der: &[u8]) -> TokenId {
    id_of(&Digest::from_sha256(Sha256::digest(der).into()))
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
#[path = "tokens_tests.rs"]
mod tests;
