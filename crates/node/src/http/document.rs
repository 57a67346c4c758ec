//! The OpenAPI document, with what every route may answer beside its own.

use axum::http::Method;
use inn_api::Problem;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder};

use super::idempotency::{self, Kept};
use super::scope;

mod schemas;

/// Problems that are not one route's: status, name in the document, and what
/// they mean.
const COMMON: [(&str, &str, &str); 6] = [
    ("400", "Invalid", "malformed, or asks for what cannot be"),
    ("404", "NotFound", "no such VM, image, operation or other thing"),
    ("408", "TooSlow", "the request came too slowly"),
    ("413", "TooLarge", "the body is larger than 1 MiB"),
    ("415", "NotJson", "the body is not JSON by its Content-Type"),
    ("500", "Internal", "a fault of the agent's"),
];

/// The API's description, as `/api/openapi.json` serves it.
pub fn openapi() -> OpenApi {
    let (_, mut document) = super::routes().split_for_parts();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "token",
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
    );
    for (_, name, description) in COMMON {
        components.responses.insert(name.to_owned(), RefOr::T(problem(description)));
    }
    schemas::merge_flattened(components);
    components.schemas.values_mut().for_each(schemas::bound);
    for (path, item) in &mut document.paths.paths {
        scope::describe(path, item);
        let operations = [
            (Method::GET, &mut item.get),
            (Method::HEAD, &mut item.head),
            (Method::PUT, &mut item.put),
            (Method::POST, &mut item.post),
            (Method::DELETE, &mut item.delete),
            (Method::PATCH, &mut item.patch),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            complete(path, operation);
            if idempotency::kept(&method, path) != Kept::No {
                take_key(operation);
            }
        }
    }
    document
}

fn problem(description: &str) -> Response {
    ResponseBuilder::new()
        .description(description)
        .content(
            "application/problem+json",
            Content::new(Some(Ref::from_schema_name(<Problem as utoipa::ToSchema>::name()))),
        )
        .build()
}

/// Says of an operation that it takes an `Idempotency-Key`, and what comes of
/// one that it does not.
fn take_key(operation: &mut Operation) {
    refer(operation, "413");
    let key = ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .min_length(Some(1))
        .max_length(Some(idempotency::KEY_LIMIT));
    let parameter = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Sent again with the same one, the request is not carried out again and gets the \
             first one's answer.",
        ))
        .schema(Some(key));
    operation.parameters.get_or_insert_default().push(RefOr::T(parameter.build()));
    let answers = &mut operation.responses.responses;
    let conflict = || RefOr::T(problem("the state does not allow it, or the key is another's"));
    answers.entry("409".to_owned()).or_insert_with(conflict);
}

/// Adds what an operation may answer because of its path; what callers may
/// not, `scope::describe` adds. What it says itself stays.
fn complete(path: &str, operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(Parameter { schema: Some(schema), .. }) = parameter {
            schemas::bound(schema);
            schemas::never_null(schema);
        }
    }
    // Open to anybody, and without parameters.
    if path == "/health" {
        return;
    }
    let takes_json = operation.request_body.as_ref().is_some_and(
        |body| matches!(body, RefOr::T(body) if body.content.contains_key("application/json")),
    );
    for (status, ..) in COMMON {
        let can = match status {
            "404" => path.contains('{'),
            "413" | "415" => takes_json,
            _ => true,
        };
        if can {
            refer(operation, status);
        }
    }
    // Said before anybody knows which operation it is about, in no body.
    for (status, what) in
        [("414", "the request's target is too long"), ("431", "the request's head is too large")]
    {
        let bare = || ResponseBuilder::new().description(what).build();
        let answers = &mut operation.responses.responses;
        answers.entry(status.to_owned()).or_insert_with(|| RefOr::T(bare()));
    }
}

/// One of those that are no one's own.
fn refer(operation: &mut Operation, status: &str) {
    let Some((_, name, _)) = COMMON.iter().find(|(known, ..)| *known == status) else { return };
    let answers = &mut operation.responses.responses;
    let common = || RefOr::Ref(Ref::from_response_name(*name));
    answers.entry(status.to_owned()).or_insert_with(common);
}
