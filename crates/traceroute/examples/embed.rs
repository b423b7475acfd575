//! Traces one target and prints a line for each hop: `embed TARGET [udp|tcp|icmp]`.

use std::time::Duration;

use datadog_traceroute::{Protocol, Request, Tracer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().ok_or("usage: embed TARGET [udp|tcp|icmp]")?;
    let protocol = arguments.next().map_or(Ok(Protocol::Udp), |name| name.parse())?;
    let request = Request::to(target)
        .protocol(protocol)
        .runs(1)
        .e2e_probes(3)
        .timeout(Duration::from_secs(1))
        .build()?;
    let report = Tracer::new().trace(&request).await?;
    for hop in report.runs.iter().flat_map(|run| &run.hops) {
        match hop.answer {
            Some(answer) => println!("{:3}  {}  {:?}", hop.ttl, answer.address, answer.rtt),
            None => println!("{:3}  *", hop.ttl),
        }
    }
    for warning in &report.warnings {
        println!("{}", warning.text);
    }
    println!("end to end: {} lost", report.end_to_end.loss());
    Ok(())
}
