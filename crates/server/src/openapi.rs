//! The OpenAPI document (<https://spec.openapis.org/oas/v3.1.0>), made from the same constants as
//! the service.
//!
//! It is committed as `docs/openapi.json`; a test compares. After an intended change:
//! `UPDATE=1 cargo test -p datadog-traceroute-server openapi`.

use datadog_traceroute::{Cause, Method, Protocol};
use serde_json::{Map, Value, json};
use traceroute_flags::{Interface, Kind, OPTIONS, TraceOption, is_shared_with_paths};
use traceroute_format::Format;

use crate::limits::Ceilings;
use crate::parameters::{MODULE, STRICT};
use crate::paths;
use crate::probe::{MODULES, QUERIES};

/// The document of a server with these ceilings, indented and with a final newline.
pub(crate) fn document(ceilings: &Ceilings) -> String {
    let mut description = description();
    let operations = description["paths"].as_object_mut().into_iter().flatten();
    let parameters = operations.filter_map(|(_, path)| path.pointer_mut("/get/parameters")?.as_array_mut());
    for parameter in parameters.flatten() {
        let name = parameter["name"].as_str();
        let Some(option) = OPTIONS
            .iter()
            .find(|option| option.query.is_some() && option.query == name)
        else {
            continue;
        };
        for bound in ["default", "maximum"] {
            let value = parameter["schema"].get(bound).and_then(Value::as_i64);
            let value = value.map(traceroute_flags::Value::Integer);
            if let Some(traceroute_flags::Value::Integer(value)) = ceilings.clamp(option, value) {
                parameter["schema"][bound] = value.into();
            }
        }
    }
    format!("{description:#}\n")
}

fn description() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "datadog-traceroute-server",
            "version": traceroute_flags::VERSION,
            "summary": "Network paths and end-to-end measurements over HTTP.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{}, { "token": [] }],
        "paths": {
            "/traceroute": { "get": trace_operation() },
            "/traceroute/stream": { "get": stream_operation() },
            "/probe": { "get": probe_operation() },
            "/paths": { "get": paths::operation(false, shared_parameters(), failures(&FAILURES)) },
            "/paths/stream": { "get": paths::operation(true, shared_parameters(), failures(&FAILURES)) },
            "/health": { "get": health_operation() },
            "/livez": { "get": state_operation("livez", "Whether the server runs. HEAD works too.", &["405"]) },
            "/readyz": { "get": state_operation(
                "readyz",
                "Whether the server would let in a request with the defaults, of a client that has nothing yet. HEAD works too.",
                &["405", "503"],
            ) },
            "/metrics": { "get": metrics_operation() },
            "/openapi.json": { "get": api_operation() },
            "/": { "get": page_operation() },
        },
        "components": {
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Needed when the server was started with a token.",
            } },
            "schemas": { "Report": report(), "Error": error(), "Health": health() },
        },
    })
}

/// What may become of a request that probes.
const FAILURES: [&str; 9] = ["400", "401", "403", "405", "408", "413", "429", "500", "503"];

fn trace_operation() -> Value {
    let mut responses = failures(&FAILURES);
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "The path and the end-to-end measurement, as `format` asks for.",
            "headers": warning_header(),
            "content": trace_content(),
        }),
    );
    json!({
        "operationId": "traceroute",
        "summary": "Trace the path to a target, and measure it end to end.",
        "description": "Answers when all is done. Integers and booleans that do not parse count as absent, unknown \
                        parameters are ignored; of a repeated parameter the first counts. Closing the connection cancels the traces.",
        "parameters": parameters(),
        "responses": responses,
    })
}

/// The document, and the other formats by their media types.
fn trace_content() -> Value {
    let document = json!({ "schema": { "$ref": "#/components/schemas/Report" } });
    let mut content = Map::from_iter([("application/json".to_owned(), document)]);
    for format in [Format::Table, Format::Csv, Format::Dot] {
        let (kind, _) = format
            .media_type()
            .split_once(';')
            .unwrap_or((format.media_type(), ""));
        content.insert(kind.to_owned(), json!({ "schema": { "type": "string" } }));
    }
    content.into()
}

