//! The load bench itself.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use datadog_traceroute::document::Document;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use traceroute_bench::{Server, Usage, get, percentile, start_server};
use traceroute_testbed::Lab;

const QUERY: &str = "protocol=udp&traceroute-queries=1&e2e-queries=0&timeout=1000";

/// What must not be exceeded: milliseconds of CPU time for a request with one run, without the
/// network's own; milliseconds; and MB.
const MOST_CPU: f64 = 0.45;
const LARGEST_RTT: f64 = 1.0;
const MOST_MEMORY: f64 = 48.0;

pub(super) fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument =
        |index: usize, default: &str| arguments.get(index).map_or(default, String::as_str).to_owned();
    if argument(0, "") == "worker" {
        let path = argument(5, "")
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<IpAddr>, _>>()?;
        let requests = argument(4, "").parse()?;
        return work(
            &argument(1, ""),
            argument(2, "").parse()?,
            &argument(3, ""),
            requests,
            &path,
        );
    }
    let program = arguments
        .first()
        .ok_or("usage: server_load SERVER [QUERY [REQUESTS [HOPS]]]")?;
    let lab = Lab::new()?;
    let chain = lab.chain(argument(3, "11").parse()?)?;
    // A port that is open, for TCP and SACK.
    let _service = chain.target.listen_tcp(80)?;
    let path: Vec<String> = chain.hop_addresses_v4().iter().map(ToString::to_string).collect();
    let Server {
        process: mut server,
        address,
        log,
    } = start_server(&chain.client, program, &["--log-level", "info"])?;
    // The service never waits for its log; its line per request is part of its work.
    std::thread::spawn(move || log.for_each(drop));
    let mut worker = chain.client.command(std::env::current_exe()?);
    worker.args(["worker", &server.id().to_string(), &address, &argument(1, QUERY)]);
    let status = worker.args([&argument(2, "2000"), &path.join(",")]).status()?;
    server.kill()?;
    server.wait()?;
    std::process::exit(status.code().unwrap_or(1));
}

fn work(
    server: &str,
    address: SocketAddr,
    query: &str,
    requests: usize,
    path: &[IpAddr],
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let target = path.last().ok_or("no path")?;
        let uri = format!("/traceroute?target={target}&{query}");
        // Opens the sockets and fills the neighbour tables of the chain.
        let (status, _) = get(
            address,
            "/traceroute?target=127.0.0.1&traceroute-queries=1&e2e-queries=0",
            "",
        )
        .await?;
        get(
            address,
            &format!("/traceroute?target={target}&traceroute-queries=1&e2e-queries=0"),
            "",
        )
        .await?;
        println!("request             {uri} × {requests} (warm-up: {status})");
        Usage::reset_peak_of(server)?;
        let idle = Usage::of(server)?;
        let started = Instant::now();
        let mut pending: FuturesUnordered<_> = (0..requests).map(|_| get(address, &uri, "")).collect();
        let mut totals = Totals::default();
        let mut descriptors = idle.descriptors;
        while !pending.is_empty() {
            match tokio::time::timeout(Duration::from_millis(100), pending.next()).await {
                Ok(Some(answer)) => totals.add(answer, path),
                Ok(None) => {}
                Err(_) => descriptors = descriptors.max(Usage::of(server)?.descriptors),
            }
        }
        let elapsed = started.elapsed();
        let usage = Usage::of(server)?;
        totals.print(requests, elapsed);
        let rtt = percentile(&totals.rtts, 0.99);
        let cpu = usage.cpu.saturating_sub(idle.cpu).as_secs_f64() * 1000.0 / requests as f64;
        let network = network_cpu(*target, path.len(), requests)?.as_secs_f64() * 1000.0 / requests as f64;
        let own = cpu - network;
        println!(
            "CPU per request     {cpu:.3} ms; {own:.3} ms without the network, whose routers take {network:.3} ms"
        );
        let megabytes = |kib: u64| kib as f64 / 1024.0;
        println!(
            "memory              idle {:.1} MB, peak {:.1} MB",
            megabytes(idle.resident),
            megabytes(usage.peak)
        );
        println!(
            "file descriptors    idle {}, peak seen {descriptors}",
            idle.descriptors
        );
        // The last connections may still be closing.
        tokio::time::sleep(Duration::from_millis(500)).await;
        println!("  half a second on  {}", Usage::of(server)?.descriptors);
        let (_, metrics) = get(address, "/metrics", "").await?;
        for line in metrics.lines().filter(|line| !line.starts_with('#')) {
            if ["probe", "replies", "traces", "drops", "ports", "captured"]
                .iter()
                .any(|word| line.contains(word))
            {
                println!("  {line}");
            }
        }
        let probes = query_has_probes(&uri);
        let missed: Vec<String> = [
            (
                totals.ok == requests,
                format!("{} of {requests} answers are 200", totals.ok),
            ),
            (
                totals.complete == requests && totals.empty_hops == 0,
                format!("{} of {requests} requests have complete paths", totals.complete),
            ),
            (
                totals.lost == 0,
                format!("{} end-to-end probes lost", totals.lost),
            ),
            (
                probes || own <= MOST_CPU,
                format!("{own:.3} ms CPU per request, not {MOST_CPU}"),
            ),
            (
                rtt <= LARGEST_RTT,
                format!("RTT p99 {rtt:.3} ms, not {LARGEST_RTT}"),
            ),
            (
                megabytes(usage.peak) <= MOST_MEMORY,
                format!("{:.1} MB at the peak, not {MOST_MEMORY}", megabytes(usage.peak)),
            ),
        ]
        .into_iter()
        .filter_map(|(right, problem)| (!right).then_some(problem))
        .collect();
        if missed.is_empty() {
            Ok(())
        } else {
            Err(format!("missed: {}", missed.join("; ")).into())
        }
    })
}

