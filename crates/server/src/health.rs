//! `GET /health`.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use traceroute_flags::rfc3339;

use crate::duration;

#[derive(Serialize)]
struct Health {
    status: &'static str,
    timestamp: String,
    uptime: String,
}

/// The document after `uptime`, at `now`.
///
/// # Errors
/// Never in practice: three strings can be written.
pub(crate) fn document(uptime: Duration, now: SystemTime) -> serde_json::Result<String> {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    datadog_traceroute::json::to_compact(&Health {
        status: "healthy",
        timestamp: rfc3339(seconds),
        uptime: duration::format(uptime),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_form() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_210_096_789);
        assert_eq!(
            document(Duration::from_millis(3_723_500), now).unwrap(),
            "{\"status\":\"healthy\",\"timestamp\":\"2024-02-29T12:34:56Z\",\"uptime\":\"1h2m3.5s\"}\n"
        );
    }
}
