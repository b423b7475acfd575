//! `GET /traceroute/stream`: server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! `hop`, `run` and `e2e` tell what happens as it happens; the last event is `report`, the document that `/traceroute`
//! gives, or `error`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::response::Response;
use datadog_traceroute::{Progress, is_private, json};
use futures_util::Stream;
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::job::Job;
use crate::router::respond;

/// How often something is sent when nothing happens, so that nobody between takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A response that carries out `job` while its body is read; dropping the body stops the job.
pub(crate) fn response(job: Job) -> Response {
    let mut response = respond("text/event-stream", Body::from_stream(Events::new(job)));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Asks nginx not to hold events back.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    response
}

/// Events that are ready to be sent; bounded by what the request asks for.
type Queue = Arc<Mutex<VecDeque<String>>>;

struct Events {
    queue: Queue,
    /// Carries out the job, and gives the last event; `None` when it is over.
    work: Option<Pin<Box<dyn Future<Output = String> + Send>>>,
    keep_alive: Interval,
}

impl Events {
    fn new(job: Job) -> Self {
        let queue = Queue::default();
        let mut keep_alive = interval(KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        keep_alive.reset();
        Events {
            work: Some(Box::pin(work(job, Arc::clone(&queue)))),
            queue,
            keep_alive,
        }
    }

    fn next_queued(&self) -> Option<String> {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

impl Stream for Events {
    type Item = Result<String, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(work) = &mut self.work
            && let Poll::Ready(last) = work.as_mut().poll(context)
        {
            self.work = None;
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.push_back(last);
        }
        if let Some(event) = self.next_queued() {
            // Whoever polls does so until nothing is ready.
            return Poll::Ready(Some(Ok(event)));
        }
        if self.work.is_none() {
            return Poll::Ready(None);
        }
        self.keep_alive
            .poll_tick(context)
            .map(|_| Some(Ok(":\n\n".to_owned())))
    }
}

/// Carries out `job`; the last event.
async fn work(job: Job, queue: Queue) -> String {
    let hide_private = job.request().skip_private_hops;
    let progress = Box::new(move |progress| {
        if let Some(event) = describe(progress, hide_private) {
            queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back(event);
        }
    });
    match job.run(Some(progress)).await {
        Ok(report) => event("report", &report),
        Err(failure) => format!("event: error\ndata: {}\n\n", failure.to_json()),
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

/// One event; `None` when it tells what the request wants hidden.
fn describe(progress: Progress, hide_private: bool) -> Option<String> {
    match progress {
        Progress::HopFound { address, .. } if hide_private && is_private(address) => None,
        Progress::HopFound {
            run,
            ttl,
            address,
            rtt,
            destination,
        } => Some(event(
            "hop",
            &Hop {
                run,
                ttl,
                ip_address: address,
                rtt: milliseconds(rtt),
                destination,
            },
        )),
        Progress::RunFinished { run } => Some(event("run", &Run { run })),
        Progress::E2eProbe { index, rtt } => {
            let rtt = rtt.map_or(0.0, milliseconds);
            Some(event("e2e", &E2e { index, rtt }))
        }
    }
}

fn milliseconds(rtt: Duration) -> f64 {
    rtt.as_nanos() as f64 / 1e6
}

/// Compact JSON contains no line break, so it is one `data` line.
fn event<T: Serialize>(name: &str, data: &T) -> String {
    match json::to_compact(data) {
        Ok(data) => format!("event: {name}\ndata: {}\n\n", data.trim_end()),
        Err(error) => {
            let failure = crate::failure::Failure::encoding(&error);
            format!("event: error\ndata: {}\n\n", failure.to_json())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn hop(address: Ipv4Addr) -> Progress {
        Progress::HopFound {
            run: 1,
            ttl: 2,
            address: address.into(),
            rtt: Duration::from_micros(1500),
            destination: false,
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
            (Progress::RunFinished { run: 2 }, r#"{"run":2}"#, "run"),
            (
                Progress::E2eProbe { index: 3, rtt: None },
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
