//! Prints what happens during a trace, as it happens: `live TARGET`.

use datadog_traceroute::{Progress, Request, Tracer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args().nth(1).ok_or("usage: live TARGET")?;
    let request = Request::to(target).e2e_probes(5).build()?;
    let report = Tracer::new()
        .trace_with_progress(&request, |event| match event {
            Progress::HopFound { run, ttl, answer } => {
                println!("run {run}: {} has TTL {ttl}", answer.address);
            }
            Progress::RunFinished { run } => println!("run {run} is finished"),
            Progress::E2eProbe {
                index,
                rtt: Some(rtt),
            } => println!("probe {index}: {rtt:?}"),
            Progress::E2eProbe { index, rtt: None } => println!("probe {index}: no answer"),
            _ => {}
        })
        .await?;
    println!(
        "{} probes of {} were answered",
        report.e2e_probe.packets_received, report.e2e_probe.packets_sent
    );
    Ok(())
}
