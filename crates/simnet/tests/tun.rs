//! The program and the runner behind a real TUN device, in network namespaces that vanish with
//! their processes.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use etherparse::{SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};
use socket2::{Domain, Protocol, Socket, Type};
use traceroute_simnet::tun::{Activity, Settings};
use traceroute_simnet::{Network, Topology, example, namespace, tun};
use traceroute_testbed::not_run;

const PROGRAM: &str = env!("CARGO_BIN_EXE_traceroute-simnet");
const V4: &str = "198.51.100.11";
const V6: &str = "2001:db8:ffff::11";

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

/// Runs a command of a shell with a built-in topology in a namespace; `None`: no privileges.
fn run_inside(options: &[&str], topology: &str, command: &str) -> Option<Output> {
    let mut arguments = vec!["run", "--namespace"];
    arguments.extend(options);
    arguments.extend([topology, "--", "sh", "-c", command]);
    let output = run(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let forbidden = ["cannot create a network namespace", "cannot create a TUN device"];
    if forbidden.iter().any(|message| stderr.contains(message)) {
        not_run(stderr.trim());
        return None;
    }
    Some(output)
}

#[test]
fn the_programs_status_is_that_of_its_command() {
    let Some(output) = run_inside(&[], "straight", "exit 7") else {
        return;
    };
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(output.stdout.is_empty());
    let Some(output) = run_inside(&[], "straight", "kill -TERM $$") else {
        return;
    };
    assert_eq!(output.status.code(), Some(128 + 15), "{output:?}");
}

#[test]
fn nothing_is_left_outside_the_namespace() {
    let before = Command::new("ip")
        .args(["-o", "address"])
        .output()
        .unwrap()
        .stdout;
    let command = "ip -o link show simnet9 && ip route get 198.51.100.11 && ip route get 10.0.3.1";
    let Some(output) = run_inside(&["--tun", "simnet9"], "straight", command) else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("dev simnet9 src 192.0.2.1"),
        "{output:?}"
    );
    let after = Command::new("ip")
        .args(["-o", "address"])
        .output()
        .unwrap()
        .stdout;
    assert_eq!(String::from_utf8_lossy(&before), String::from_utf8_lossy(&after));
}

/// Whether a program that a test compares with is there; says that the test was not run if it is
/// not.
fn is_installed(test: &str, program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .unwrap()
        .status
        .success();
    if !found {
        not_run(&format!("{test}: {program} is not installed"));
    }
    found
}

#[test]
fn packets_and_true_delays_are_logged() {
    if !is_installed("log", "ping") {
        return;
    }
    let file = std::env::temp_dir().join(format!("simnet-delays-{}.csv", std::process::id()));
    let path = file.to_str().unwrap();
    let ping = format!("ping -n -c 3 -i 0.2 {V4}");
    let Some(output) = run_inside(&["-v", "--log-delays", path], "straight", &ping) else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("192.0.2.1 > 198.51.100.11 ttl 64 echo request"),
        "{stderr}"
    );
    assert!(
        stderr.contains("198.51.100.11 > 192.0.2.1 ttl 54 echo reply"),
        "{stderr}"
    );
    let csv = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let mut lines = csv.lines();
    let header: Vec<_> = lines.next().unwrap().split(',').collect();
    let rows: Vec<Vec<_>> = lines.map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 3);
    for (index, row) in rows.iter().enumerate() {
        let field = |name| row[header.iter().position(|column| *column == name).unwrap()];
        let nanoseconds = |name| field(name).parse::<u64>().unwrap();
        assert_eq!(field("protocol"), "icmp");
        assert_eq!(field("sequence"), (index + 1).to_string());
        assert_eq!(field("from"), V4);
        assert_eq!(nanoseconds("due_ns") - nanoseconds("read_ns"), 11_000_000);
        assert!(nanoseconds("written_ns") >= nanoseconds("due_ns"));
    }
}

#[test]
fn an_ordinary_traceroute_sees_the_path() {
    if !is_installed("traceroute", "traceroute") {
        return;
    }
    let command = format!("traceroute -n -q 1 {V4} && traceroute -n -q 1 -T -p 80 {V6}");
    let Some(output) = run_inside(&[], "straight", &command) else {
        return;
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    for hop in 1..=10 {
        assert!(stdout.contains(&format!(" 10.0.{hop}.1 ")), "{output:?}");
        assert!(stdout.contains(&format!(" 2001:db8:{hop:x}::1 ")), "{output:?}");
    }
    assert!(
        stdout.contains(&format!("\n11  {V4} ")) && stdout.contains(&format!("\n11  {V6} ")),
        "{output:?}"
    );
}

/// The runner inside a process: on a thread of its own, which a test may give its own namespace
/// when it is root.
#[test]
fn the_runner_serves_a_real_kernel() {
    std::thread::spawn(serve_a_kernel).join().unwrap();
}

fn serve_a_kernel() {
    if let Err(error) = namespace::enter() {
        return not_run(&error.to_string());
    }
    let (device, name) = match tun::open("") {
        Ok(opened) => opened,
        Err(error) => return not_run(&error.to_string()),
    };
    let text = r#"
        [[hop]]
        name = "r1"
        v4 = "10.0.1.1"
        v6 = "2001:db8:1::1"
        delay = 5
        [[target]]
        name = "target"
        v4 = "198.51.100.11"
        v6 = "2001:db8:ffff::11"
        udp = { open = [7] }
        tcp = { open = [22], greeting = "hello" }
    "#;
    let topology = Topology::parse("test", text).unwrap();
    assert!(namespace::configure(&name, &topology, true).unwrap());
    let mut network = Network::new(&topology, 1);
    let (stop, stopper) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || tun::run(&device, &mut network, &stop).map(|()| network));

    for target in [V4, V6] {
        let target: IpAddr = target.parse().unwrap();
        speak_udp(target);
        speak_tcp(target);
    }
    drop(stopper);
    let network = thread.join().unwrap().unwrap();
    assert!(network.counters("target").unwrap().seen >= 10);
    assert!(network.counters("target").unwrap().dropped.is_empty());
}

