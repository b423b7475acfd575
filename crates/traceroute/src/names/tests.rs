//! Name servers on loopback that answer oddly, and files that change.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::Instant;

use super::*;
use crate::request::Host;
use crate::target::{resolve_in, wanted};

const A: u16 = 1;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const AAAA: u16 = 28;

/// What a server does with a question for a name and a type of record.
type Behaviour = fn(&str, u16) -> Reply;

#[derive(Clone)]
enum Reply {
    /// These records: their types and contents.
    Records(Vec<(u16, Vec<u8>)>),
    /// A code of RFC 1035 §4.1.1, without the question.
    Code(u8),
    /// As [`Reply::Records`], but over UDP it says that it had no room for all.
    Truncated(Vec<(u16, Vec<u8>)>),
    /// The question's identifier and nothing that can be read.
    Garbage,
    Silence,
}

const NO_SUCH_NAME: Reply = Reply::Code(3);
const SERVER_FAILURE: Reply = Reply::Code(2);
const REFUSED: Reply = Reply::Code(5);

fn v4(last: u8) -> Reply {
    Reply::Records(vec![(A, vec![192, 0, 2, last])])
}

fn v6(last: u8) -> Reply {
    Reply::Records(vec![(AAAA, six(last))])
}

fn six(last: u8) -> Vec<u8> {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last))
        .octets()
        .to_vec()
}

fn none() -> Reply {
    Reply::Records(Vec::new())
}

fn wire(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, u16)>>>,
}

impl Server {
    async fn start(behaviour: Behaviour) -> Self {
        Self::start_at("127.0.0.1:0", behaviour).await
    }

    /// Over UDP and TCP on one port.
    async fn start_at(address: &str, behaviour: Behaviour) -> Self {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind(address).await.unwrap();
            // Where the system chose a port that somebody has for TCP, it chooses another one.
            match TcpListener::bind(socket.local_addr().unwrap()).await {
                Err(error) if error.kind() == ErrorKind::AddrInUse && address.ends_with(":0") => {}
                listener => break (socket, listener.unwrap()),
            }
        };
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (by_udp, by_tcp) = (Arc::clone(&asked), Arc::clone(&asked));
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let reply = reply(&buffer[..length], behaviour, true, &by_udp);
                if let Some(message) = reply {
                    // Somebody else's answer first.
                    socket
                        .send_to(&[message[0] ^ 1, message[1], 0x81, 0x80], from)
                        .await
                        .unwrap();
                    socket.send_to(&message, from).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let length = stream.read_u16().await.unwrap();
                let mut query = vec![0; usize::from(length)];
                stream.read_exact(&mut query).await.unwrap();
                if let Some(message) = reply(&query, behaviour, false, &by_tcp) {
                    stream.write_u16(message.len() as u16).await.unwrap();
                    stream.write_all(&message).await.unwrap();
                }
            }
        });
        Server { address, asked }
    }

    /// What was asked since the last time.
    fn asked(&self) -> Vec<(String, u16)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn configuration(&self) -> Configuration {
        Configuration::with_servers(vec![self.address])
    }
}

/// RFC 1035 §4.1.
fn reply(
    query: &[u8],
    behaviour: Behaviour,
    datagram: bool,
    asked: &Mutex<Vec<(String, u16)>>,
) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..=at + length].to_vec()).unwrap());
        at += 1 + length;
    }
    let question = &query[12..at + 5];
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let name = labels.join(".").to_ascii_lowercase();
    asked.lock().unwrap().push((name.clone(), kind));
    let (records, truncated) = match behaviour(&name, kind) {
        Reply::Records(records) => (records, false),
        Reply::Truncated(records) => (records, datagram),
        Reply::Code(code) => {
            return Some(vec![
                query[0],
                query[1],
                0x81,
                0x80 | code,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
        }
        Reply::Garbage => return Some(vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, 9, 0, 0]),
        Reply::Silence => return None,
    };
    let flags = if truncated { 0x83 } else { 0x81 };
    let mut message = vec![
        query[0],
        query[1],
        flags,
        0x80,
        0,
        1,
        0,
        records.len() as u8,
        0,
        0,
        0,
        0,
    ];
    message.extend_from_slice(question);
    for (kind, content) in records {
        message.extend_from_slice(&[0xc0, 12]);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        message.extend_from_slice(&(content.len() as u16).to_be_bytes());
        message.extend_from_slice(&content);
    }
    Some(message)
}

