use inn_domain::Scope;
use inn_units::{Digest, TokenId, VmId};
use jiff::Timestamp;
use rusqlite::{Row, params};

use crate::Store;
use crate::error::StoreError;
use crate::records::Durability;

/// A bearer token, as far as anybody but its owner knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    pub id: TokenId,
    pub name: String,
    /// SHA-256.
    pub digest: Digest,
    pub scope: Scope,
    /// The VMs that it is limited to.
    pub vms: Option<Vec<VmId>>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// Roughly.
    pub used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

impl Store {
    /// All tokens, also those that are good no more, in the order of creation.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let rows: Vec<TokenRow> = self
            .call("read the tokens", Durability::Agent, |c| {
                c.prepare(
                    "SELECT id, name, digest, scope, vms, created_at, expires_at, used_at, \
                            revoked_at FROM tokens ORDER BY created_at, id",
                )?
                .query_map([], TokenRow::read)?
                .collect()
            })
            .await?;
        rows.into_iter().map(TokenRow::into_record).collect()
    }

    /// Durable once this returns: a token that somebody holds is a good one.
    pub async fn add_token(&self, token: TokenRecord) -> Result<(), StoreError> {
        let vms = token.vms.as_ref().map(|vms| {
            let ids: Vec<String> = vms.iter().map(|id| format!("\"{id}\"")).collect();
            format!("[{}]", ids.join(","))
        });
        self.call("add a token", Durability::Host, move |c| {
            c.execute(
                "INSERT OR IGNORE INTO tokens (id, name, digest, scope, vms, created_at, \
                   expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    token.id.to_string(),
                    token.name,
                    token.digest.to_string(),
                    token.scope.as_str(),
                    vms,
                    token.created_at.to_string(),
                    token.expires_at.map(|at| at.to_string()),
                ],
            )
        })
        .await?;
        Ok(())
    }

    /// Durable once this returns. One that is revoked stays as it was.
    pub async fn revoke_token(&self, id: TokenId, at: Timestamp) -> Result<(), StoreError> {
        self.call("revoke a token", Durability::Host, move |c| {
            c.execute(
                "UPDATE tokens SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL",
                params![id.to_string(), at.to_string()],
            )
        })
        .await?;
        Ok(())
    }

    pub async fn token_used(&self, id: TokenId, at: Timestamp) -> Result<(), StoreError> {
        self.call("note a token's use", Durability::Agent, move |c| {
            c.execute(
                "UPDATE tokens SET used_at = ?2 WHERE id = ?1",
                params![id.to_string(), at.to_string()],
            )
        })
        .await?;
        Ok(())
    }

    pub async fn forget_token(&self, id: TokenId) -> Result<(), StoreError> {
        self.call("forget a token", Durability::Agent, move |c| {
            c.execute("DELETE FROM tokens WHERE id = ?1", [id.to_string()])
        })
        .await?;
        Ok(())
    }
}

struct TokenRow {
    id: String,
    name: String,
    digest: String,
    scope: String,
    vms: Option<String>,
    created_at: String,
    expires_at: Option<String>,
    used_at: Option<String>,
    revoked_at: Option<String>,
}

impl TokenRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            name: row.get(1)?,
            digest: row.get(2)?,
            scope: row.get(3)?,
            vms: row.get(4)?,
            created_at: row.get(5)?,
            expires_at: row.get(6)?,
            used_at: row.get(7)?,
            revoked_at: row.get(8)?,
        })
    }

    fn into_record(self) -> Result<TokenRecord, StoreError> {
        let bad = |why: String| StoreError::Row { what: format!("the token {}", self.id), why };
        let time = |text: &String| text.parse::<Timestamp>().map_err(|e| bad(e.to_string()));
        let vms = self.vms.as_deref().map(serde_json::from_str::<Vec<VmId>>).transpose();
        Ok(TokenRecord {
            id: self.id.parse().map_err(|e: inn_units::ParseError| bad(e.to_string()))?,
            digest: self.digest.parse().map_err(|e: inn_units::ParseError| bad(e.to_string()))?,
            scope: self.scope.parse().map_err(|e: inn_domain::UnknownScope| bad(e.to_string()))?,
            vms: vms.map_err(|e| bad(e.to_string()))?,
            created_at: time(&self.created_at)?,
            expires_at: self.expires_at.as_ref().map(time).transpose()?,
            used_at: self.used_at.as_ref().map(time).transpose()?,
            revoked_at: self.revoked_at.as_ref().map(time).transpose()?,
            name: self.name.clone(),
        })
    }
}

#[cfg(test)]
pub(crate) fn token(n: u8) -> TokenRecord {
    let digest = [n; 32];
    TokenRecord {
        id: TokenId::from_bytes([n; 8]),
        name: format!("first-{n:02x}{n:02x}{n:02x}"),
        digest: Digest::from_sha256(digest),
        scope: Scope::Admin,
        vms: None,
        created_at: Timestamp::UNIX_EPOCH + std::time::Duration::from_secs(1),
        expires_at: None,
        used_at: None,
        revoked_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tokens_are_kept_with_all_that_is_said_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let at = |n| Timestamp::from_second(n).unwrap();
        let mut limited = TokenRecord {
            name: "ci".into(),
            scope: Scope::Operate,
            vms: Some(vec![VmId::from_bytes([1; 5]), VmId::from_bytes([2; 5])]),
            created_at: at(2),
            expires_at: Some(at(100)),
            ..token(4)
        };
        store.add_token(token(3)).await.unwrap();
        store.add_token(limited.clone()).await.unwrap();
        assert_eq!(store.tokens().await.unwrap(), [token(3), limited.clone()]);
        store.token_used(limited.id, at(50)).await.unwrap();
        store.revoke_token(limited.id, at(60)).await.unwrap();
        store.revoke_token(limited.id, at(70)).await.unwrap();
        limited.used_at = Some(at(50));
        limited.revoked_at = Some(at(60));
        let again = Store::open(dir.path()).unwrap();
        assert_eq!(again.tokens().await.unwrap(), [token(3), limited.clone()]);
        store.forget_token(limited.id).await.unwrap();
        assert_eq!(store.tokens().await.unwrap(), [token(3)]);
    }
}
