//! `GET /paths`: all paths to a target, as the document `paths/1`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, Uri};
use axum::response::Response;
use datadog_traceroute::json;
use serde_json::{Value, json};
use traceroute_flags::{CONFIDENCE, MAX_PATH_PROBES, PathParameters, query_default};

use crate::failure::Failure;
use crate::job::Job;
use crate::parameters::{Asked, Query};
use crate::router::{Service, only_get, remarked, respond};

/// Answers when all is done.
pub(crate) async fn paths(
    State(service): State<Arc<Service>>,
    method: Method,
    uri: Uri,
) -> Result<Response, Failure> {
    only_get(&method)?;
    let query = Query::parse(uri.query().unwrap_or_default());
    let ceilings = &service.settings.ceilings;
    let asked = query.read(&[CONFIDENCE, MAX_PATH_PROBES], |option| {
        ceilings.clamp(option, query_default(option))
    });
    asked.remarks.log();
    let Asked { parameters, remarks } = asked;
    let own = [CONFIDENCE, MAX_PATH_PROBES].map(|name| query.first(name));
    let parameters = PathParameters::of_query(parameters, own[0], own[1]);
    drop((uri, query));
    let answer = async {
        remarks.check().map_err(Failure::invalid_parameters)?;
        let (request, options) = parameters.validate().map_err(Failure::invalid_parameters)?;
        let found = Job::admit(service, request, None).await?.paths(options).await?;
        let document = json::to_compact(&found).map_err(Failure::encoding)?;
        Ok(respond("application/json", document))
    };
    Ok(remarked(&remarks, answer.await))
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
