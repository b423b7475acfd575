//! One measurement, from its request to its report.

use std::future::{Future, pending};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use datadog_traceroute::{
    Egress, EgressError, Error, Hop, Paths, PathsEvent, PathsOptions, Protocol, Report, Request, is_one_host,
    only_zone,
};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use traceroute_format::Format;

use crate::backend::OnEvent;
use crate::failure::Failure;
use crate::limits::{Admission, Permit, Room, Scarce};
use crate::logging::{may_tell_of_cheap_request, shorten};
use crate::router::Service;
use crate::tokens::Guest;

/// A request that has been let in. Dropping it gives its room back.
pub(crate) struct Job {
    service: Arc<Service>,
    request: Request,
    start: Instant,
    longest: Option<Duration>,
    permit: Permit,
}

/// Boxed: what it needs is gone when a trace begins, and there may be ten thousand of them.
type Admitting = BoxFuture<'static, Result<Job, Failure>>;

impl Job {
    /// Checks a request, takes room for it, and finds and checks the address of its target. It
    /// ends `within` this time.
    ///
    /// # Errors
    /// Parameters that this server does not allow, too much going on, a name that cannot be
    /// resolved, or a target that may not be traced.
    pub(crate) fn admit(
        service: Arc<Service>,
        request: Request,
        guest: Guest,
        within: Option<Duration>,
    ) -> Admitting {
        Box::pin(Job::admit_with(
            service,
            request,
            within,
            move |admission, request| admission.admit(request, guest),
        ))
    }

    /// The same for a discovery of paths.
    ///
    /// # Errors
    /// As [`Job::admit`].
    pub(crate) fn admit_discovery(
        service: Arc<Service>,
        request: Request,
        guest: Guest,
        options: PathsOptions,
    ) -> Admitting {
        Box::pin(Job::admit_with(
            service,
            request,
            None,
            move |admission, request| admission.admit_discovery(request, options, guest),
        ))
    }

    async fn admit_with(
        service: Arc<Service>,
        request: Request,
        within: Option<Duration>,
        take: impl FnOnce(&Admission, &Request) -> Result<Permit, Scarce> + Send,
    ) -> Result<Job, Failure> {
        if let Some(parameter) = service.settings.policy.egress.refused(&request) {
            return Err(Failure::egress_not_allowed(parameter));
        }
        let ceilings = &service.settings.ceilings;
        ceilings.check(&request).map_err(Failure::invalid_parameters)?;
        let egress = request.egress();
        let permit = take(&service.admission, &request).map_err(Failure::overloaded)?;
        let client = permit.guest().client;
        let mut request = request.by_client(service.numbers.hash_one(client));
        if let Some(traces) = permit.most_at_once() {
            request = request.at_most_at_once(traces);
        }
        let longest = [ceilings.duration, within].into_iter().flatten().min();
        let start = Instant::now();
        let mut job = Job {
            service,
            request,
            start,
            longest,
            permit,
        };
        // In the place of the name, so that what was checked is what will be probed.
        let address = job.resolve(egress).await?;
        job.request = job.request.resolved_to(address);
        if job.request.protocol() != Protocol::Icmp && !probes_nothing(&job.request) {
            let port = job.request.probed_port();
            let service = &job.service;
            let now = Instant::now().into_std();
            let allowed = service.ports.probe(client, address, port, now);
            allowed.map_err(|wait| {
                service.admission.count_refused(Scarce::OwnPorts);
                Failure::too_frequent(Scarce::OwnPorts, wait)
            })?;
        }
        job.permit.aim_at(address).map_err(Failure::overloaded)?;
        if job.request.windows_driver() {
            let starting = job.service.backend.start_windows_driver();
            job.in_time(starting)
                .await?
                .map_err(|error| Failure::trace(&error))?;
        }
        Ok(job)
    }

