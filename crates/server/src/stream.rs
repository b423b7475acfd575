//! `GET /traceroute/stream` and `GET /paths/stream`: server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! `hop`, `run` and `e2e`, or `node`, `link` and `moved`, tell what happens as it happens; the last
//! event is `report` or `result`, the document that the path without `/stream` gives, or `error`.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{self, HeaderName, HeaderValue};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use datadog_traceroute::{Event, PathsEvent, PathsOptions, is_private, json};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use traceroute_format::{Format, to_compact_json};
use tracing::Instrument;

use crate::backend::OnEvent;
use crate::failure::Failure;
use crate::job::Job;
use crate::limits::Room;
use crate::observe::Outcome;
use crate::router::HttpResult;

/// How often something is sent when nothing happens, so that nobody between takes the connection
/// for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How many events wait at most for a client that reads slowly. Those beyond are left out; the
/// document has them all.
const QUEUE: usize = 1024;

/// A response that carries out a trace.
///
/// # Errors
/// There is no memory for what waits to be read.
pub(crate) async fn of_trace(mut job: Job) -> HttpResult {
    let request = job.request();
    let runs = request.runs() as usize;
    // Two for a TTL: a router may answer before the destination does.
    let events = runs * (2 * usize::from(request.max_ttl()) + 1) + request.e2e_probes() as usize;
    let queue = Queue::of(&job, events).await?;
    let hide_private = job.request().skip_private_hops();
    let describe = move |happened| describe(happened, hide_private);
    Ok(response("report", queue, describe, async move |tell| {
        let report = Arc::new(job.run(Some(tell)).await?);
        let size = job.memory_of(&report, Format::Json).await?;
        let details = job.request().details();
        document(&job, size, move || to_compact_json(&report, details)).await
    }))
}

/// A response that carries out a discovery of paths.
///
/// # Errors
/// There is no memory for what waits to be read.
pub(crate) async fn of_paths(mut job: Job, options: PathsOptions) -> HttpResult {
    let queue = Queue::of(&job, options.probes_at_most() as usize).await?;
    Ok(response("result", queue, describe_paths, async move |tell| {
        let paths = job.paths(options, Some(tell)).await?;
        let size = paths.estimated_size();
        document(&job, size, move || json::to_compact_of_size(&paths, size)).await
    }))
}

/// How many events may wait, and the memory for them until the response has ended: a slow client
/// has them after the job has ended, too.
struct Queue {
    len: usize,
    room: Room,
}

impl Queue {
    /// For a job that has so many events at most.
    async fn of(job: &Job, events: usize) -> Result<Self, Failure> {
        let len = events.clamp(1, QUEUE);
        let size = size_of::<Event>().max(size_of::<PathsEvent>());
        let room = job.room_for(len * size).await?;
        Ok(Queue { len, room })
    }
}

/// The last event's document, which takes about `size` bytes while it is written, and the memory
/// for it until it has been sent: twice as much, because the event is a copy of it. Also when the
/// client is gone before it is written.
async fn document(
    job: &Job,
    size: usize,
    write: impl FnOnce() -> serde_json::Result<String> + Send + 'static,
) -> Result<Document, Failure> {
    let room = job.room_for(2 * size).await?;
    let (text, room) = job.write(size, move || (write(), room)).await?;
    Ok((text.map_err(Failure::encoding)?, room))
}

type Document = (String, Room);

/// A response that carries out `work`, however slowly its body is read; dropping the body stops
/// the work. Its result is the event `last`.
fn response<E, F>(
    last: &'static str,
    Queue { len, room }: Queue,
    describe: impl Fn(E) -> Option<sse::Event> + Send + 'static,
    work: impl FnOnce(OnEvent<E>) -> F + 'static,
) -> Response
where
    E: Send + 'static,
    F: Future<Output = Result<Document, Failure>> + Send + 'static,
{
    let outcome = Outcome::default();
    outcome.hold(room);
    let events = events((last, len), describe, work, outcome.clone()).map(Ok::<_, Infallible>);
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    response.extensions_mut().insert(outcome);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Asks nginx not to hold events back.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    response
}

