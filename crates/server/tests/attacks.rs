//! What strangers may try against the program, over real sockets.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

mod support;

use std::io::Write;

use support::{Server, finish};
use traceroute_testbed::require_lab;

/// The status of a request with these header lines.
fn status(server: &Server, uri: &str, headers: &str) -> u16 {
    let mut stream = server.connect();
    write!(stream, "GET {uri} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").unwrap();
    finish(stream).0
}

/// `browser.rs` has every form of them.
#[test]
fn a_web_page_of_another_site_sends_no_probes() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let server = Server::start(&node, &["--allowed-hosts", "trace.example"]);
    let trace = "/traceroute?target=127.0.0.1&traceroute-queries=1&e2e-queries=0";
    let firefox = "User-Agent: Mozilla/5.0\r\n";
    for (headers, expected) in [
        ("Host: evil.example\r\n".to_owned(), 200),
        (format!("Host: evil.example\r\n{firefox}"), 403),
        (
            "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n".to_owned(),
            403,
        ),
        (format!("Host: trace.example\r\n{firefox}"), 200),
        (format!("Host: 127.0.0.1\r\n{firefox}"), 200),
        (String::new(), 400),
        ("Host: a\r\nHost: b\r\n".to_owned(), 400),
    ] {
        assert_eq!(status(&server, trace, &headers), expected, "{headers}");
    }
    assert_eq!(server.metric("traceroute_traces_started_total"), 3);
}
