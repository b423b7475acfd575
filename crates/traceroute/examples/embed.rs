//! Traces a target from another Rust program and prints one line a hop: `embed TARGET [udp|tcp|icmp]`.

use datadog_traceroute::{Parameters, Tracer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let parameters = Parameters {
        target: arguments.next().ok_or("usage: embed TARGET [udp|tcp|icmp]")?,
        protocol: arguments.next().unwrap_or_else(|| "udp".to_owned()),
        traceroute_queries: 1,
        e2e_queries: 3,
        timeout_ms: 1000,
        ..Parameters::default()
    };
    let tracer = Tracer::new();
    let report = tracer.trace(&parameters.validate()?).await?;
    for hop in report.traceroute.runs.iter().flat_map(|run| &run.hops) {
        match hop.ip_address {
            Some(address) => println!("{:3}  {address}  {:.3} ms", hop.ttl, hop.rtt),
            None => println!("{:3}  *", hop.ttl),
        }
    }
    println!("end to end: {:?} ms", report.e2e_probe.rtts);
    Ok(())
}
