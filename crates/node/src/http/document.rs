//! The OpenAPI document, with what every route may answer beside its own.

use inn_api::Problem;
use utoipa::openapi::path::{Operation, Parameter};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response, ResponseBuilder};

use super::scope;

mod schemas;

/// Problems that are not one route's: status, name in the document, and what
/// they mean.
const COMMON: [(&str, &str, &str); 3] = [
    ("400", "Invalid", "malformed, or asks for what cannot be"),
    ("404", "NotFound", "no such VM, image, operation or other thing"),
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
            &mut item.get,
            &mut item.head,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.patch,
        ];
        for operation in operations.into_iter().flatten() {
            complete(path, operation);
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
    if !path.starts_with(inn_api::BASE) {
        return;
    }
    for (status, name, _) in COMMON {
        let can = match status {
            "404" => path.contains('{'),
            _ => true,
        };
        if can {
            let answers = &mut operation.responses.responses;
            let common = || RefOr::Ref(Ref::from_response_name(name));
            answers.entry(status.to_owned()).or_insert_with(common);
        }
    }
}
