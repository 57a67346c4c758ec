use std::time::Duration;

use http::Method;
use inn_api::{Token, TokenCreate, TokenCreated, TokenList};

use crate::query::Target;
use crate::{Client, ClientError};

impl Client {
    pub async fn tokens(&self) -> Result<TokenList, ClientError> {
        self.get(&Target::api(&["tokens"])).await
    }

    /// Makes a token; the answer is the only one that ever holds it.
    pub async fn create_token(&self, create: &TokenCreate) -> Result<TokenCreated, ClientError> {
        self.call(Method::POST, &Target::api(&["tokens"]), Some(create), Duration::ZERO).await
    }

    /// By id or name. From the answer on it is good for nothing.
    pub async fn revoke_token(&self, token: &str) -> Result<Token, ClientError> {
        let target = Target::api(&["tokens", token]);
        self.call(Method::DELETE, &target, None::<&()>, Duration::ZERO).await
    }
}
