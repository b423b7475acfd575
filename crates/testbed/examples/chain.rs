//! Builds a chain of hops and runs a command in its client.
//!
//! ```text
//! cargo run -p traceroute-testbed --example chain -- 11 traceroute -n {target4}
//! ```
//!
//! `{target4}` and `{target6}` stand for the target's addresses. TCP port 80 and UDP port 7 (echo)
//! of the target are open. Without a command: a shell.

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let hops = arguments
        .next()
        .ok_or("usage: chain HOPS [COMMAND [ARGUMENT…]]")?
        .parse()?;
    let lab = traceroute_testbed::Lab::new()?;
    let chain = lab.chain(hops)?;
    let _servers = (chain.target.listen_tcp(80)?, chain.target.listen_udp(7)?);

    eprintln!("client   {:12} {}", chain.client_v4(), chain.client_v6());
    let addresses = chain.hop_addresses_v4().into_iter().zip(chain.hop_addresses_v6());
    for (index, (v4, v6)) in addresses.enumerate() {
        let ttl = index + 1;
        let target = if ttl == hops { "target" } else { "" };
        let path = chain
            .hop(ttl)
            .map(|node| node.namespace_path().display().to_string());
        eprintln!(
            "TTL {ttl:3}  {v4:<12} {v6:<12} nsenter --net={} {target}",
            path.unwrap_or_default()
        );
    }

    let fill = |argument: String| {
        let argument = argument.replace("{target4}", &chain.target_v4().to_string());
        argument.replace("{target6}", &chain.target_v6().to_string())
    };
    let program = arguments.next().map_or_else(|| "sh".to_owned(), fill);
    let mut command = chain.client.command(&program);
    let status = command
        .args(arguments.map(fill))
        .status()
        .map_err(|error| format!("{program}: {error}"))?;
    std::process::exit(status.code().unwrap_or(1));
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("The testbed is made of Linux network namespaces.");
    std::process::exit(1);
}