pub(crate) fn warning_header() -> Value {
    json!({ "Traceroute-Warning": {
        "description": "What was ignored: parameters that do not exist, with what may be meant, repeated ones, and \
                        values that do not parse.",
        "schema": { "type": "string" },
    } })
}

fn stream_operation() -> Value {
    let mut responses = failures(&FAILURES);
    responses.insert("200".to_owned(), json!({
        "description": "Events: `hop` {run, ttl, ip_address, rtt, destination}, `run` {run} when a run has ended, \
                        `e2e` {index, rtt} with 0 for no answer, and last `report` with the document of /traceroute, or \
                        `error` with an Error, when it fails after it has begun. What is known before has its own \
                        status. `format` must be json. Runs and end-to-end probes count from 0; round-trip times are in \
                        milliseconds.",
        // OpenAPI 3.1 has no schema for single events.
        "content": { "text/event-stream": {} },
    }));
    json!({
        "operationId": "stream",
        "summary": "The same as server-sent events, as it happens.",
        "parameters": parameters(),
        "responses": responses,
    })
}

fn probe_operation() -> Value {
    let mut responses = failures(&["400", "401", "403", "405", "408", "413", "429", "503"]);
    let mut success = text(
        "Metrics in Prometheus' text format. A measurement that fails has them too, with `probe_success` 0.",
        "text/plain",
    );
    success["headers"] = warning_header();
    responses.insert("200".to_owned(), success);
    let names = MODULES.map(|(name, ..)| name);
    let mut parameters = parameters();
    if let Some(parameters) = parameters.as_array_mut() {
        // Pace and numbers follow from the time that there is.
        for parameter in parameters.iter_mut() {
            let name = parameter["name"].as_str().unwrap_or_default();
            let default = match name {
                "traceroute-queries" => Some(QUERIES.0),
                "e2e-queries" => Some(QUERIES.1),
                "timeout" | "delay" | "e2e-interval" => None,
                _ => continue,
            };
            if let Some(schema) = parameter["schema"].as_object_mut() {
                schema.remove("default");
                schema.extend(default.map(|value| ("default".to_owned(), value.into())));
            }
        }
        parameters.push(json!({
            "name": MODULE,
            "in": "query",
            "required": false,
            "schema": { "type": "string", "enum": names },
            "description": "Protocol and method, in any letter case: sack is tcp with tcp-method sack.",
        }));
        parameters.push(json!({
            "name": "X-Prometheus-Scrape-Timeout-Seconds",
            "in": "header",
            "required": false,
            "schema": { "type": "number", "default": 10 },
            "description": "When the client gives up. The measurement ends half a second before.",
        }));
    }
    json!({
        "operationId": "probe",
        "summary": "One measurement as metrics, for Prometheus, in the manner of its blackbox exporter.",
        "description": "timeout, delay and e2e-interval are by default such that the measurement fits into the time \
                        that Prometheus leaves. format must be json, which has no effect.",
        "parameters": parameters,
        "responses": responses,
    })
}

fn health_operation() -> Value {
    let mut responses = failures(&["405"]);
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "The server runs.",
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Health" } } },
        }),
    );
    json!({
        "operationId": "health",
        "summary": "Whether the server runs. HEAD works too.",
        "security": [{}],
        "responses": responses,
    })
}

fn state_operation(name: &str, summary: &str, errors: &[&str]) -> Value {
    let mut responses = failures(errors);
    let schema = object(&[("status", json!({ "type": "string" }))]);
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "It is so.",
            "content": { "application/json": { "schema": schema } },
        }),
    );
    json!({ "operationId": name, "summary": summary, "security": [{}], "responses": responses })
}

fn metrics_operation() -> Value {
    let mut responses = failures(&["401", "405"]);
    responses.insert(
        "200".to_owned(),
        text("Counters in Prometheus' text format.", "text/plain"),
    );
    json!({ "operationId": "metrics", "summary": "Counters.", "responses": responses })
}

