//! Prints the topology of a scenario of `docs/adversities.md`, for `traceroute-simnet run`.
//!
//! ```text
//! cargo run -p traceroute-scenarios --example topology -- silent-router > silent-router.toml
//! ```

use traceroute_scenarios::table;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: topology SCENARIO")?;
    let scenarios = table::scenarios();
    let scenario = scenarios.iter().find(|scenario| scenario.name == name);
    let scenario = scenario.ok_or_else(|| format!("docs/adversities.md has no scenario {name:?}"))?;
    print!("{}", scenario.text());
    Ok(())
}
