//! Traces a target through the bare driver: `trace icmp|udp|syn|sack ADDRESS [PORT] [TIMES]`.

use std::error::Error;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use datadog_traceroute::driver::Driver;
use traceroute_engine::{Method, TraceOutcome, TraceSpec};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let method = match arguments.next().as_deref() {
        Some("icmp") => Method::Icmp,
        Some("udp") => Method::Udp,
        Some("syn") => Method::TcpSyn,
        Some("sack") => Method::TcpSack,
        _ => return Err("usage: trace icmp|udp|syn|sack ADDRESS [PORT] [TIMES]".into()),
    };
    let target: IpAddr = arguments.next().ok_or("no address")?.parse()?;
    let port = arguments.next().map_or(Ok(33434), |port| port.parse())?;
    let times: usize = arguments.next().map_or(Ok(1), |times| times.parse())?;

    let driver = Driver::spawn(
        Box::new(|| traceroute_net::open(traceroute_net::NetworkOptions::default())),
        100_000,
        [1; 32],
    )?;
    let started = Instant::now();
    let spec = TraceSpec::full(method, target, port, 30, Duration::from_secs(1));
    let traces: Vec<_> = (0..times).map(|_| driver.trace(spec, None)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for trace in traces {
        let result = runtime.block_on(trace)?;
        if times == 1 {
            let TraceOutcome::Run(run) = result else { continue };
            for hop in run.hops {
                println!(
                    "{:3} {:?}",
                    hop.ttl,
                    hop.answer
                        .map(|answer| (answer.address, answer.rtt, answer.kernel_stamped))
                );
            }
        }
    }
    println!("{:?}", started.elapsed());
    println!("{:#?}", runtime.block_on(driver.statistics()));
    Ok(())
}