fn api_operation() -> Value {
    let mut responses = failures(&["405"]);
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "This document.",
            "content": { "application/json": { "schema": { "type": "object" } } },
        }),
    );
    json!({
        "operationId": "openapi",
        "summary": "This document.",
        "security": [{}],
        "responses": responses,
    })
}

fn page_operation() -> Value {
    let mut responses = failures(&["405"]);
    responses.insert(
        "200".to_owned(),
        text("A page to try the server from a browser.", "text/html"),
    );
    json!({ "operationId": "page", "summary": "A page.", "security": [{}], "responses": responses })
}

fn text(description: &str, kind: &str) -> Value {
    json!({ "description": description, "content": { kind: { "schema": { "type": "string" } } } })
}

/// Error responses: one line of text, or JSON for those who prefer it.
fn failures(statuses: &[&str]) -> Map<String, Value> {
    let describe = |status: &str| match status {
        "400" => "A parameter is missing, unknown or out of range: `Invalid parameters: …`.",
        "401" => "The server wants a bearer token.",
        "403" => "This target or parameter is not allowed, or a web page of another site asks.",
        "405" => "Method not allowed.",
        "408" => "The request's body did not arrive in time.",
        "413" => "The request's body is too large.",
        "429" => "More than this client may have. See Retry-After.",
        "500" => "`Traceroute failed: …`; code DNS: the target's name does not resolve.",
        _ => "Too many traces at once, or the server is shutting down. See Retry-After.",
    };
    let response = |status: &&str| {
        let content = json!({
            "text/plain": { "schema": { "type": "string" } },
            "application/json": { "schema": { "$ref": "#/components/schemas/Error" } },
        });
        let value = json!({ "description": describe(status), "content": content });
        ((*status).to_owned(), value)
    };
    statuses.iter().map(response).collect()
}

fn parameters() -> Value {
    let of_trace = OPTIONS.iter().filter_map(parameter);
    of_trace.chain([strict_parameter()]).collect()
}

fn strict_parameter() -> Value {
    json!({
        "name": STRICT,
        "in": "query",
        "required": false,
        "schema": { "type": "boolean", "default": false },
        "description": "Refuse parameters that do not exist or are repeated, and values that do not parse; otherwise \
                        the header Traceroute-Warning names them.",
    })
}

/// Those that mean the same for a discovery of paths.
fn shared_parameters() -> Vec<Value> {
    let shared = OPTIONS.iter().filter(|option| is_shared_with_paths(option));
    let mut parameters: Vec<Value> = shared.filter_map(parameter).collect();
    for parameter in &mut parameters {
        if parameter["name"] == "e2e-queries" {
            parameter["schema"]["default"] = 0.into();
        }
    }
    parameters.push(strict_parameter());
    parameters
}

fn parameter(option: &TraceOption) -> Option<Value> {
    Some(json!({
        "name": option.query?,
        "in": "query",
        "required": matches!(option.kind, Kind::Target),
        "schema": schema(option),
        "description": option.description(),
    }))
}

fn schema(option: &TraceOption) -> Value {
    let mut schema = match &option.kind {
        Kind::Target => json!({ "type": "string", "minLength": 1 }),
        Kind::Choice(choices) => {
            let everywhere = choices.iter().filter(|choice| !choice.only_windows);
            // An empty value counts as absent.
            let names: Vec<&str> = everywhere.map(|choice| choice.name).chain([""]).collect();
            json!({ "type": "string", "enum": names })
        }
        Kind::Integer(range, _) => {
            json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() })
        }
        Kind::Switch(_) | Kind::Shorthand { .. } => json!({ "type": "boolean" }),
        Kind::Text(_) => json!({ "type": "string" }),
    };
    match option.default(Interface::Query) {
        None => {}
        Some(traceroute_flags::Value::Text(text)) => schema["default"] = text.into(),
        Some(traceroute_flags::Value::Integer(value)) => schema["default"] = value.into(),
        Some(traceroute_flags::Value::Switch(value)) => schema["default"] = value.into(),
    }
    schema
}

