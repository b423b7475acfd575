//! The bench itself.

use std::error::Error;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use datadog_traceroute::{Report, Request, Tracer, TracerOptions};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use traceroute_bench::{Usage, percentile};
use traceroute_testbed::Lab;

pub(super) fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument =
        |index: usize, default: &str| arguments.get(index).map_or(default, String::as_str).to_owned();
    if argument(0, "") == "worker" {
        let path = argument(3, "")
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<IpAddr>, _>>()?;
        return work(&argument(1, ""), argument(2, "").parse()?, &path);
    }
    let (protocol, traces) = (argument(0, "udp"), argument(1, "2000"));
    let lab = Lab::new()?;
    let chain = lab.chain(argument(2, "11").parse()?)?;
    let path: Vec<String> = match argument(3, "4").as_str() {
        "6" => chain.hop_addresses_v6().iter().map(ToString::to_string).collect(),
        _ => chain.hop_addresses_v4().iter().map(ToString::to_string).collect(),
    };
    let mut worker = chain.client.command(std::env::current_exe()?);
    let status = worker
        .args(["worker", &protocol, &traces, &path.join(",")])
        .status()?;
    std::process::exit(status.code().unwrap_or(1));
}

fn work(protocol: &str, traces: usize, path: &[IpAddr]) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let target = path.last().ok_or("no path")?;
        let request = Request::to(target)
            .protocol(protocol.parse()?)
            .runs(1)
            .e2e_probes(0)
            .timeout(Duration::from_secs(1))
            .build()?;
        let mut options = TracerOptions::default();
        options.network.heavy_load = std::env::var_os("LIGHT").is_none();
        let tracer = Tracer::with_options(options);
        // Opens the sockets and fills the neighbour tables of the chain.
        tracer.trace(&request).await?;
        Usage::reset_peak()?;
        let idle = Usage::now()?;
        let started = Instant::now();
        let mut pending: FuturesUnordered<_> = (0..traces).map(|_| tracer.trace(&request)).collect();
        let mut descriptors = idle.descriptors;
        let mut reports = Vec::with_capacity(traces);
        let mut errors = 0;
        while !pending.is_empty() {
            match tokio::time::timeout(Duration::from_millis(100), pending.next()).await {
                Ok(Some(Ok(report))) => reports.push(summarise(&report, path)),
                Ok(Some(Err(error))) => {
                    errors += 1;
                    if errors == 1 {
                        eprintln!("first error: {error}");
                    }
                }
                Ok(None) => {}
                Err(_) => descriptors = descriptors.max(Usage::now()?.descriptors),
            }
        }
        let elapsed = started.elapsed();
        let usage = Usage::now()?;
        let statistics = tracer.statistics().await.ok_or("no statistics")?;
        print(traces, errors, elapsed, &reports, idle, usage, descriptors);
        println!("engine              {:?}", statistics.engine);
        println!("network             {:?}", statistics.network);
        Ok(())
    })
}

/// Whether a path is complete, and the round-trip times of its hops in ms.
fn summarise(report: &Report, path: &[IpAddr]) -> (bool, Vec<f64>) {
    let hops = report.runs.iter().flat_map(|run| &run.hops);
    let found: Vec<_> = hops.clone().filter_map(|hop| Some(hop.answer?.address)).collect();
    (
        found == path,
        hops.filter_map(|hop| Some(hop.answer?.rtt?.as_secs_f64() * 1000.0))
            .collect(),
    )
}

fn print(
    traces: usize,
    errors: usize,
    elapsed: Duration,
    reports: &[(bool, Vec<f64>)],
    idle: Usage,
    usage: Usage,
    descriptors: usize,
) {
    let complete = reports.iter().filter(|(complete, _)| *complete).count();
    let mut rtts: Vec<f64> = reports
        .iter()
        .flat_map(|(_, rtts)| rtts.iter().copied())
        .collect();
    rtts.sort_by(f64::total_cmp);
    let cpu = (usage.cpu.saturating_sub(idle.cpu)).as_secs_f64() * 1000.0;
    println!(
        "traces              {traces}, {errors} errors, {:.2} s",
        elapsed.as_secs_f64()
    );
    println!(
        "complete paths      {complete} ({:.2} %)",
        complete as f64 / traces as f64 * 100.0
    );
    println!(
        "RTT ms              p50 {:.3}  p90 {:.3}  p99 {:.3}  max {:.3}  ({} hops)",
        percentile(&rtts, 0.5),
        percentile(&rtts, 0.9),
        percentile(&rtts, 0.99),
        percentile(&rtts, 1.0),
        rtts.len()
    );
    println!(
        "CPU per trace       {:.3} ms ({cpu:.0} ms in all)",
        cpu / traces as f64
    );
    println!(
        "memory              idle {:.1} MB, peak {:.1} MB above it",
        idle.resident as f64 / 1024.0,
        usage.peak.saturating_sub(idle.resident) as f64 / 1024.0
    );
    println!(
        "file descriptors    idle {}, peak seen {descriptors}",
        idle.descriptors
    );
}
