//! The Swagger UI, which shows the API and asks it with whatever token somebody
//! gives it: so nothing but what we serve may run in it.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{ApiState, openapi};

/// The description that it loads.
const DESCRIPTION: &str = "/api/openapi.json";

/// Its scripts are files, its styles are set by them, its icons are data: URLs.
/// The API alone is asked, and no other page shows it in a frame of its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

pub(super) fn ui() -> Router<ApiState> {
    // Without it the UI has a server of its makers look at the description.
    let config = Config::from(DESCRIPTION).validator_url("none");
    let ui = SwaggerUi::new("/swagger").url(DESCRIPTION, openapi()).config(config);
    Router::from(ui).layer(middleware::from_fn(guard))
}

async fn guard(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // What a proxy keeps of it may be another version's.
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