/// An object whose properties are all there, in this order; those that end in `?` may be absent.
fn object(properties: &[(&str, Value)]) -> Value {
    let name = |property: &str| property.trim_end_matches('?').to_owned();
    let required: Vec<&str> = properties
        .iter()
        .map(|(property, _)| *property)
        .filter(|property| !property.ends_with('?'))
        .collect();
    let map: Map<String, Value> = properties
        .iter()
        .map(|(property, schema)| (name(property), schema.clone()))
        .collect();
    json!({ "type": "object", "properties": map, "required": required, "additionalProperties": false })
}

fn described(kind: &str, description: &str) -> Value {
    json!({ "type": kind, "description": description })
}

fn count(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

fn number(description: &str) -> Value {
    json!({ "type": "number", "minimum": 0, "description": description })
}

fn report() -> Value {
    let names = json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 });
    let port = json!({ "type": "integer", "minimum": 0, "maximum": 65535 });
    let hop = object(&[
        ("ttl", ttl()),
        ("ip_address", described("string", "Empty when nobody answered.")),
        (
            "rtt",
            number("Milliseconds; 0 when nobody answered, or it is not known to which of several probes."),
        ),
        ("reachable", described("boolean", "Whether somebody answered.")),
        ("reverse_dns?", names.clone()),
    ]);
    let run = object(&[
        ("run_id", json!({ "type": "string", "format": "uuid" })),
        (
            "source",
            object(&[
                ("ip_address", json!({ "type": "string" })),
                ("port", port.clone()),
            ]),
        ),
        (
            "destination",
            object(&[
                ("ip_address", json!({ "type": "string" })),
                ("port", port.clone()),
                ("reverse_dns?", names),
            ]),
        ),
        ("hops", json!({ "type": "array", "items": hop })),
    ]);
    let hop_count = object(&[
        ("avg", number("Hops.")),
        ("min", count("Hops.")),
        ("max", count("Hops.")),
    ]);
    let rtt = object(&[
        ("avg", number("Milliseconds.")),
        ("min", number("Milliseconds.")),
        ("max", number("Milliseconds.")),
    ]);
    let rtts = json!({
        "type": "array",
        "items": { "type": "number", "minimum": 0 },
        "description": "Milliseconds, in the order of sending; 0: no answer.",
    });
    let loss = json!({ "type": "number", "minimum": 0, "maximum": 1, "description": "A fraction." });
    object(&[
        ("protocol", one_of(&Protocol::ALL.map(Protocol::name))),
        (
            "source",
            object(&[("public_ip", described("string", "Empty when not known."))]),
        ),
        (
            "destination",
            object(&[
                ("hostname", described("string", "The target as given.")),
                ("port", port),
            ]),
        ),
        (
            "traceroute",
            object(&[
                ("runs", json!({ "type": "array", "items": run })),
                ("hop_count", hop_count),
            ]),
        ),
        (
            "e2e_probe",
            object(&[
                ("rtts", rtts),
                ("packets_sent", count("Probes.")),
                ("packets_received", count("Probes answered.")),
                ("packet_loss_percentage", loss),
                (
                    "jitter",
                    number("Mean difference of consecutive RTTs, in milliseconds."),
                ),
                ("rtt", rtt),
            ]),
        ),
        ("details?", details()),
    ])
}

