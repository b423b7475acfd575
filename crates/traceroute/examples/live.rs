//! Prints what happens during a trace, as it happens: `live TARGET`.

use datadog_traceroute::{Event, Request, Tracer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args().nth(1).ok_or("usage: live TARGET")?;
    let request = Request::to(target).e2e_probes(5).build()?;
    let tracer = Tracer::new();
    let mut events = tracer.events(&request);
    while let Some(event) = events.next().await {
        match event {
            Event::HopFound { run, ttl, answer } => {
                println!("run {run}: {} has TTL {ttl}", answer.address);
            }
            Event::RunFinished { run } => println!("run {run} is finished"),
            Event::E2eProbe {
                index,
                rtt: Some(rtt),
            } => println!("probe {index}: {rtt:?}"),
            Event::E2eProbe { index, rtt: None } => println!("probe {index}: no answer"),
            _ => {}
        }
    }
    let report = events.report().await?;
    println!("end to end: {} lost", report.end_to_end.loss());
    Ok(())
}
