use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use inn_api::{Code, Problem, Token, TokenCreate, TokenCreated, TokenList};
use inn_domain::Scope;
use inn_store::TokenRecord;

use super::ApiState;
use super::extract::{Body, Params};
use super::paging::{PageParams, page_of};
use super::problem::{Failed, find_vm};
use crate::access::{NewToken, TokenError};
use crate::events::{Event, EventKind};

/// All tokens, oldest first, without the tokens themselves. Those that are
/// revoked or expired are listed for 30 days.
#[utoipa::path(get, path = "/api/tokens", operation_id = "list_tokens", tag = "tokens", params(PageParams),
    responses((status = 200, body = TokenList)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Params(params): Params<PageParams>,
) -> Result<Json<TokenList>, Failed> {
    let all = state.node.tokens.all();
    let (page, next) = page_of(&params, all, |token| (token.created_at, token.id))?;
    Ok(Json(TokenList { items: page.into_iter().map(shown).collect(), next }))
}

/// Makes a token for the API over TCP. An `Idempotency-Key` counts for nothing
/// here: no answer with a token is remembered.
#[utoipa::path(post, path = "/api/tokens", operation_id = "create_token", tag = "tokens", request_body = TokenCreate, responses(
    (status = 201, body = TokenCreated),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "no such VM", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "the name is in use", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Body(create): Body<TokenCreate>,
) -> Result<Response, Failed> {
    let node = &state.node;
    let scope = of_wire(create.scope);
    let vms = match create.vms {
        None => None,
        Some(vms) if vms.is_empty() => {
            return Err(Failed::invalid("a token that is limited to no VM is of no use; name one"));
        }
        Some(_) if scope == Scope::Admin => {
            return Err(Failed::invalid(
                "a token that is limited to VMs has the scope read or operate; admin is about the \
                 whole node",
            ));
        }
        Some(vms) => {
            let ids = vms.iter().map(|vm| find_vm(&node.vms, vm).map(|vm| vm.id()));
            let mut ids = ids.collect::<Result<Vec<_>, _>>()?;
            ids.sort();
            ids.dedup();
            Some(ids)
        }
    };
    let ttl = create.ttl_seconds.map(Duration::from_secs);
    let new = NewToken { name: create.name, scope, vms, ttl };
    let (token, record) = node.tokens.create(new).await.map_err(failed)?;
    tracing::info!(token = %record.name, id = %record.id, scope = %record.scope, "made a token");
    let message = format!("token {} was made, with the scope {}", record.name, record.scope);
    node.events.tell(of_token(EventKind::TokenCreated, message, &record));
    let body = Json(TokenCreated { token, info: shown(record) });
    let no_store = HeaderValue::from_static("no-store");
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, no_store)], body).into_response())
}

/// Revokes a token, at once. Succeeds on one that is revoked.
#[utoipa::path(delete, path = "/api/tokens/{token}", tag = "tokens",
    params(("token" = String, Path, description = "Name or id")), responses(
        (status = 200, body = Token),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn revoke(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Token>, Failed> {
    let tokens = &state.node.tokens;
    let none = || {
        let shown: String = name.chars().take(80).collect();
        Failed::new(
            Code::NotFound,
            format!("there is no token {shown}; `inn token list` shows those there are"),
        )
    };
    let token = tokens.find(&name).ok_or_else(none)?;
    let revoked = tokens.revoke(token.id).await.map_err(|error| Failed::internal(&error))?;
    let revoked = revoked.ok_or_else(none)?;
    tracing::info!(token = %revoked.name, id = %revoked.id, "revoked a token");
    let message = format!("token {} was revoked", revoked.name);
    state.node.events.tell(of_token(EventKind::TokenRevoked, message, &revoked));
    Ok(Json(shown(revoked)))
}

fn of_token(kind: EventKind, message: String, token: &TokenRecord) -> Event {
    Event::new(kind, message).with("token", token.name.as_str()).with("id", token.id.to_string())
}

fn failed(error: TokenError) -> Failed {
    let code = match &error {
        TokenError::BadName | TokenError::BadTime => Code::InvalidRequest,
        TokenError::NameTaken(_) => Code::NameInUse,
        TokenError::TooMany => Code::LimitExceeded,
        TokenError::NoRandomness(_) | TokenError::Store(_) => return Failed::internal(&error),
    };
    Failed::new(code, error.to_string())
}

fn shown(record: TokenRecord) -> Token {
    Token {
        id: record.id,
        name: record.name,
        scope: match record.scope {
            Scope::Read => inn_api::Scope::Read,
            Scope::Operate => inn_api::Scope::Operate,
            Scope::Admin => inn_api::Scope::Admin,
        },
        vms: record.vms,
        created_at: record.created_at,
        expires_at: record.expires_at,
        last_used_at: record.used_at,
        revoked_at: record.revoked_at,
    }
}

fn of_wire(scope: inn_api::Scope) -> Scope {
    match scope {
        inn_api::Scope::Read => Scope::Read,
        inn_api::Scope::Operate => Scope::Operate,
        inn_api::Scope::Admin => Scope::Admin,
    }
}