/// What `details=true` adds. New members may come.
fn details() -> Value {
    let list = |items: Value| json!({ "type": "array", "items": items });
    let run = object(&[
        ("run_id", json!({ "type": "string", "format": "uuid" })),
        ("method", one_of(&Method::ALL.map(Method::name))),
        ("probes_sent", count("Probes that left.")),
        ("distance", one_of(&["known", "unknown"])),
        (
            "end",
            object(&[
                (
                    "reason",
                    one_of(&["destination", "refused", "max_ttl", "gap_limit"]),
                ),
                ("from?", described("string", "Who refuses to send probes on.")),
            ]),
        ),
        ("hops", list(hop_details())),
    ]);
    let addresses = object(&[
        ("ip_address", json!({ "type": "string" })),
        ("answers", count("Runs.")),
    ]);
    let hop = object(&[("ttl", ttl()), ("addresses", list(addresses))]);
    let e2e = object(&[
        ("sent", count("Probes that left.")),
        ("answered", count("Those that were answered.")),
        ("lost", lost()),
        (
            "refused",
            count("Probes that the server's machine refused to send."),
        ),
    ]);
    let warning = object(&[
        ("code", described("string", "What kind of warning.")),
        ("text", described("string", "For people.")),
    ]);
    let probes = object(&[
        ("sent", count("Probes.")),
        ("retried", count("Times that the kernel's queue was full.")),
        ("refused", count("Probes that the kernel did not take.")),
        ("kernel_timestamps", count("Probes with the kernel's timestamp.")),
    ]);
    let replies = object(&[
        ("captured", count("Packets.")),
        (
            "kernel_drops",
            count("Packets lost because nobody read them in time."),
        ),
        ("matched", count("Answers to a probe.")),
        ("translated", count("Those that show a NAT.")),
        ("ignored", counts("Packets that answer no probe, by reason.")),
    ]);
    let mut details = object(&[
        ("runs", list(run)),
        ("hops", list(hop)),
        ("e2e", e2e),
        ("warnings", list(warning)),
        ("counters", object(&[("probes", probes), ("replies", replies)])),
    ]);
    details["description"] = "With details=true only. New members may be added.".into();
    details
}

fn hop_details() -> Value {
    let label = object(&[
        ("label", count("20 bits.")),
        ("tc", count("Traffic class.")),
        ("s", described("boolean", "Bottom of stack.")),
        ("ttl", count("Hops.")),
    ]);
    let kinds = ["time_exceeded", "unreachable", "echo_reply", "udp", "tcp"];
    object(&[
        ("ttl", ttl()),
        ("attempts", count("Probes with this TTL.")),
        ("ip_address?", described("string", "Who answered.")),
        ("answer?", one_of(&kinds)),
        (
            "destination?",
            described("boolean", "The answer is the destination's."),
        ),
        ("attempt?", count("Which probe was answered, from 0.")),
        ("icmp_type?", count("Of the ICMP message.")),
        ("icmp_code?", count("Of the ICMP message.")),
        ("notation?", described("string", "As traceroute(8) writes it.")),
        ("reply_ttl?", count("TTL of the answer on arrival.")),
        ("quoted_ttl?", count("TTL of the probe as the answer quotes it.")),
        ("mpls?", json!({ "type": "array", "items": label, "minItems": 1 })),
        (
            "kernel_timestamps?",
            described(
                "boolean",
                "The round-trip time is between two timestamps of the kernel.",
            ),
        ),
        ("lost?", lost()),
        ("nat?", described("boolean", "A NAT begins here to translate.")),
    ])
}

fn ttl() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": 255 })
}

fn one_of(names: &[&str]) -> Value {
    json!({ "type": "string", "enum": names })
}

/// Unanswered probes by cause: only causes that occurred.
fn lost() -> Value {
    let mut lost = counts("Probes without an answer, by cause.");
    lost["propertyNames"] = json!({ "enum": Cause::ALL.map(Cause::name) });
    lost
}

/// Counts by names.
fn counts(description: &str) -> Value {
    json!({
        "type": "object",
        "additionalProperties": { "type": "integer", "minimum": 0 },
        "description": description,
    })
}

fn error() -> Value {
    let codes = [
        "DNS",
        "TIMEOUT",
        "CONNREFUSED",
        "HOSTUNREACH",
        "NETUNREACH",
        "DENIED",
        "INVALID_REQUEST",
        "UNKNOWN",
    ];
    object(&[
        ("code", json!({ "type": "string", "enum": codes })),
        ("message", json!({ "type": "string" })),
    ])
}