fn speak_udp(target: IpAddr) {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect((target, 7)).unwrap();
    let start = Instant::now();
    socket.send(b"echo").unwrap();
    let mut buffer = [0; 16];
    assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
    assert!(
        start.elapsed() >= Duration::from_millis(10),
        "{:?}",
        start.elapsed()
    );
    // Port unreachable reaches the socket that sent the datagram.
    socket.connect((target, 8)).unwrap();
    socket.send(b"echo").unwrap();
    assert_eq!(
        socket.recv(&mut buffer).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
}

fn speak_tcp(target: IpAddr) {
    let mut stream = TcpStream::connect((target, 22)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut greeting).unwrap(), 0);
    let refused = TcpStream::connect((target, 23)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

/// SACK probing in short: the kernel completes a handshake, a raw socket adds a byte beyond a gap,
/// the server says so, and the kernel's connection lives on.
#[test]
fn bytes_beyond_a_gap_beside_a_kernels_connection() {
    std::thread::spawn(sack_beside_a_kernel).join().unwrap();
}

fn sack_beside_a_kernel() {
    if let Err(error) = namespace::enter() {
        return not_run(&error.to_string());
    }
    let (device, name) = match tun::open("") {
        Ok(opened) => opened,
        Err(error) => return not_run(&error.to_string()),
    };
    let topology = example("sack").unwrap().topology().unwrap();
    namespace::configure(&name, &topology, false).unwrap();
    let mut network = Network::new(&topology, 1);
    let (stop, stopper) = UnixStream::pair().unwrap();
    let (seen, packets) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        tun::run_with(
            &device,
            &mut network,
            &stop,
            Settings::default(),
            &mut |activity| {
                let packet = match activity {
                    Activity::Read { packet, .. } => packet,
                    Activity::Written { delivery, .. } => &delivery.packet,
                    Activity::Refused { error, .. } => panic!("{error}"),
                };
                if let Some(header) = tcp_header(packet) {
                    seen.send(header).ok();
                }
            },
        )
    });

    let mut stream = TcpStream::connect((V4, 80)).unwrap();
    let next = || packets.recv_timeout(Duration::from_secs(5)).unwrap();
    let (syn, syn_ack, ack) = (next(), next(), next());
    assert!(syn.syn && syn_ack.syn && syn_ack.ack && !ack.syn && ack.ack);
    assert!(options(&syn_ack).contains(&TcpOptionElement::SelectiveAcknowledgementPermitted));

    let mut probe = ack.clone();
    probe.sequence_number = ack.sequence_number.wrapping_add(7);
    probe.psh = true;
    let client = [192, 0, 2, 1];
    let target: std::net::Ipv4Addr = V4.parse().unwrap();
    probe.checksum = probe
        .calc_checksum_ipv4_raw(client, target.octets(), b"x")
        .unwrap();
    let mut bytes = probe.to_bytes().to_vec();
    bytes.push(b'x');
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap();
    raw.send_to(&bytes, &std::net::SocketAddr::from((target, 0)).into())
        .unwrap();
    assert_eq!(next().sequence_number, probe.sequence_number);
    let answer = next();
    assert_eq!(answer.acknowledgment_number, ack.sequence_number);
    let block = (probe.sequence_number, probe.sequence_number.wrapping_add(1));
    let expected = TcpOptionElement::SelectiveAcknowledgement(block, [None; 3]);
    assert!(options(&answer).contains(&expected), "{answer:?}");

    stream.write_all(b"abc").unwrap();
    assert_eq!(next().sequence_number, ack.sequence_number);
    assert_eq!(next().acknowledgment_number, ack.sequence_number.wrapping_add(3));
    drop(stopper);
    thread.join().unwrap().unwrap();
}

fn tcp_header(packet: &[u8]) -> Option<TcpHeader> {
    match SlicedPacket::from_ip(packet).unwrap().transport {
        Some(TransportSlice::Tcp(tcp)) => Some(tcp.to_header()),
        _ => None,
    }
}

fn options(header: &TcpHeader) -> Vec<TcpOptionElement> {
    header.options_iterator().map(Result::unwrap).collect()
}

#[test]
fn check_list_and_show_say_what_there_is() {
    let output = run(&["check", "straight"]);
    assert!(output.status.success());
    let output = run(&["check", "/nonexistent.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("Error: /nonexistent.toml:1:1: cannot read"));
    let output = run(&["list"]);
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("straight                 Eleven hops"),
        "{output:?}"
    );
    let output = run(&["show", "straight"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        example("straight").unwrap().text
    );
    assert_eq!(run(&["show", "nothing"]).status.code(), Some(1));
}
