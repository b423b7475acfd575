//! TLS over real sockets. `scripts/test-certificates` has made the certificates.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

mod support;

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use support::{Server, get_from, socket_path};
use traceroute_testbed::{Node, require_lab};

/// Who never sends more than this takes no longer than that.
const SOON: Duration = Duration::from_secs(5);

fn certificate(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    folder.join(name)
}

fn read_certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(&fs::read(certificate(name)).unwrap()).unwrap()
}

/// A client that trusts the authority with this certificate, and has one of its own.
fn client(ca: &str, own: Option<&str>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(read_certificate(ca)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = fs::read(certificate("client.key")).unwrap();
            let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
            builder
                .with_client_auth_cert(vec![read_certificate(name)], key)
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(server: &Server, client: &Arc<ClientConfig>) -> Stream {
    let session = ClientConnection::new(Arc::clone(client), "localhost".try_into().unwrap());
    StreamOwned::new(session.unwrap(), server.connect())
}

/// Sends a request, and reads the whole answer where the connection ends with it.
fn ask(stream: &mut Stream, uri: &str, headers: &str) -> io::Result<String> {
    write!(stream, "GET {uri} HTTP/1.1\r\nHost: any.example\r\n{headers}\r\n")?;
    if headers.contains("close") {
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        return Ok(answer);
    }
    let mut answer = [0; 4096];
    let size = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..size]).into_owned())
}

fn ask_once(server: &Server, client: &Arc<ClientConfig>, uri: &str) -> io::Result<String> {
    ask(&mut connect(server, client), uri, "Connection: close\r\n")
}

/// A server with TLS, and a Unix socket without.
struct Tls {
    server: Server,
    socket: PathBuf,
}

impl Tls {
    fn start(node: &Node, name: &str, certificate: &Path, key: &Path, flags: &[&str]) -> Self {
        let socket = socket_path(name);
        let mut all = vec!["--unix-socket", socket.to_str().unwrap()];
        all.extend(["--tls-certificate", certificate.to_str().unwrap()]);
        all.extend(["--tls-key", key.to_str().unwrap()]);
        all.extend(flags);
        let server = Server::start(node, &all);
        server.wait_for_log("listening path=");
        Tls { server, socket }
    }

    fn failed(&self, reason: &str) -> usize {
        let metrics = get_from(&self.socket, "/metrics").1;
        let name = format!("traceroute_tls_handshakes_failed_total{{reason=\"{reason}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&*name));
        count.map_or(0, |count| count.parse().unwrap())
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

#[test]
fn a_port_with_tls_speaks_nothing_else() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let (own, key) = (certificate("server.pem"), certificate("server.key"));
    let tls = Tls::start(&node, "tls", &own, &key, &[]);
    let server = &tls.server;
    let trusting = client("ca.pem", None);
    let mut stream = connect(server, &trusting);
    // Over plain HTTP this would be a browser that was led here.
    let browser = "User-Agent: Mozilla/5.0\r\nConnection: close\r\n";
    let trace = "/traceroute?target=127.0.0.1&traceroute-queries=1&e2e-queries=0";
    let answer = ask(&mut stream, trace, browser).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));

    let begun = Instant::now();
    let mut plain = server.connect();
    plain
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let _ = plain.read_to_end(&mut Vec::new());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let line = server.wait_for_log("TLS handshake failed");
    assert!(
        line.contains("the client speaks no TLS; ask with https://") && line.contains("client=127.0.0.1"),
        "{line}"
    );
    assert!(ask_once(server, &client("stranger.pem", None), "/health").is_err());
    server.wait_for_log("reason=\"refused\"");
    assert_eq!((tls.failed("not_tls"), tls.failed("refused")), (1, 1));
    drop(server.connect());
    while tls.failed("closed") == 0 {}
}

