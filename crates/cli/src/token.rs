//! `inn token`: who may use the API over TCP.

use inn_client::api::{Scope, Token, TokenCreate};
use jiff::Timestamp;

use crate::args::{ScopeArg, TokenCommand, TokenCreateArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::table::Table;
use crate::view::age;

pub(crate) async fn token(context: &Context, command: &TokenCommand) -> Result<u8, Failure> {
    match command {
        TokenCommand::Create(args) => create(context, args).await,
        TokenCommand::List => list(context).await,
        TokenCommand::Revoke { tokens } => revoke(context, tokens).await,
    }
}

async fn create(context: &Context, args: &TokenCreateArgs) -> Result<u8, Failure> {
    let request = TokenCreate {
        name: args.name.clone(),
        scope: match args.scope {
            ScopeArg::Read => Scope::Read,
            ScopeArg::Operate => Scope::Operate,
            ScopeArg::Admin => Scope::Admin,
        },
        vms: (!args.vms.is_empty()).then(|| args.vms.clone()),
        // A part of a second would be none at all.
        ttl_seconds: args.ttl.map(|ttl| ttl.as_secs().max(u64::from(!ttl.is_zero()))),
    };
    let created = context.client().await?.create_token(&request).await?;
    context.result(&created, || {
        // The token alone on the last line: scripts take that.
        if context.globals.quiet {
            return format!("{}\n", created.token);
        }
        let info = &created.info;
        let until = info.expires_at.map(|at| format!(", until {at}")).unwrap_or_default();
        format!("{} ({}): {}{until}\n{}\n", info.name, info.id, power(info), created.token)
    })?;
    Ok(0)
}

async fn list(context: &Context) -> Result<u8, Failure> {
    let tokens = context.client().await?.tokens().await?.items;
    context.result(&tokens, || table(&tokens, Timestamp::now()))?;
    Ok(0)
}

fn table(tokens: &[Token], now: Timestamp) -> String {
    let mut table = Table::new(["ID", "NAME", "SCOPE", "STATUS", "CREATED", "LAST USED"]);
    for token in tokens {
        let ago = |at| format!("{} ago", age(at, now));
        table.push([
            token.id.to_string(),
            token.name.clone(),
            power(token),
            status(token, now),
            ago(token.created_at),
            token.last_used_at.map_or_else(|| "never".to_owned(), ago),
        ]);
    }
    table.render()
}

/// `operate`, or `operate on 1 VM`.
fn power(token: &Token) -> String {
    let scope = match token.scope {
        Scope::Read => "read",
        Scope::Operate => "operate",
        Scope::Admin => "admin",
    };
    match token.vms.as_ref().map(Vec::len) {
        None => scope.to_owned(),
        Some(1) => format!("{scope} on 1 VM"),
        Some(n) => format!("{scope} on {n} VMs"),
    }
}

fn status(token: &Token, now: Timestamp) -> String {
    match (token.revoked_at, token.expires_at) {
        (Some(_), _) => "revoked".to_owned(),
        (None, Some(end)) if end <= now => "expired".to_owned(),
        (None, Some(end)) => format!("good for {}", age(now, end)),
        (None, None) => "good".to_owned(),
    }
}

async fn revoke(context: &Context, tokens: &[String]) -> Result<u8, Failure> {
    let client = context.client().await?;
    let (mut revoked, mut failed) = (Vec::new(), None);
    for token in tokens {
        match client.revoke_token(token).await {
            Ok(token) => revoked.push(token),
            // The others are not spared by it; what was first is said.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    context.result(&revoked, || {
        revoked.iter().map(|token| format!("{} ({}) is revoked\n", token.name, token.id)).collect()
    })?;
    failed.map_or(Ok(0), |error| Err(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use inn_client::api;

    #[test]
    fn the_table_says_what_each_is_good_for() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let token = Token {
            id: "0102030405060708".parse().unwrap(),
            name: "ci".into(),
            scope: api::Scope::Operate,
            vms: Some(vec!["0102030405".parse().unwrap()]),
            created_at: at(0),
            expires_at: Some(at(90_000)),
            last_used_at: Some(at(3_000)),
            revoked_at: None,
        };
        let row = table(std::slice::from_ref(&token), at(3_600));
        let row = row.lines().nth(1).unwrap();
        for part in
            ["0102030405060708", "ci", "operate on 1 VM", "good for 1d", "1h ago", "10m ago"]
        {
            assert!(row.contains(part), "{part}: {row}");
        }
        assert_eq!(status(&token, at(90_000)), "expired");
        let revoked = Token { revoked_at: Some(at(1)), ..token };
        assert_eq!(status(&revoked, at(2)), "revoked");
    }
}
