//! Where the service meets the library that traces: a seam, so that the router can be tested
//! without a network.

use std::net::IpAddr;

use datadog_traceroute::{
    Error, Event, Paths, PathsEvent, PathsOptions, Report, Request, Statistics, Tracer, TracerOptions,
    resolve_target,
};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

/// Called for each thing that happens during a trace.
pub(crate) type OnEvent<E = Event> = Box<dyn FnMut(E) + Send>;

/// Carries requests out. Dropping a returned future stops what it began.
pub(crate) trait Backend: Send + Sync {
    /// The address of a request's target.
    fn resolve<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<IpAddr, Error>>;

    /// Carries out a request whose time counts from `start`, telling what happens when somebody
    /// wants to know.
    fn trace<'a>(
        &'a self,
        start: Instant,
        request: &'a Request,
        tell: Option<OnEvent>,
    ) -> BoxFuture<'a, Result<Report, Error>>;

    /// Finds all paths that the flows of a request take whose time counts from `start`, telling what
    /// is found when somebody wants to know.
    fn paths<'a>(
        &'a self,
        start: Instant,
        request: &'a Request,
        options: PathsOptions,
        tell: Option<OnEvent<PathsEvent>>,
    ) -> BoxFuture<'a, Result<Paths, Error>>;

    /// Counters of the engine; `None` while it has not begun.
    fn statistics(&self) -> BoxFuture<'_, Option<Statistics>>;

    /// Starts the driver that the parameter `windows-driver` asks for; systems other than Windows
    /// have none and need none.
    fn start_windows_driver(&self) -> BoxFuture<'_, Result<(), Error>>;
}

impl Backend for Tracer {
    fn resolve<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<IpAddr, Error>> {
        Box::pin(async move { Ok(resolve_target(request).await?) })
    }

    fn trace<'a>(
        &'a self,
        start: Instant,
        request: &'a Request,
        tell: Option<OnEvent>,
    ) -> BoxFuture<'a, Result<Report, Error>> {
        let Some(mut tell) = tell else {
            return Box::pin(self.trace_since(start, request));
        };
        Box::pin(async move {
            let mut events = self.events_since(start, request);
            while let Some(event) = events.next().await {
                tell(event);
            }
            events.report().await
        })
    }

    fn paths<'a>(
        &'a self,
        start: Instant,
        request: &'a Request,
        options: PathsOptions,
        tell: Option<OnEvent<PathsEvent>>,
    ) -> BoxFuture<'a, Result<Paths, Error>> {
        Box::pin(async move {
            let Some(mut tell) = tell else {
                return self.paths_since(start, request, options).await;
            };
            let mut events = self.paths_events_since(start, request, options);
            while let Some(event) = events.next().await {
                tell(event);
            }
            events.report().await
        })
    }

    fn statistics(&self) -> BoxFuture<'_, Option<Statistics>> {
        Box::pin(Tracer::statistics(self))
    }

    fn start_windows_driver(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            // The system's service manager takes its time.
            let starting = tokio::task::spawn_blocking(datadog_traceroute::start_windows_driver).await;
            Ok(starting.map_err(|panic| Error::Start(panic.into()))??)
        })
    }
}

/// A tracer that the service's own bound on traces never meets, and whose packets find room however
/// many there are.
pub(crate) fn tracer(max_traces: u32) -> Tracer {
    let defaults = TracerOptions::default();
    let mut options = TracerOptions {
        // Where there is hardly any room, a request still has a run and end-to-end probes.
        max_traces: defaults.max_traces.max(max_traces as usize),
        ..defaults
    };
    options.network.heavy_load = true;
    Tracer::with_options(options)
}