/// What happens, and last how it ended; `outcome` is told of a failure.
fn events<E, F>(
    (last, len): (&'static str, usize),
    describe: impl Fn(E) -> Option<sse::Event>,
    work: impl FnOnce(OnEvent<E>) -> F,
    outcome: Outcome,
) -> impl Stream<Item = sse::Event>
where
    E: Send + 'static,
    F: Future<Output = Result<Document, Failure>> + Send + 'static,
{
    let (sender, mut progress) = mpsc::channel(len);
    let tell = Box::new(move |progress| {
        let _ = sender.try_send(progress);
    });
    // The one task that carries out the job; stops when dropped.
    let mut task = JoinSet::new();
    // A task of its own: limits of time hold, and probes are sent, whether or not somebody reads.
    task.spawn(work(tell).in_current_span());
    let progress = stream::poll_fn(move |context| progress.poll_recv(context));
    let happened = progress.filter_map(move |progress| ready(describe(progress)));
    // Begins when there will be no more progress: the job has ended, or is about to.
    let end = stream::once(async move {
        let result = task.join_next().await;
        result.map(|result| conclude(last, result, &outcome))
    });
    happened.chain(end.filter_map(ready))
}

/// The last event.
fn conclude(
    last: &'static str,
    result: Result<Result<Document, Failure>, JoinError>,
    outcome: &Outcome,
) -> sse::Event {
    let result = result.unwrap_or_else(|panic| Err(Failure::crashed(panic)));
    match result {
        Ok((text, room)) => {
            // Until the response has ended.
            outcome.hold(room);
            event_of(last, &text)
        }
        Err(failure) => {
            let event = sse::Event::default().event("error").data(failure.to_json());
            outcome.fail(failure);
            event
        }
    }
}

#[derive(Serialize)]
struct HopEvent {
    run: u32,
    ttl: u8,
    ip_address: IpAddr,
    rtt: f64,
    destination: bool,
}

#[derive(Serialize)]
struct RunEvent {
    run: u32,
}

#[derive(Serialize)]
struct E2eEvent {
    index: u32,
    rtt: f64,
}

/// One event; `None` when it tells what the request wants hidden, or what the stream does not have.
fn describe(happened: Event, hide_private: bool) -> Option<sse::Event> {
    let event = match happened {
        Event::HopFound { answer, .. } if hide_private && is_private(answer.address) => return None,
        Event::HopFound { run, ttl, answer } => event(
            "hop",
            &HopEvent {
                run,
                ttl,
                ip_address: answer.address,
                rtt: answer.rtt.map_or(0.0, milliseconds),
                destination: answer.destination,
            },
        ),
        Event::RunFinished { run } => event("run", &RunEvent { run }),
        Event::E2eProbe { index, rtt } => {
            let rtt = rtt.map_or(0.0, milliseconds);
            event("e2e", &E2eEvent { index, rtt })
        }
        _ => return None,
    };
    // Numbers and addresses can always be written.
    event.ok()
}

#[derive(Serialize)]
struct NodeEvent {
    ttl: u8,
    ip_address: IpAddr,
    destination: bool,
}

#[derive(Serialize)]
struct LinkEvent {
    ttl: u8,
    from: IpAddr,
    to: IpAddr,
}

#[derive(Serialize)]
struct MovedEvent {
    ttl: u8,
}

/// One event of a discovery; `None` when it tells what the stream does not have.
fn describe_paths(happened: PathsEvent) -> Option<sse::Event> {
    let event = match happened {
        PathsEvent::NodeFound {
            ttl,
            address: ip_address,
            destination,
        } => event(
            "node",
            &NodeEvent {
                ttl,
                ip_address,
                destination,
            },
        ),
        PathsEvent::LinkFound { ttl, from, to } => event("link", &LinkEvent { ttl, from, to }),
        PathsEvent::Moved { ttl } => event("moved", &MovedEvent { ttl }),
        _ => return None,
    };
    event.ok()
}

fn milliseconds(rtt: Duration) -> f64 {
    rtt.as_nanos() as f64 / 1e6
}

/// Not axum's own way to write it: the contract has its way with numbers.
fn event<T: Serialize>(name: &str, data: &T) -> serde_json::Result<sse::Event> {
    Ok(event_of(name, &json::to_compact(data)?))
}

/// Compact JSON contains no line break, so it is one `data` line.
fn event_of(name: &str, json: &str) -> sse::Event {
    sse::Event::default().event(name).data(json.trim_end())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use datadog_traceroute::Answer;
    use http_body_util::BodyExt;

    use super::*;

    fn hop(address: Ipv4Addr) -> Event {
        Event::HopFound {
            run: 1,
            ttl: 2,
            answer: Answer {
                destination: false,
                ..Answer::new(address.into(), Some(Duration::from_micros(1500)), None)
            },
        }
    }

    async fn text(event: sse::Event) -> String {
        let events = Sse::new(stream::iter([Ok::<_, Infallible>(event)]));
        let body = events.into_response().into_body().collect().await.unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn events_as_sent() {
        let cases = [
            (
                hop(Ipv4Addr::new(192, 0, 2, 1)),
                r#"{"run":1,"ttl":2,"ip_address":"192.0.2.1","rtt":1.5,"destination":false}"#,
                "hop",
            ),
            (Event::RunFinished { run: 2 }, r#"{"run":2}"#, "run"),
            (
                Event::E2eProbe { index: 3, rtt: None },
                r#"{"index":3,"rtt":0}"#,
                "e2e",
            ),
        ];
        for (progress, data, name) in cases {
            let expected = format!("event: {name}\ndata: {data}\n\n");
            assert_eq!(text(describe(progress, true).unwrap()).await, expected);
        }
    }

    #[tokio::test]
    async fn events_of_paths_as_sent() {
        let [from, to] = [1, 9].map(|n| Ipv4Addr::new(192, 0, 2, n).into());
        let (ttl, destination) = (2, true);
        let node = PathsEvent::NodeFound {
            ttl,
            address: to,
            destination,
        };
        for (happened, expected) in [
            (
                node,
                "event: node\ndata: {\"ttl\":2,\"ip_address\":\"192.0.2.9\",\"destination\":true}\n\n",
            ),
            (
                PathsEvent::LinkFound { ttl, from, to },
                "event: link\ndata: {\"ttl\":2,\"from\":\"192.0.2.1\",\"to\":\"192.0.2.9\"}\n\n",
            ),
            (PathsEvent::Moved { ttl }, "event: moved\ndata: {\"ttl\":2}\n\n"),
        ] {
            assert_eq!(text(describe_paths(happened).unwrap()).await, expected);
        }
    }

    #[test]
    fn private_hops_are_hidden_when_asked() {
        let private = hop(Ipv4Addr::new(10, 0, 0, 1));
        assert!(describe(private, false).is_some());
        assert!(describe(private, true).is_none());
    }
}
