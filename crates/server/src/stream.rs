//! `GET /traceroute/stream`: server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! `hop`, `run` and `e2e` tell what happens as it happens; the last event is `report`, the document
//! that `/traceroute` gives, or `error`.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::response::Response;
use datadog_traceroute::{Event, Report, is_private, json};
use futures_util::Stream;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::Instrument;

use crate::failure::Failure;
use crate::job::Job;
use crate::observe::Outcome;
use crate::router::respond;

/// How often something is sent when nothing happens, so that nobody between takes the connection
/// for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How many events wait for a client that reads slowly. Those beyond are left out; the document has
/// them all.
const QUEUE: usize = 16_384;

/// A response that carries out `job`, however slowly its body is read; dropping the body stops the
/// job.
pub(crate) fn response(job: Job) -> Response {
    let events = Events::new(job);
    let outcome = events.outcome.clone();
    let mut response = respond("text/event-stream", Body::from_stream(events));
    response.extensions_mut().insert(outcome);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Asks nginx not to hold events back.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    response
}

struct Events {
    progress: mpsc::Receiver<Event>,
    hide_private: bool,
    /// The one task that carries out the job; stops when dropped.
    work: JoinSet<Result<Report, Failure>>,
    outcome: Outcome,
    keep_alive: Interval,
}

impl Events {
    fn new(job: Job) -> Self {
        let mut keep_alive = interval(KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        keep_alive.reset();
        let hide_private = job.request().skip_private_hops();
        let (sender, progress) = mpsc::channel(QUEUE);
        let mut work = JoinSet::new();
        // A task of its own: limits of time hold, and probes are sent, whether or not somebody
        // reads.
        work.spawn(
            async move {
                let tell = Box::new(move |progress| {
                    let _ = sender.try_send(progress);
                });
                job.run(Some(tell)).await
            }
            .in_current_span(),
        );
        Events {
            progress,
            hide_private,
            work,
            outcome: Outcome::default(),
            keep_alive,
        }
    }

    /// The last event.
    fn conclude(&self, result: Result<Result<Report, Failure>, JoinError>) -> String {
        let result = result.unwrap_or_else(|panic| Err(Failure::crashed(&panic)));
        let event = result.and_then(|report| write_event("report", &report));
        event.unwrap_or_else(|failure| {
            let event = format!("event: error\ndata: {}\n\n", failure.to_json());
            self.outcome.fail(failure);
            event
        })
    }
}

impl Stream for Events {
    type Item = Result<String, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.progress.poll_recv(context) {
                Poll::Ready(Some(progress)) => {
                    if let Some(event) = describe(progress, self.hide_private) {
                        // Whoever polls does so until nothing is ready.
                        return Poll::Ready(Some(Ok(event)));
                    }
                }
                // There will be no more: the job has ended, or is about to.
                Poll::Ready(None) => {
                    if let Poll::Ready(result) = self.work.poll_join_next(context) {
                        return Poll::Ready(result.map(|result| Ok(self.conclude(result))));
                    }
                    break;
                }
                Poll::Pending => break,
            }
        }
        self.keep_alive
            .poll_tick(context)
            .map(|_| Some(Ok(":\n\n".to_owned())))
    }
}

#[derive(Serialize)]
struct Hop {
    run: u32,
    ttl: u8,
    ip_address: IpAddr,
    rtt: f64,
    destination: bool,
}

#[derive(Serialize)]
struct Run {
    run: u32,
}

#[derive(Serialize)]
struct E2e {
    index: u32,
    rtt: f64,
}

/// One event; `None` when it tells what the request wants hidden, or what the stream does not have.
fn describe(happened: Event, hide_private: bool) -> Option<String> {
    match happened {
        Event::HopFound { answer, .. } if hide_private && is_private(answer.address) => None,
        Event::HopFound { run, ttl, answer } => event(
            "hop",
            &Hop {
                run,
                ttl,
                ip_address: answer.address,
                rtt: answer.rtt.map_or(0.0, milliseconds),
                destination: answer.destination,
            },
        ),
        Event::RunFinished { run } => event("run", &Run { run }),
        Event::E2eProbe { index, rtt } => {
            let rtt = rtt.map_or(0.0, milliseconds);
            event("e2e", &E2e { index, rtt })
        }
        _ => None,
    }
}

fn milliseconds(rtt: Duration) -> f64 {
    rtt.as_nanos() as f64 / 1e6
}

/// Compact JSON contains no line break, so it is one `data` line.
fn write_event<T: Serialize>(name: &str, data: &T) -> Result<String, Failure> {
    let data = json::to_compact(data).map_err(|error| Failure::encoding(&error))?;
    Ok(format!("event: {name}\ndata: {}\n\n", data.trim_end()))
}

/// [`write_event`] of what can always be written: numbers and addresses.
fn event<T: Serialize>(name: &str, data: &T) -> Option<String> {
    write_event(name, data).ok()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use datadog_traceroute::Answer;

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

    #[test]
    fn events_as_sent() {
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
            assert_eq!(describe(progress, true), Some(expected));
        }
    }

    #[test]
    fn private_hops_are_hidden_when_asked() {
        let private = hop(Ipv4Addr::new(10, 0, 0, 1));
        assert!(describe(private, false).is_some());
        assert_eq!(describe(private, true), None);
    }
}
