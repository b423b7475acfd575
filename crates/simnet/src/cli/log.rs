//! What `-v` and `--log-delays` write.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use traceroute_simnet::tun::Activity;
use traceroute_simnet::{Delivery, Network, csv_fields, describe};

/// Probes that may still be answered, for the CSV.
const REMEMBERED: usize = 100_000;

pub(super) struct Log {
    verbose: bool,
    delays: Option<BufWriter<File>>,
    probes: BTreeMap<u64, String>,
}

impl Log {
    pub(super) fn new(verbose: bool, delays: Option<&Path>) -> io::Result<Self> {
        let delays = delays.map(File::create).transpose()?.map(BufWriter::new);
        let mut log = Self {
            verbose,
            delays,
            probes: BTreeMap::new(),
        };
        if let Some(file) = &mut log.delays {
            let probe =
                "source,destination,ttl,protocol,source_port,destination_port,identification,length,sequence";
            writeln!(file, "number,{probe},from,read_ns,due_ns,written_ns")?;
        }
        Ok(log)
    }

    pub(super) fn record(&mut self, activity: &Activity<'_>) {
        match activity {
            Activity::Read { number, at, packet } => self.read(*number, *at, packet),
            Activity::Written { delivery, at } => self.written(delivery, *at),
            Activity::Refused { delivery, error } => {
                eprintln!("the kernel refused [{}]: {error}", describe(&delivery.packet));
            }
        }
    }

    fn read(&mut self, number: u64, at: Duration, packet: &[u8]) {
        if self.verbose {
            eprintln!("{:12.6} #{number} -> {}", at.as_secs_f64(), describe(packet));
        }
        if self.delays.is_some() {
            self.probes.insert(number, csv_fields(packet));
            if self.probes.len() > REMEMBERED {
                self.probes.pop_first();
            }
        }
    }

    fn written(&mut self, delivery: &Delivery, at: Duration) {
        let cause = delivery.cause;
        if self.verbose {
            eprintln!(
                "{:12.6} #{cause} <- {}",
                at.as_secs_f64(),
                describe(&delivery.packet)
            );
        }
        if let (Some(file), Some(probe)) = (&mut self.delays, self.probes.get(&cause)) {
            let from = csv_fields(&delivery.packet);
            let from = from.split(',').next().unwrap_or_default();
            let [read, due, written] = [delivery.injected_at, delivery.at, at].map(|time| time.as_nanos());
            // A full disk shows when the file is closed.
            let _ = writeln!(file, "{cause},{probe},{from},{read},{due},{written}");
        }
    }

    /// Closes the CSV and, when verbose, says what each node did.
    pub(super) fn finish(self, network: &Network) {
        if let Some(mut file) = self.delays
            && let Err(error) = file.flush()
        {
            eprintln!("Error: cannot write the delays: {error}");
        }
        if self.verbose {
            for name in network.names() {
                if let Some(counters) = network.counters(name) {
                    eprintln!("{name}: {counters:?}");
                }
            }
        }
    }
}