/// RFC 8446 §6.1: the other direction stays open.
#[test]
fn who_only_sends_no_more_is_answered_over_tls() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let (own, key) = (certificate("server.pem"), certificate("server.key"));
    let tls = Tls::start(&node, "tls-half", &own, &key, &[]);
    let mut stream = connect(&tls.server, &client("ca.pem", None));
    // Longer than it takes to see whether the client has gone.
    let uri = "/traceroute?target=127.0.0.1&traceroute-queries=1&e2e-queries=4";
    write!(stream, "GET {uri} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn certificates_are_read_again_while_connections_stay() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (own, key) = (folder.join("reloaded.pem"), folder.join("reloaded.key"));
    let write = |certificate_name: &str, key_name: &str| {
        for (name, path) in [(certificate_name, &own), (key_name, &key)] {
            fs::write(path, fs::read(certificate(name)).unwrap()).unwrap();
            // Whoever the server becomes may read it.
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        }
    };
    write("server.pem", "server.key");
    let tls = Tls::start(&node, "tls-reload", &own, &key, &[]);
    let server = &tls.server;
    let readable = server
        .beginning
        .iter()
        .any(|line| line.contains("may read the key in"));
    assert!(readable, "{:?}", server.beginning);
    let trusting = client("ca.pem", None);
    let shown = || {
        let mut stream = connect(server, &trusting);
        ask(&mut stream, "/health", "Connection: close\r\n").unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone()
    };
    let mut old = connect(server, &trusting);
    assert!(ask(&mut old, "/health", "").unwrap().contains(" 200 "));
    assert_eq!(shown(), read_certificate("server.pem"));
    write("renewed.pem", "renewed.key");
    server.signal("-HUP");
    server.wait_for_log("read the certificates again");
    assert_eq!(shown(), read_certificate("renewed.pem"));
    // As when somebody has not replaced both yet.
    write("server.pem", "renewed.key");
    server.signal("-HUP");
    let line = server.wait_for_log("the certificates are what they were");
    assert!(line.contains("cannot use the key in"), "{line}");
    assert_eq!(shown(), read_certificate("renewed.pem"));
    assert!(ask(&mut old, "/health", "").unwrap().contains(" 200 "));
}

#[test]
fn clients_need_a_certificate_where_there_is_an_authority_for_them() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let [own, key, ca] = ["server.pem", "server.key", "ca.pem"].map(certificate);
    let flags = ["--addr", ":0", "--tls-client-ca", ca.to_str().unwrap()];
    let mut tls = Tls::start(&node, "tls-clients", &own, &key, &flags);
    tls.server.address.set_ip([127, 0, 0, 1].into());
    let server = &tls.server;
    let told = |text: &str| server.beginning.iter().any(|line| line.contains(text));
    assert!(!told("everybody who reaches the port"));
    for (own, problem) in [
        (None, "the client has no certificate"),
        (Some("expired.pem"), "certificate expired"),
        (Some("stranger.pem"), "UnknownIssuer"),
    ] {
        assert!(
            ask_once(server, &client("ca.pem", own), "/health").is_err(),
            "{own:?}"
        );
        let line = server.wait_for_log("TLS handshake failed");
        assert!(
            line.contains(problem) && line.contains("reason=\"certificate\""),
            "{line}"
        );
    }
    assert_eq!(tls.failed("certificate"), 3);
    let known = client("ca.pem", Some("client.pem"));
    // Also the second time: nothing of the first is used again.
    for _ in 0..2 {
        let answer = ask_once(server, &known, "/health").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// A half handshake is a silent connection.
#[test]
fn half_handshakes_keep_nobody_out_and_do_not_last() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let (own, key) = (certificate("server.pem"), certificate("server.key"));
    let flags = ["--max-connections", "16", "--header-timeout", "2s"];
    let mut tls = Tls::start(&node, "tls-silent", &own, &key, &flags);
    // The beginning of a handshake's record, which has 512 bytes.
    let begin = [0x16, 3, 1, 2, 0, 1];
    let half = |count: usize, server: &Server| -> Vec<TcpStream> {
        let streams = (0..count).map(|index| {
            let mut stream = server.connect();
            stream.write_all(&begin[..index % begin.len()]).unwrap();
            stream
        });
        streams.collect()
    };
    let silent = half(100, &tls.server);
    let begun = Instant::now();
    let answer = ask_once(&tls.server, &client("ca.pem", None), "/health").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let deadline = begun + 4 * SOON;
    while tls.failed("timeout") < 7 {
        assert!(Instant::now() < deadline, "{} late", tls.failed("timeout"));
        thread::sleep(Duration::from_millis(50));
    }
    drop(silent);
    // A greeting of 60 kB: no more of it than of a header is kept.
    let mut large = tls.server.connect();
    let record = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0xf0, 0][..], &[0; 0x3ffc]].concat();
    let _ = large.write_all(&[&record[..], &record].concat());
    let _ = large.read_to_end(&mut Vec::new());
    tls.server.wait_for_log("reason=\"too_large\"");
    let _silent = half(10, &tls.server);
    let begun = Instant::now();
    tls.server.signal("-TERM");
    assert_eq!(tls.server.wait().code(), Some(0));
    assert!(begun.elapsed() < 2 * SOON, "{:?}", begun.elapsed());
}
