//! `GET /paths`: all paths to a target, as the document `paths/1`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{Method, Uri};
use axum::response::Response;
use serde_json::{Value, json};
use traceroute_flags::{Interface, PathParameters, TraceOption};

use crate::failure::Failure;
use crate::job::Job;
use crate::parameters::Query;
use crate::router::{Service, only_get, respond};
use crate::tokens::Guest;

/// Answers when all is done.
pub(crate) async fn paths(
    State(service): State<Arc<Service>>,
    Extension(guest): Extension<Guest>,
    method: Method,
    uri: Uri,
) -> Result<Response, Failure> {
    only_get(&method)?;
    let query = Query::parse(uri.query().unwrap_or_default());
    drop(uri);
    let ceilings = &service.settings.ceilings;
    let default = |option: &TraceOption| ceilings.clamp(option, option.default(Interface::Query));
    let parameters = PathParameters::from_query(
        |name| query.first(name),
        default,
        |name, problem, _| {
            tracing::warn!(parameter = name, %problem, "a value does not parse; the default is used");
        },
    );
    let (request, options) = parameters.validate().map_err(Failure::invalid_parameters)?;
    let job = Job::admit_discovery(service, request, guest, options).await?;
    let found = job.paths(options).await?;
    let document = datadog_traceroute::json::to_compact(&found);
    Ok(respond("application/json", document.map_err(Failure::encoding)?))
}

/// Its description in the OpenAPI document; `trace` are the parameters of a trace that mean the
/// same.
pub(crate) fn operation(trace: Vec<Value>, mut responses: serde_json::Map<String, Value>) -> Value {
    let mut parameters = trace;
    parameters.push(json!({
        "name": "confidence", "in": "query", "required": false,
        "schema": { "type": "number", "minimum": 0.5, "maximum": 0.9999, "default": 0.95 },
        "description": "How likely the next hops of a node shall be complete.",
    }));
    parameters.push(json!({
        "name": "max-probes", "in": "query", "required": false,
        "schema": { "type": "integer", "minimum": 1, "maximum": 1_000_000, "default": 10_000 },
        "description": "Probes for the discovery at most.",
    }));
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "All paths, as docs/paths.schema.json describes them.",
            "content": { "application/json": { "schema": { "type": "object" } } },
        }),
    );
    json!({
        "operationId": "paths",
        "summary": "Find all paths to a target that load balancers choose between.",
        "description": "Answers when all is done. Without e2e-queries no end-to-end probes are sent.",
        "parameters": parameters,
        "responses": responses,
    })
}