    /// The address of the target, which may be traced.
    async fn resolve(&self, egress: Result<Egress, EgressError>) -> Result<IpAddr, Failure> {
        let resolution = self.service.backend.resolve(&self.request);
        // None where the request may take for ever: then looking up names has a limit of its own.
        let times = [Some(self.request.time_limit()), self.longest];
        let limit = times.into_iter().flatten().min();
        let limit = limit.and_then(|limit| self.start.checked_add(limit));
        let address = self.in_time(async {
            tokio::select! {
                address = resolution => address,
                () = at(limit) => Err(Error::TooLate),
            }
        });
        let address = address.await?.map_err(|error| Failure::trace(&error))?;
        let interface = egress.and_then(|egress| match egress.interface {
            None => only_zone(address),
            chosen => Ok(chosen),
        });
        // First of all: what interfaces there are is nothing to tell those who may not know.
        let known = interface.as_ref().ok().copied().flatten();
        let token = self.permit.guest().token.as_ref();
        let allowed = token.is_none_or(|token| token.allows(address, known));
        if !allowed || !self.service.settings.policy.allows(address, known) {
            return Err(Failure::target_not_allowed(self.request.host()));
        }
        interface.map_err(|error| Failure::trace(&Error::Egress(error)))?;
        if !is_one_host(address) {
            return Err(Failure::trace(&Error::NotAHost(address)));
        }
        Ok(address)
    }

    /// What is traced.
    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// Traces, telling `tell` what happens.
    ///
    /// # Errors
    /// The trace failed, took too long, or the service stops.
    pub(crate) async fn run(&mut self, tell: Option<OnEvent>) -> Result<Report, Failure> {
        let trace = self.service.backend.trace(self.start, &self.request, tell);
        let report = self.in_time(trace).await?;
        self.permit.probing_is_over();
        let report = report.map_err(|error| Failure::trace(&error))?;
        self.service.metrics.count_e2e(&report.end_to_end);
        for warning in &report.warnings {
            if may_tell_of_cheap_request() {
                let target = shorten(self.request.hostname());
                tracing::warn!(target = &*target, code = ?warning.code, "{}", shorten(&warning.text));
            }
        }
        Ok(report)
    }

    /// Finds all paths, telling `tell` what is found.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub(crate) async fn paths(
        &mut self,
        options: PathsOptions,
        tell: Option<OnEvent<PathsEvent>>,
    ) -> Result<Paths, Failure> {
        let backend = &self.service.backend;
        let discovery = backend.paths(self.start, &self.request, options, tell);
        let paths = self.in_time(discovery).await?;
        self.permit.probing_is_over();
        paths.map_err(|error| Failure::trace(&error))
    }

    /// How many bytes writing a report takes.
    ///
    /// # Errors
    /// It took too long, the service stops, or a defect of ours.
    pub(crate) async fn memory_of(&self, report: &Arc<Report>, format: Format) -> Result<usize, Failure> {
        let hops = self.request.runs() as usize * usize::from(self.request.max_ttl());
        let (report, details) = (Arc::clone(report), self.request.details());
        let measure = move || format.memory(&report, details);
        self.write(hops * size_of::<Hop>(), measure).await
    }

    /// Does the work of writing something of so many bytes ([`Writer::write`](crate::writer::Writer)).
    ///
    /// # Errors
    /// It took too long, the service stops, or the work has panicked.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        self.in_time(self.service.writer.write(bytes, work)).await?
    }

    /// Memory for writing a document that takes so many bytes, and for the document until it has been
    /// sent.
    ///
    /// # Errors
    /// There is not enough, it took too long, or the service stops.
    pub(crate) async fn room_for(&self, bytes: usize) -> Result<Room, Failure> {
        let room = self.in_time(self.permit.room_for(bytes)).await?;
        room.map_err(Failure::overloaded)
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let mut cancelled = self.service.cancelled.clone();
        tokio::select! {
            biased;
            result = work => Ok(result),
            () = at(self.longest.and_then(|longest| self.start.checked_add(longest))) => Err(self.took_too_long()),
            // An error means that the one who could cancel is gone, which is as good.
            _ = cancelled.wait_for(|cancelled| *cancelled) => Err(Failure::stopping()),
        }
    }

    fn took_too_long(&self) -> Failure {
        let longest = crate::duration::format(self.longest.unwrap_or_default());
        let cause = if self.longest == self.service.settings.ceilings.duration {
            format!("not finished within {longest}, the longest that this server allows")
        } else {
            format!("not finished within {longest}, the time that there is until the scrape times out")
        };
        Failure::took_too_long(&cause)
    }
}

/// Whether a request asks for no runs and no end-to-end probes.
pub(crate) fn probes_nothing(request: &Request) -> bool {
    request.runs() == 0 && request.e2e_probes() == 0
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
