//! What one request may ask for, and how much may go on at once.

use std::sync::Arc;
use std::time::Duration;

use datadog_traceroute::{MAX_QUERIES, MAX_TIMEOUT_MS, Request};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use traceroute_flags::{InvalidParameter, TraceOption, Value};

/// Ceilings for one request. The defaults refuse nothing that the library allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ceilings {
    /// Most runs, and most end-to-end probes.
    pub(crate) queries: u32,
    /// Longest that an answer may take.
    pub(crate) timeout: Duration,
    /// Longest that the whole request may take.
    pub(crate) duration: Option<Duration>,
}

impl Default for Ceilings {
    fn default() -> Self {
        Ceilings {
            queries: MAX_QUERIES,
            timeout: Duration::from_millis(MAX_TIMEOUT_MS),
            duration: None,
        }
    }
}

impl Ceilings {
    /// What a parameter is that the client does not name: its default, as far as this server
    /// allows it.
    pub(crate) fn clamp(&self, option: &TraceOption, default: Option<Value>) -> Option<Value> {
        let most = match option.name() {
            "traceroute-queries" | "e2e-queries" => i64::from(self.queries),
            // At least 1: 0 would mean the default.
            "timeout" => (self.timeout.as_millis() as i64).max(1),
            _ => return default,
        };
        match default {
            Some(Value::Integer(value)) => Some(Value::Integer(value.min(most))),
            other => other,
        }
    }

    /// # Errors
    /// The first parameter that is above its ceiling.
    pub(crate) fn check(&self, request: &Request) -> Result<(), InvalidParameter> {
        for (name, value) in [
            ("traceroute-queries", request.runs()),
            ("e2e-queries", request.e2e_probes()),
        ] {
            if value > self.queries {
                return Err(too_large(name, u128::from(self.queries), "", u128::from(value)));
            }
        }
        if request.timeout() > self.timeout {
            let (limit, value) = (self.timeout.as_millis(), request.timeout().as_millis());
            return Err(too_large("timeout", limit, " ms", value));
        }
        Ok(())
    }
}

fn too_large(name: &'static str, limit: u128, unit: &str, value: u128) -> InvalidParameter {
    let problem = format!("must be at most {limit}{unit} on this server, got {value}");
    InvalidParameter::new(name, problem)
}

/// Lets requests in while there is room for their traces.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    room: Arc<Semaphore>,
    limit: u32,
}

impl Admission {
    /// Room for `limit` traces (runs and end-to-end probes in flight).
    pub(crate) fn new(limit: u32) -> Self {
        Admission {
            room: Arc::new(Semaphore::new(limit as usize)),
            limit,
        }
    }

    /// Takes the room that `request` needs until the permit is dropped; `None`: there is not
    /// enough. A request that is larger than the whole room needs all of it.
    pub(crate) fn admit(&self, request: &Request) -> Option<OwnedSemaphorePermit> {
        let traces = request.traces_at_once().clamp(1, self.limit);
        Arc::clone(&self.room).try_acquire_many_owned(traces).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(runs: u32, probes: u32) -> Request {
        let request = Request::to("192.0.2.1").runs(runs).e2e_probes(probes);
        request.build().unwrap()
    }

    #[test]
    fn the_defaults_allow_everything_that_is_valid() {
        let largest = Request::to("192.0.2.1")
            .timeout(Duration::from_millis(MAX_TIMEOUT_MS))
            .runs(MAX_QUERIES)
            .e2e_probes(MAX_QUERIES)
            .max_ttl(255)
            .build()
            .unwrap();
        assert_eq!(Ceilings::default().check(&largest), Ok(()));
        assert!(Admission::new(100).admit(&largest).is_some());
    }

    #[test]
    fn each_ceiling_is_named() {
        let ceilings = Ceilings {
            queries: 10,
            timeout: Duration::from_secs(2),
            duration: None,
        };
        let message = |request: &Request| ceilings.check(request).unwrap_err().to_string();
        assert_eq!(
            message(&request(11, 0)),
            "traceroute-queries must be at most 10 on this server, got 11"
        );
        assert_eq!(
            message(&request(10, 11)),
            "e2e-queries must be at most 10 on this server, got 11"
        );
        assert_eq!(
            message(&request(10, 10)),
            "timeout must be at most 2000 ms on this server, got 3000"
        );
    }

    #[test]
    fn room_is_taken_and_given_back() {
        let admission = Admission::new(10);
        // Three runs, and four probes waiting for an answer: one a second, three seconds each.
        let first = admission.admit(&request(3, 50)).unwrap();
        assert!(admission.admit(&request(4, 0)).is_none());
        let second = admission.admit(&request(3, 0)).unwrap();
        assert!(admission.admit(&request(0, 0)).is_none());
        drop(first);
        assert!(admission.admit(&request(7, 0)).is_some());
        drop(second);
    }

    #[test]
    fn a_request_larger_than_the_room_is_let_in_alone() {
        let admission = Admission::new(10);
        let small = admission.admit(&request(1, 0)).unwrap();
        assert!(admission.admit(&request(1000, 0)).is_none());
        drop(small);
        let large = admission.admit(&request(1000, 0)).unwrap();
        assert!(admission.admit(&request(1, 0)).is_none());
        drop(large);
    }
}
