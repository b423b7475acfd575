//! One `/traceroute` request, from its query string to its report.

use std::future::{Future, pending};
use std::net::IpAddr;
use std::sync::Arc;

use datadog_traceroute::{
    Egress, EgressError, Error, ErrorCode, Paths, PathsOptions, Report, Request, only_zone,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use traceroute_flags::Parameters;

use crate::backend::OnProgress;
use crate::failure::Failure;
use crate::router::Service;

/// A request that has been let in. Dropping it gives its room back.
pub(crate) struct Job {
    service: Arc<Service>,
    request: Request,
    start: Instant,
    deadline: Option<Instant>,
    _room: OwnedSemaphorePermit,
}

impl Job {
    /// Checks a request, takes room for it, and finds and checks the address of its target.
    ///
    /// # Errors
    /// Wrong parameters, too much going on, a name that cannot be resolved, or a target that may
    /// not be traced.
    pub(crate) async fn admit(service: Arc<Service>, parameters: Parameters) -> Result<Job, Failure> {
        let invalid = |error| Failure::invalid_parameters(&error);
        let request = parameters.validate().map_err(invalid)?;
        if let Some(parameter) = service.settings.policy.egress.refused(&request) {
            return Err(Failure::egress_not_allowed(parameter));
        }
        service.settings.ceilings.check(&request).map_err(invalid)?;
        let egress = request.egress();
        let room = service
            .admission
            .admit(&request)
            .ok_or_else(Failure::overloaded)?;
        let longest = service.settings.ceilings.duration;
        let start = Instant::now();
        let mut job = Job {
            start,
            deadline: longest.map(|longest| start + longest),
            service,
            request,
            _room: room,
        };
        // In the place of the name, so that what was checked is what will be probed.
        let address = job.resolve(egress).await?;
        job.request = job.request.resolved_to(address);
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
        let resolution = self
            .service
            .backend
            .resolve(self.request.host(), self.request.ipv6());
        // None where the request may take for ever: then looking up names has a limit of its own.
        let limit = self.start.checked_add(self.request.time_limit());
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
        if !self.service.settings.policy.allows(address, known) {
            return Err(Failure::target_not_allowed(self.request.host()));
        }
        interface.map_err(Failure::egress)?;
        Ok(address)
    }

    /// What is traced.
    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// Traces, telling `progress` what happens.
    ///
    /// # Errors
    /// The trace failed, took too long, or the service stops.
    pub(crate) async fn run(&self, progress: Option<OnProgress>) -> Result<Report, Failure> {
        let trace = self.service.backend.trace(self.start, &self.request, progress);
        let report = self.in_time(trace).await?;
        let report = report.map_err(|error| Failure::trace(&error))?;
        self.service.metrics.count_e2e(&report.e2e_probe);
        Ok(report)
    }

    /// Finds all paths.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub(crate) async fn paths(&self, options: PathsOptions) -> Result<Paths, Failure> {
        let discovery = self.service.backend.paths(&self.request, options);
        let paths = self.in_time(discovery).await?;
        paths.map_err(|error| Failure::trace(&error))
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let mut cancelled = self.service.cancelled.clone();
        tokio::select! {
            result = work => Ok(result),
            () = at(self.deadline) => Err(self.took_too_long()),
            // An error means that the one who could cancel is gone, which is as good.
            _ = cancelled.wait_for(|cancelled| *cancelled) => Err(Failure::stopping()),
        }
    }

    fn took_too_long(&self) -> Failure {
        let longest = self.service.settings.ceilings.duration.unwrap_or_default();
        let cause = format!(
            "not finished within {}, the longest that this server allows",
            crate::duration::format(longest)
        );
        Failure::trace_failed(ErrorCode::Timeout, cause)
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
