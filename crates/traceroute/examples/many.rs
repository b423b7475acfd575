//! Traces many targets, at most 100 at the same time: `many TARGET...`.

use datadog_traceroute::{Request, Tracer};
use futures_util::{StreamExt, stream};

/// All traces share the tracer's sockets, so this limits ports and memory, not files.
const AT_ONCE: usize = 100;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let targets = std::env::args().skip(1);
    let requests: Result<Vec<Request>, _> = targets
        .map(|target| Request::to(target).runs(1).e2e_probes(0).build())
        .collect();
    let tracer = Tracer::new();
    let traces = requests?.into_iter().map(|request| {
        let tracer = tracer.clone();
        async move { (request.hostname().to_owned(), tracer.trace(&request).await) }
    });
    let mut results = stream::iter(traces).buffer_unordered(AT_ONCE);
    while let Some((target, result)) = results.next().await {
        match result {
            Ok(report) => println!("{target}: {} hops", report.hop_count.avg),
            Err(error) => println!("{target}: {error}"),
        }
    }
    Ok(())
}
