//! The token that a request shows.
//!
//! A browser cannot send a header of its choice with a WebSocket. It sends the
//! token as one of the subprotocols that it offers, as Kubernetes' API server
//! takes it: `base64url.bearer.authorization.k8s.io.` and the token in base64url
//! without padding (k8s.io/apiserver, pkg/authentication/request/websocket).
//! That one is taken out of the request and never selected, so that nothing
//! further in sees or answers it.

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use inn_api::exec::BEARER_PROTOCOL as SUBPROTOCOL;

/// The token, if there is one; one that cannot be read is the empty text, which
/// is nobody's.
pub(super) fn take(headers: &mut HeaderMap) -> Option<String> {
    let offered = take_offered(headers);
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned());
    shown.or(offered)
}

/// Takes the token out of the subprotocols that a WebSocket is offered.
fn take_offered(headers: &mut HeaderMap) -> Option<String> {
    if !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return None;
    }
    let name = header::SEC_WEBSOCKET_PROTOCOL;
    let all: Vec<String> = headers
        .get_all(&name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|protocol| protocol.trim().to_owned())
        .collect();
    let (tokens, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|protocol| protocol.starts_with(SUBPROTOCOL));
    if tokens.is_empty() {
        return None;
    }
    headers.remove(&name);
    if !others.is_empty()
        && let Ok(value) = HeaderValue::try_from(others.join(", "))
    {
        headers.insert(name, value);
    }
    let token = match &tokens[..] {
        [only] => only.strip_prefix(SUBPROTOCOL).and_then(decode),
        // Of two, which?
        _ => None,
    };
    Some(token.unwrap_or_default())
}

/// base64url without padding (RFC 4648, 5), of text.
fn decode(text: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_websocket_s_token_is_read_and_taken_out() {
        let key = ("sec-websocket-key", "x");
        let offer = format!("v5.channel.k8s.io, {SUBPROTOCOL}aW5uX2Fi, v4.channel.k8s.io");
        let mut websocket = headers(&[key, ("sec-websocket-protocol", &offer)]);
        assert_eq!(take(&mut websocket).as_deref(), Some("inn_ab"));
        assert_eq!(websocket["sec-websocket-protocol"], "v5.channel.k8s.io, v4.channel.k8s.io");
        assert_eq!(take(&mut websocket), None);

        let mut no_websocket = headers(&[("sec-websocket-protocol", &offer)]);
        assert_eq!(take(&mut no_websocket), None);
        let mut both =
            headers(&[key, ("authorization", "Bearer x"), ("sec-websocket-protocol", &offer)]);
        assert_eq!(take(&mut both).as_deref(), Some("x"));
        assert_eq!(both["sec-websocket-protocol"], "v5.channel.k8s.io, v4.channel.k8s.io");
        let alone = format!("{SUBPROTOCOL}aW5uX2Fi");
        let mut alone = headers(&[key, ("sec-websocket-protocol", &alone)]);
        assert_eq!(take(&mut alone).as_deref(), Some("inn_ab"));
        assert!(!alone.contains_key("sec-websocket-protocol"));
        for bad in ["", "====", "a", "aW5uX2Fi=", "_w", "a b"] {
            let offer = format!("{SUBPROTOCOL}{bad}");
            let mut bad = headers(&[key, ("sec-websocket-protocol", &offer)]);
            assert_eq!(take(&mut bad).as_deref(), Some(""), "{offer}");
        }
        let two = format!("{SUBPROTOCOL}aW5uX2Fi,{SUBPROTOCOL}aW5uX2Fi");
        assert_eq!(
            take(&mut headers(&[key, ("sec-websocket-protocol", &two)])).as_deref(),
            Some("")
        );
    }
}
