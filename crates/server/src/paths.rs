//! `GET /paths`: all paths to a target, as the document `paths/1`; `GET /paths/stream`: the same as
//! server-sent events.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{Method, Uri};
use datadog_traceroute::{PathsOptions, Request, json};
use serde_json::{Value, json};
use traceroute_flags::PathParameters;

use crate::failure::Failure;
use crate::job::Job;
use crate::openapi::warning_header;
use crate::router::{HttpResult, Notes, Service, asked, held, only_get};
use crate::stream;
use crate::tokens::Guest;

/// Answers when all is done.
pub(crate) async fn paths(
    State(service): State<Arc<Service>>,
    Extension(guest): Extension<Guest>,
    method: Method,
    uri: Uri,
) -> HttpResult {
    only_get(&method)?;
    let (wanted, notes) = wanted(&service, uri);
    let answer = async {
        let (mut job, options) = admit(service, guest, wanted?).await?;
        let found = job.paths(options, None).await?;
        let size = found.estimated_size();
        let room = job.room_for(size).await?;
        let document = job.write(size, move || {
            let text = json::to_compact_of_size(&found, size).map_err(Failure::encoding)?;
            Ok(held("application/json", text, room))
        });
        document.await?
    };
    Ok(notes.on(answer.await))
}

/// Tells what is found as it is found.
pub(crate) async fn events(
    State(service): State<Arc<Service>>,
    Extension(guest): Extension<Guest>,
    method: Method,
    uri: Uri,
) -> HttpResult {
    only_get(&method)?;
    let (wanted, notes) = wanted(&service, uri);
    let answer = async {
        let (job, options) = admit(service, guest, wanted?).await?;
        stream::of_paths(job, options).await
    };
    Ok(notes.on(answer.await))
}

type Wanted = (Request, PathsOptions);

/// The discovery that is asked for.
fn wanted(service: &Service, uri: Uri) -> (Result<Wanted, Failure>, Notes) {
    let asked = asked(uri, |query| query.read_paths(&service.settings.ceilings));
    let (wanted, remarks) = asked.check(PathParameters::validate);
    let notes = Notes {
        remarks,
        probes_nothing: false,
    };
    (wanted, notes)
}

async fn admit(
    service: Arc<Service>,
    guest: Guest,
    (request, options): Wanted,
) -> Result<(Job, PathsOptions), Failure> {
    let job = Job::admit_discovery(service, request, guest, options).await?;
    Ok((job, options))
}

/// The description of `/paths` in the OpenAPI document, or of its stream; `trace` are the
/// parameters of a trace that mean the same.
pub(crate) fn operation(
    is_stream: bool,
    trace: Vec<Value>,
    mut responses: serde_json::Map<String, Value>,
) -> Value {
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
    let mut success = if is_stream {
        json!({
            "description": "Events: `node` {ttl, ip_address, destination} and `link` {ttl, from, to} when one has been \
                            found, `moved` {ttl} when links to and from nodes with this TTL do not count any more, and \
                            last `result` with the document of /paths, or `error` with an Error, when it fails after it \
                            has begun. What is known before has its own status.",
            "content": { "text/event-stream": {} },
        })
    } else {
        json!({
            "description": "All paths, as docs/paths.schema.json describes them.",
            "content": { "application/json": { "schema": { "type": "object" } } },
        })
    };
    success["headers"] = warning_header();
    responses.insert("200".to_owned(), success);
    let (id, summary, description) = if is_stream {
        (
            "pathsStream",
            "The paths as server-sent events, as they are found.",
            "Nodes that do not answer, links from the source and all that is measured are only in the result.",
        )
    } else {
        (
            "paths",
            "Find all paths to a target that load balancers choose between.",
            "Answers when all is done. Without e2e-queries no end-to-end probes are sent.",
        )
    };
    json!({
        "operationId": id,
        "summary": summary,
        "description": description,
        "parameters": parameters,
        "responses": responses,
    })
}