fn texts(answer: Resolution) -> Result<Vec<String>, String> {
    match answer {
        Ok(found) => Ok(found.iter().map(ToString::to_string).collect()),
        Err(failure) => Err(failure.to_string()),
    }
}

async fn ask(configuration: &Configuration, name: &str, wanted: Wanted) -> Result<Vec<String>, String> {
    let turn = Turns::new(64).turn(0).await;
    texts(dns::addresses(configuration, name, wanted, turn.as_ref()).await)
}

/// At once, whatever the server says of the other kind of record. Silence takes no time
/// on a clock that jumps, and jumps show in the time that passed.
#[tokio::test(start_paused = true)]
async fn one_kind_of_address_is_enough_whatever_is_said_of_the_other() {
    fn odd(name: &str) -> Reply {
        match name.split('.').next().unwrap() {
            "nxdomain" => NO_SUCH_NAME,
            "servfail" => SERVER_FAILURE,
            "refused" => REFUSED,
            "notimp" => Reply::Code(4),
            "formerr" => Reply::Code(1),
            "garbage" => Reply::Garbage,
            "none" => none(),
            _ => Reply::Silence,
        }
    }
    let only_v4 = Server::start(|name, kind| if kind == A { v4(1) } else { odd(name) }).await;
    let only_v6 = Server::start(|name, kind| if kind == AAAA { v6(1) } else { odd(name) }).await;
    let names = [
        "nxdomain", "servfail", "refused", "notimp", "formerr", "garbage", "none", "silence",
    ];
    for name in names.map(|name| format!("{name}.example")) {
        for (server, wanted, expected) in [
            (&only_v4, Wanted::V4OrElseV6, "192.0.2.1"),
            (&only_v4, Wanted::V4, "192.0.2.1"),
            (&only_v6, Wanted::V6, "2001:db8::1"),
            (&only_v6, Wanted::V4OrElseV6, "2001:db8::1"),
        ] {
            let began = Instant::now();
            let found = ask(&server.configuration(), &name, wanted).await;
            assert_eq!(found, Ok(vec![expected.to_owned()]), "{name} {wanted:?}");
            let patience = match (expected, wanted, name.as_str()) {
                // IPv4 is waited for: its packet may be lost.
                ("2001:db8::1", Wanted::V4OrElseV6, "silence.example") => V4_PATIENCE,
                _ => Duration::ZERO,
            };
            let passed = began.elapsed();
            assert!(
                passed >= patience && passed < patience + Duration::from_millis(100),
                "{name} {wanted:?}: {passed:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_packet_is_sent_again_and_both_kinds_still_come() {
    static LOST: AtomicUsize = AtomicUsize::new(0);
    let server = Server::start(|_, kind| match kind {
        A if LOST.fetch_add(1, Ordering::Relaxed) == 0 => Reply::Silence,
        A => v4(1),
        _ => v6(1),
    })
    .await;
    let found = ask(&server.configuration(), "a.example", Wanted::V4OrElseV6).await;
    assert_eq!(found, Ok(vec!["192.0.2.1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn failures_say_who_said_what() {
    let server = Server::start(|name, kind| match (name.split('.').next().unwrap(), kind) {
        ("nxdomain", _) => NO_SUCH_NAME,
        ("none", _) | ("mixed", A) => none(),
        ("mixed" | "servfail", _) => SERVER_FAILURE,
        _ => Reply::Silence,
    })
    .await;
    let configuration = server.configuration();
    let address = server.address;
    for (name, expected) in [
        ("nxdomain.example", "no such host".to_owned()),
        (
            "none.example",
            "the name exists, but has no such address".to_owned(),
        ),
        (
            "mixed.example",
            format!("name server {address} answered Server Failure"),
        ),
        (
            "servfail.example",
            format!("name server {address} answered Server Failure"),
        ),
    ] {
        let began = Instant::now();
        assert_eq!(
            ask(&configuration, name, Wanted::V4OrElseV6).await,
            Err(expected),
            "{name}"
        );
        assert!(
            began.elapsed() < Duration::from_millis(100),
            "{name}: {:?}",
            began.elapsed()
        );
    }
    let began = Instant::now();
    let silence = ask(&configuration, "silence.example", Wanted::V4).await;
    assert_eq!(
        silence,
        Err(format!("no answer from name server {address} within 6.0 s"))
    );
    assert!(
        began.elapsed() < Duration::from_millis(6100),
        "{:?}",
        began.elapsed()
    );
}

/// Nobody listens, refuses and is silent: the next is asked. In the order of the file, and no
/// other.
#[tokio::test(start_paused = true)]
async fn the_next_server_is_asked_when_one_is_of_no_use() {
    let nobody = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let refusing = Server::start(|_, _| REFUSED).await;
    let silent = Server::start(|_, _| Reply::Silence).await;
    let good = Server::start(|name, kind| match (name, kind) {
        ("known.example", A) => v4(1),
        _ => NO_SUCH_NAME,
    })
    .await;
    let never = Server::start(|_, _| v4(9)).await;
    for (first, expected) in [
        // Where a closed port is not reported, it is silent like any other.
        (nobody, Duration::from_secs(u64::from(cfg!(windows)))),
        (refusing.address, Duration::ZERO),
        (silent.address, Duration::from_secs(1)),
    ] {
        let configuration = Configuration::with_servers(vec![first, good.address, never.address]);
        let began = Instant::now();
        let found = ask(&configuration, "known.example", Wanted::V4).await;
        assert_eq!(found, Ok(vec!["192.0.2.1".to_owned()]), "{first}");
        let passed = began.elapsed();
        assert!(
            passed >= expected && passed < expected + Duration::from_millis(100),
            "{passed:?}"
        );
        // That a name does not exist is an answer.
        let found = ask(&configuration, "unknown.example", Wanted::V4).await;
        assert_eq!(found, Err("no such host".to_owned()));
    }
    assert!(never.asked().is_empty());
}

/// Sockets to silent servers took all files.
#[tokio::test(start_paused = true)]
async fn without_a_further_turn_the_next_server_is_asked_in_place_of_the_silent_one() {
    let silent = Server::start(|_, _| Reply::Silence).await;
    let good = Server::start(|_, _| v4(1)).await;
    let configuration = Configuration::with_servers(vec![silent.address, good.address]);
    let turns = Turns::new(2);
    let turn = turns.turn(0).await;
    assert!(turn.as_ref().is_some_and(|turn| turn.another().is_none()));
    let began = Instant::now();
    let found = dns::addresses(&configuration, "known.example", Wanted::V4, turn.as_ref()).await;
    assert_eq!(texts(found), Ok(vec!["192.0.2.1".to_owned()]));
    assert_eq!(began.elapsed().as_millis() / 100, 10);
}

#[test]
fn look_ups_leave_files_for_others() {
    for (files, sockets) in [
        (0, 8),
        (64, 8),
        (256, 32),
        (1024, 128),
        (8192, 1024),
        (u64::MAX, 1024),
    ] {
        assert_eq!(most_name_sockets(files), sockets, "{files}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_a_look_up_stops_its_questions() {
    let silent = Server::start(|_, _| Reply::Silence).await;
    let configuration = silent.configuration();
    let look_up = ask(&configuration, "a.example", Wanted::V4OrElseV6);
    assert!(timeout(Duration::from_millis(500), look_up).await.is_err());
    assert_eq!(silent.asked().len(), 2, "one for each kind");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(silent.asked().is_empty());
}

#[tokio::test]
async fn what_does_not_fit_is_asked_over_tcp() {
    let server = Server::start(|_, kind| match kind {
        A => Reply::Truncated(vec![(A, vec![192, 0, 2, 1]), (A, vec![192, 0, 2, 2])]),
        _ => Reply::Truncated(vec![]),
    })
    .await;
    let found = ask(&server.configuration(), "big.example", Wanted::V4OrElseV6).await;
    assert_eq!(found, Ok(vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()]));
    let tcp_only = Configuration {
        tcp_only: true,
        ..server.configuration()
    };
    server.asked();
    let found = ask(&tcp_only, "big.example", Wanted::V4).await;
    assert_eq!(found.unwrap().len(), 2);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn aliases_underscores_and_several_addresses() {
    let server = Server::start(|name, kind| match (name, kind) {
        ("_srv._tcp.a_b.example", A) => Reply::Records(vec![
            (CNAME, wire("real.example")),
            (A, vec![192, 0, 2, 9]),
            (A, vec![192, 0, 2, 1]),
        ]),
        _ => none(),
    })
    .await;
    let found = ask(&server.configuration(), "_srv._tcp.a_b.example", Wanted::V4).await;
    assert_eq!(found, Ok(vec!["192.0.2.9".to_owned(), "192.0.2.1".to_owned()]));
}

/// A folder that vanishes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("names-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn system(&self, port: u16) -> System {
        System {
            port,
            ..System::new(&self.0, Resolver::NameServers)
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn resolved(system: &System, name: &str, ipv6: bool) -> Result<String, String> {
    let host = Host::Name(name.to_owned());
    match resolve_in(system, &host, wanted(ipv6), 0).await {
        Ok(address) => Ok(address.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Both servers have the same port, as `resolv.conf` knows none.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_changed_resolv_conf_counts_from_the_next_question_on() {
    let first = Server::start_at("127.0.0.1:0", |_, _| v4(1)).await;
    let second = Server::start_at(&format!("127.0.0.2:{}", first.address.port()), |_, _| v4(2)).await;
    let folder = Folder::new("changed");
    let system = folder.system(first.address.port());
    folder.write("resolv.conf", "nameserver 127.0.0.1\n");
    assert_eq!(resolved(&system, "a.example", false).await.unwrap(), "192.0.2.1");
    // Rewritten in place, as long as before and at once: neither size nor time need show it.
    folder.write("resolv.conf", "nameserver 127.0.0.2\n");
    assert_eq!(resolved(&system, "a.example", false).await.unwrap(), "192.0.2.2");
    first.asked();
    // Replaced.
    folder.write("new", "nameserver 127.0.0.1\n");
    fs::rename(folder.0.join("new"), folder.0.join("resolv.conf")).unwrap();
    assert_eq!(resolved(&system, "a.example", false).await.unwrap(), "192.0.2.1");
    assert!(!first.asked().is_empty() && !second.asked().is_empty());
    // Gone: the server on this machine, which is the first one.
    fs::remove_file(folder.0.join("resolv.conf")).unwrap();
    assert_eq!(resolved(&system, "a.example", false).await.unwrap(), "192.0.2.1");
}

#[tokio::test]
async fn an_odd_resolv_conf_is_used_as_far_as_it_goes() {
    let server = Server::start(|name, kind| match (name, kind) {
        ("host.good.example", A) => v4(1),
        ("1.2.0.192.in-addr.arpa", PTR) => Reply::Records(vec![(PTR, wire("router.example"))]),
        _ => NO_SUCH_NAME,
    })
    .await;
    let folder = Folder::new("odd");
    let system = folder.system(server.address.port());
    folder.write(
        "resolv.conf",
        "; a comment\n\
         nameserver not.an.address\n\
         nameserver\n\
         nameserver 127.0.0.1 # the one\n\
         nonsense\n\
         search corp..example . -- good.example .example 1234567890123456789012345678901234567890123456789012345678901234\n\
         options ndots:x unknown-option unknown:7 timeout:0 attempts:99 edns0 trust-ad\n\
         sortlist 300.0.0.0\n",
    );
    assert_eq!(resolved(&system, "host", false).await.unwrap(), "192.0.2.1");
    let configuration = system.configuration();
    let search: Vec<String> = configuration.search.iter().map(ToString::to_string).collect();
    assert_eq!(search, ["good.example."]);
    assert_eq!(
        (configuration.attempts, configuration.timeout),
        (5, Duration::from_secs(1))
    );
    let names = dns::pointers(&configuration, "192.0.2.1".parse().unwrap(), None)
        .await
        .unwrap();
    assert_eq!(names[0].to_string(), "router.example.");
}

fn candidates(resolv_conf: &str, hostname: &str, name: &str) -> Vec<String> {
    let configuration = Configuration::parse(resolv_conf.as_bytes(), hostname, 53);
    configuration
        .candidates(name)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn names_are_searched_as_resolv_conf_says() {
    let searched = "search a.example b.example\n";
    for (resolv_conf, name, expected) in [
        (searched, "x", vec!["x.a.example.", "x.b.example.", "x."]),
        (searched, "x.y", vec!["x.y.", "x.y.a.example.", "x.y.b.example."]),
        (searched, "x.", vec!["x."]),
        (searched, "x.y.", vec!["x.y."]),
        (
            "search a.example\noptions ndots:2\n",
            "x.y",
            vec!["x.y.a.example.", "x.y."],
        ),
        (
            "search a.example\noptions ndots:0\n",
            "x",
            vec!["x.", "x.a.example."],
        ),
        (
            "search a.example\ndomain c.example\n",
            "x",
            vec!["x.c.example.", "x."],
        ),
        (
            "domain c.example\nsearch a.example\n",
            "x",
            vec!["x.a.example.", "x."],
        ),
        ("", "x", vec!["x.of.host.", "x."]),
        ("search .\n", "x", vec!["x."]),
    ] {
        assert_eq!(
            candidates(resolv_conf, "this.of.host", name),
            expected,
            "{resolv_conf} {name}"
        );
    }
    assert_eq!(candidates("", "this", "x"), ["x."]);
    assert!(candidates("", "this", "a..b").is_empty());
}

/// A name that exists in the first domain, but without the address wanted, may have it in the next.
/// Silence ends it.
#[tokio::test(start_paused = true)]
async fn the_first_meaning_with_an_address_counts() {
    let server = Server::start(|name, kind| match (name, kind) {
        ("x.a.example", AAAA) => v6(1),
        ("x.a.example" | "broken.a.example", _) => none(),
        ("x.b.example" | "broken.b.example", A) => v4(2),
        ("quiet.a.example", _) => Reply::Silence,
        ("quiet.b.example", _) => v4(3),
        _ => NO_SUCH_NAME,
    })
    .await;
    let text = "search a.example b.example";
    let configuration = Configuration {
        servers: vec![server.address],
        ..Configuration::parse(text.as_bytes(), "", 53)
    };
    let found = async |name, wanted| ask(&configuration, name, wanted).await;
    assert_eq!(
        found("x", Wanted::V4OrElseV6).await,
        Ok(vec!["2001:db8::1".to_owned()])
    );
    assert_eq!(found("x", Wanted::V4).await, Ok(vec!["192.0.2.2".to_owned()]));
    assert_eq!(
        found("broken", Wanted::V4OrElseV6).await,
        Ok(vec!["192.0.2.2".to_owned()])
    );
    let began = Instant::now();
    assert!(found("quiet", Wanted::V4OrElseV6).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
}

/// The rules of families, and that the hosts file decides alone where it knows a name.
#[tokio::test]
async fn families_of_names() {
    let server = Server::start(|name, kind| match (name, kind) {
        ("both.example" | "only6.example", AAAA) => v6(6),
        ("both.example" | "only4.example", A) => v4(4),
        ("both.example" | "only4.example" | "only6.example" | "neither.example", _) => none(),
        _ => NO_SUCH_NAME,
    })
    .await;
    let folder = Folder::new("families");
    let system = folder.system(server.address.port());
    folder.write("resolv.conf", "nameserver 127.0.0.1\n");
    folder.write(
        "hosts",
        "2001:db8::1 listed\n10.0.0.2 listed\n10.0.0.1 listed both.example\n2001:db8::3 listed6\n10.9.9.9 localhost",
    );
    for (name, expected, expected6) in [
        (
            "only4.example",
            Ok("192.0.2.4"),
            Err(r#""only4.example" has no IPv6 address"#),
        ),
        ("only6.example", Ok("2001:db8::6"), Ok("2001:db8::6")),
        ("ONLY6.example.", Ok("2001:db8::6"), Ok("2001:db8::6")),
        (
            "neither.example",
            Err(r#"cannot resolve "neither.example": it has neither an IPv4 nor an IPv6 address"#),
            Err(r#""neither.example" has no IPv6 address"#),
        ),
        (
            "unknown.example",
            Err(r#"cannot resolve "unknown.example": no such host"#),
            Err(r#"cannot resolve "unknown.example": no IPv6 address: no such host"#),
        ),
        ("listed", Ok("10.0.0.2"), Ok("2001:db8::1")),
        (
            "both.example",
            Ok("10.0.0.1"),
            Err(r#""both.example" has no IPv6 address"#),
        ),
        ("listed6", Ok("2001:db8::3"), Ok("2001:db8::3")),
        ("localhost", Ok("10.9.9.9"), Ok("::1")),
        ("a.localhost.", Ok("127.0.0.1"), Ok("::1")),
    ] {
        let found = resolved(&system, name, false).await;
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{name}");
        let found = resolved(&system, name, true).await;
        assert_eq!(
            found.as_deref().map_err(String::as_str),
            expected6,
            "{name} --ipv6"
        );
    }
    server.asked();
    for name in ["listed", "both.example", "listed6", "localhost", "0x7f000001"] {
        let _ = resolved(&system, name, true).await;
    }
    assert_eq!(server.asked(), [], "nobody else is asked");
}

#[test]
fn the_c_library_is_asked_where_it_knows_more() {
    let cases = [
        ("", "a.example", false),
        ("passwd: files\n# hosts: nis\n", "a.example", false),
        ("hosts: files dns", "a.example", false),
        ("  hosts:\tfiles  dns # nis", "a.example", false),
        (
            "hosts: files [SUCCESS=return NOTFOUND=continue] dns",
            "a.example",
            false,
        ),
        ("hosts: dns files", "a.example", true),
        ("hosts: files", "a.example", true),
        ("hosts: files nis dns", "a.example", true),
        (
            "hosts: files mymachines resolve [!UNAVAIL=return] dns",
            "a.example",
            true,
        ),
        (
            "hosts: files mdns4_minimal [NOTFOUND=return] dns",
            "a.example",
            false,
        ),
        (
            "hosts: files mdns4_minimal [NOTFOUND=return] dns",
            "printer.local",
            true,
        ),
        (
            "hosts: files mdns4_minimal [NOTFOUND=return] dns",
            "Printer.LOCAL.",
            true,
        ),
        ("hosts: files mdns4 dns", "a.example", true),
        ("hosts: files dns myhostname", "a.example", false),
        ("hosts: files dns myhostname", "ThisHost", true),
        ("hosts: files dns myhostname", "_gateway", true),
    ];
    for (nsswitch, name, expected) in cases {
        assert_eq!(
            configuration::needs_c_library(nsswitch, name, "thishost"),
            expected,
            "{nsswitch:?} {name}"
        );
    }
}

#[test]
fn host_names_as_others_claim_them() {
    for good in [
        "a",
        "router-1.example",
        "_a_.b",
        "xn--bcher-kva.example",
        "1a",
        "1-1",
        "4.example",
    ] {
        assert!(is_host_name(good.as_bytes()), "{good}");
    }
    for bad in [
        "",
        ".",
        "a.",
        "a..b",
        "-a",
        "a-",
        "a-.b",
        "1.2.3.4",
        "12",
        "a b",
        "a\\b",
        "b\u{fc}cher",
        "a/b",
    ] {
        assert!(!is_host_name(bad.as_bytes()), "{bad}");
    }
}

/// RFC 4007 §11: what routers announce as a name server often is a link-local address.
#[cfg(target_os = "linux")]
#[test]
fn a_name_server_may_have_a_zone() {
    let configuration = Configuration::parse(
        b"nameserver fe80::1%lo\nnameserver fe80::1%no-such-interface\n",
        "",
        53,
    );
    let servers: Vec<String> = configuration.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["[fe80::1%1]:53"]);
}

proptest! {
    #[test]
    fn nothing_that_is_read_panics(bytes: Vec<u8>, text: String, name: String) {
        read_anything(&bytes, &bytes, (&text, &name));
        let _ = is_host_name(&bytes);
    }
}

/// What the only server says to the questions for A and AAAA, and how long that took.
async fn checked(behaviour: Behaviour) -> (String, Duration) {
    let server = Server::start(behaviour).await;
    let began = Instant::now();
    let found = check::check(&server.configuration()).await;
    let [found] = &found[..] else {
        panic!("one server: {found:?}");
    };
    assert_eq!(found.address, server.address);
    assert!(server.asked().iter().all(|(name, _)| name == check::ASKED_NAME));
    (format!("{:?}, {:?}", found.v4, found.v6), began.elapsed())
}

#[tokio::test]
async fn what_name_servers_answer_is_told_by_record_type() {
    let cases: [(Behaviour, &str); 5] = [
        (
            |_, kind| if kind == A { v4(1) } else { v6(1) },
            "Addresses, Some(Addresses)",
        ),
        (
            |_, kind| if kind == A { v4(1) } else { none() },
            "Addresses, Some(None)",
        ),
        (|_, _| NO_SUCH_NAME, "None, Some(None)"),
        (
            |_, kind| if kind == A { v4(1) } else { REFUSED },
            "Addresses, Some(Trouble(\"Query Refused\"))",
        ),
        (
            |_, kind| {
                if kind == A {
                    Reply::Truncated(vec![])
                } else {
                    v6(1)
                }
            },
            "None, Some(Addresses)",
        ),
    ];
    for (behaviour, expected) in cases {
        assert_eq!(checked(behaviour).await.0, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_server_that_ignores_a_record_type_is_asked_twice() {
    let (found, took) = checked(|_, kind| if kind == A { v4(1) } else { Reply::Silence }).await;
    assert_eq!(found, "Addresses, Some(Silence)");
    assert_eq!(took.as_secs(), 2, "{took:?}");
}

#[tokio::test]
async fn name_servers_are_asked_only_what_is_configured() {
    let server = Server::start(|_, _| v4(1)).await;
    let without_v6 = Configuration {
        no_ipv6: true,
        ..server.configuration()
    };
    assert!(check::check(&without_v6).await[0].v6.is_none());
    assert_eq!(server.asked(), [(check::ASKED_NAME.to_owned(), A)]);
    // None is configured.
    let assumed = Configuration::parse(b"search test\n", "", server.address.port());
    assert_eq!(assumed.servers.len(), 1);
    assert!(check::check(&assumed).await.is_empty());
    assert!(server.asked().is_empty());
}
