//! The page in a browser. Needs python3,
//! chromium, chromedriver and axe: `just browser` says where they are.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::process::Stdio;

use traceroute_testbed::{Reject, require_lab};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser.py");
const REFUSED_PORT: u16 = 9999;
const PROGRAM: &str = env!("CARGO_BIN_EXE_datadog-traceroute-server");

#[test]
#[ignore = "needs a browser"]
fn the_page_draws_the_path_as_it_is_found() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(5).unwrap();
    let mut server = chain
        .client
        .command(PROGRAM)
        .args(["--addr", "127.0.0.1:3765"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let refused = format!("udp dport {REFUSED_PORT}");
    chain.routers[2]
        .reject(&refused, Reject::AdminProhibited)
        .unwrap();
    let status = chain
        .client
        .command("python3")
        .args([SCRIPT, "http://127.0.0.1:3765", &chain.target_v4().to_string()])
        .arg(REFUSED_PORT.to_string())
        .status()
        .unwrap();
    let _ = server.kill();
    let _ = server.wait();
    assert!(status.success());
}