fn health() -> Value {
    object(&[
        ("status", json!({ "type": "string", "const": "healthy" })),
        ("timestamp", json!({ "type": "string", "format": "date-time" })),
        ("uptime", described("string", "Such as 1h2m3.5s.")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::PATHS;
    use std::collections::BTreeSet;
    use std::fs;

    #[test]
    fn openapi_document_is_the_committed_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(path, document(&Ceilings::default())).unwrap();
        }
        let committed = fs::read_to_string(path).unwrap();
        assert!(
            committed == document(&Ceilings::default()),
            "docs/openapi.json is out of date: run with UPDATE=1"
        );
    }

    #[test]
    fn openapi_has_the_ceilings_of_the_server() {
        let ceilings = Ceilings {
            queries: 5,
            max_ttl: 20,
            timeout: std::time::Duration::from_secs(2),
            duration: None,
        };
        let description: Value = serde_json::from_str(&document(&ceilings)).unwrap();
        for path in ["/traceroute", "/traceroute/stream", "/probe"] {
            let parameters = &description["paths"][path]["get"]["parameters"];
            for (name, most) in [("e2e-queries", 5), ("max-ttl", 20), ("timeout", 2000)] {
                let named = |parameter: &&Value| parameter["name"] == name;
                let schema = &parameters.as_array().unwrap().iter().find(named).unwrap()["schema"];
                assert_eq!(schema["maximum"], most, "{path} {name}");
                assert!(
                    schema["default"].as_i64().is_none_or(|value| value <= most),
                    "{path} {name}"
                );
            }
        }
    }

    #[test]
    fn openapi_paths_are_the_routes() {
        let described = description();
        let described: BTreeSet<_> = described["paths"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(described, PATHS.into_iter().collect());
    }

    /// Whether `value` has exactly the properties that `schema` describes, of the right types.
    fn check(schema: &Value, value: &Value, at: &str) {
        match value {
            Value::Object(map) if schema["additionalProperties"].is_object() => {
                let each = |value| check(&schema["additionalProperties"], value, at);
                map.values().for_each(each);
            }
            Value::Object(map) => {
                let properties = schema["properties"].as_object().unwrap();
                for (name, value) in map {
                    let schema = properties.get(name).unwrap_or_else(|| panic!("{at}.{name}"));
                    check(schema, value, &format!("{at}.{name}"));
                }
                for name in schema["required"].as_array().unwrap() {
                    assert!(map.contains_key(name.as_str().unwrap()), "{at}: {name}");
                }
            }
            Value::Array(items) => items.iter().for_each(|item| check(&schema["items"], item, at)),
            Value::String(_) => assert_eq!(schema["type"], "string", "{at}"),
            Value::Bool(_) => assert_eq!(schema["type"], "boolean", "{at}"),
            Value::Number(_) => assert!(schema["type"] == "number" || schema["type"] == "integer", "{at}"),
            Value::Null => panic!("{at}: null"),
        }
    }

    #[test]
    fn openapi_describes_the_contracts_example() {
        let golden = include_str!("../../traceroute/tests/golden/report.json");
        check(&report(), &serde_json::from_str(golden).unwrap(), "report");
    }

    #[test]
    fn openapi_describes_the_documentations_details() {
        let documentation = include_str!("../../../docs/details.md");
        let (_, example) = documentation.split_once("```json\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let document: Value = serde_json::from_str(&format!("{{{example}")).unwrap();
        check(&details(), &document["details"], "details");
    }

    /// Every member that a document can have, also those that no example shows.
    #[test]
    fn openapi_describes_every_detail() {
        let mut answer = json!({
            "ttl": 1, "attempts": 3, "lost": { "network": 1 }, "nat": true, "ip_address": "192.0.2.7",
            "answer": "unreachable", "destination": false, "attempt": 1, "icmp_type": 3, "icmp_code": 1,
            "notation": "!H", "reply_ttl": 61, "quoted_ttl": 1, "kernel_timestamps": true,
            "mpls": [{ "label": 1, "tc": 2, "s": true, "ttl": 3 }],
        });
        let read: datadog_traceroute::details::HopDetails = serde_json::from_value(answer.clone()).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        check(&hop_details(), &written, "hops");
        let properties = hop_details()["properties"].as_object().unwrap().clone();
        for (name, _) in &properties {
            assert!(answer.as_object_mut().unwrap().remove(name).is_some(), "{name}");
        }
        assert_eq!(answer, json!({}));
    }
}