/// CPU time that the network takes for so many runs: routers are this machine's, and work while
/// somebody sends. The datagrams of all runs are sent by a loop that does nothing else; what that
/// costs without any router, to an address of this host, is taken off.
fn network_cpu(target: IpAddr, hops: usize, runs: usize) -> std::io::Result<Duration> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let send = |target: IpAddr| -> std::io::Result<Duration> {
        let before = Usage::now()?.cpu;
        for ttl in 1..=hops as u32 {
            socket.set_ttl(ttl)?;
            for _ in 0..runs {
                // The port is closed there, which a later call may tell.
                let _ = socket.send_to(&[0; 12], (target, 33434));
            }
        }
        Ok(Usage::now()?.cpu.saturating_sub(before))
    };
    let (far, here) = (send(target)?, send(Ipv4Addr::LOCALHOST.into())?);
    Ok(far.saturating_sub(here))
}

/// Whether a request also sends end-to-end probes, or has several runs: its CPU time is not that of
/// one path.
fn query_has_probes(uri: &str) -> bool {
    !(uri.contains("traceroute-queries=1&") && uri.contains("e2e-queries=0"))
}

#[derive(Default)]
struct Totals {
    ok: usize,
    complete: usize,
    runs: usize,
    empty_hops: usize,
    hops: usize,
    probes: u32,
    lost: u32,
    rtts: Vec<f64>,
    e2e_rtts: Vec<f64>,
    first_error: Option<String>,
}

impl Totals {
    fn add(&mut self, answer: std::io::Result<(u16, String)>, path: &[IpAddr]) {
        match answer {
            Ok((200, body)) => match serde_json::from_str(&body) {
                Ok(report) => self.add_report(&report, path),
                Err(error) => self.fail(format!("no document: {error}")),
            },
            Ok((status, body)) => self.fail(format!("{status} {body}")),
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn fail(&mut self, error: String) {
        self.first_error.get_or_insert(error);
    }

    fn add_report(&mut self, report: &Document, path: &[IpAddr]) {
        self.ok += 1;
        let mut complete = true;
        for run in &report.traceroute.runs {
            let found: Vec<_> = run.hops.iter().filter_map(|hop| hop.ip_address).collect();
            complete &= found == path;
            self.runs += 1;
            self.hops += run.hops.len();
            self.empty_hops += run.hops.iter().filter(|hop| !hop.reachable).count();
            self.rtts
                .extend(run.hops.iter().filter(|hop| hop.reachable).map(|hop| hop.rtt));
        }
        self.complete += usize::from(complete);
        self.probes += report.e2e_probe.packets_sent;
        self.lost += report.e2e_probe.packets_sent - report.e2e_probe.packets_received;
        self.e2e_rtts
            .extend(report.e2e_probe.rtts.iter().filter(|rtt| **rtt > 0.0));
    }

    fn print(&mut self, requests: usize, elapsed: Duration) {
        println!(
            "answers             {} × 200, {} other, {:.2} s{}",
            self.ok,
            requests - self.ok,
            elapsed.as_secs_f64(),
            self.first_error
                .as_ref()
                .map_or(String::new(), |error| format!("; first error: {error}"))
        );
        println!(
            "complete            {} requests; {} runs, {} of {} hops empty",
            self.complete, self.runs, self.empty_hops, self.hops
        );
        println!("end-to-end probes   {}, {} lost", self.probes, self.lost);
        for (name, rtts) in [("RTT ms", &mut self.rtts), ("e2e RTT ms", &mut self.e2e_rtts)] {
            rtts.sort_by(f64::total_cmp);
            println!(
                "{name:19} p50 {:.3}  p90 {:.3}  p99 {:.3}  max {:.3}  ({})",
                percentile(rtts, 0.5),
                percentile(rtts, 0.9),
                percentile(rtts, 0.99),
                percentile(rtts, 1.0),
                rtts.len()
            );
        }
    }
}
