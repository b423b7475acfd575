//! Numbers that sum up a request, and the hiding of private hops, which comes after them.

use std::net::IpAddr;

use crate::model::{E2eProbe, Hop, HopCount, RttStatistics, Run};

impl Run {
    /// Length of the path in hops: the TTL of the last hop that answered, or of the last hop when
    /// none did.
    pub fn hop_count(&self) -> u32 {
        let last_answer = self.hops.iter().rfind(|hop| hop.reachable);
        last_answer.or(self.hops.last()).map_or(0, |hop| hop.ttl.into())
    }

    /// Turns hops in private networks (RFC 1918, RFC 4193) into silent ones, keeping their TTL.
    pub fn blank_private_hops(&mut self) {
        for hop in &mut self.hops {
            if hop.ip_address.is_some_and(is_private) {
                *hop = Hop::silent(hop.ttl);
            }
        }
    }
}

/// Whether an address belongs to a private network (RFC 1918, RFC 4193): what
/// [`Run::blank_private_hops`] hides.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

impl HopCount {
    /// Over all runs. Runs without any hop count for the mean only.
    pub fn of(runs: &[Run]) -> Self {
        let counts = || runs.iter().map(Run::hop_count);
        let nonzero = || counts().filter(|count| *count > 0);
        HopCount {
            avg: mean(counts().map(f64::from)),
            min: nonzero().min().unwrap_or(0),
            max: nonzero().max().unwrap_or(0),
        }
    }
}

impl E2eProbe {
    /// From the round-trip times in milliseconds, in the order of sending, 0 where there was no
    /// answer.
    pub fn from_rtts(rtts: Vec<f64>) -> Self {
        let received: Vec<f64> = rtts.iter().copied().filter(|rtt| *rtt > 0.0).collect();
        let sent = rtts.len() as u32;
        let lost = sent - received.len() as u32;
        E2eProbe {
            rtts,
            packets_sent: sent,
            packets_received: received.len() as u32,
            packet_loss_percentage: if sent == 0 { 0.0 } else { lost as f32 / sent as f32 },
            jitter: mean(received.windows(2).map(|pair| (pair[1] - pair[0]).abs())),
            rtt: RttStatistics {
                avg: mean(received.iter().copied()),
                min: received.iter().copied().reduce(f64::min).unwrap_or(0.0),
                max: received.iter().copied().reduce(f64::max).unwrap_or(0.0),
            },
        }
    }
}

/// The mean; 0 of nothing.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0_u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RunDestination, RunSource};
    use uuid::Uuid;

    /// A run in short notation: one word per hop, `*` for silence.
    fn run(hops: &str) -> Run {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let hop = |(index, word): (usize, &str)| match word {
            "*" => Hop::silent(index as u8 + 1),
            word => Hop::answered(index as u8 + 1, word.parse().unwrap(), 1.5),
        };
        Run {
            run_id: Uuid::nil(),
            source: RunSource {
                ip_address: address,
                port: 1,
            },
            destination: RunDestination {
                ip_address: address,
                port: 2,
                reverse_dns: Vec::new(),
            },
            hops: hops.split_whitespace().enumerate().map(hop).collect(),
        }
    }

    #[test]
    fn hop_count_of_a_run() {
        assert_eq!(run("10.0.0.1 * 192.0.2.9").hop_count(), 3);
        assert_eq!(run("10.0.0.1 192.0.2.9 * *").hop_count(), 2);
        assert_eq!(run("* * * *").hop_count(), 4);
        assert_eq!(run("").hop_count(), 0);
        // With a first TTL of 2 the list is shorter than the path.
        for (hops, count) in [("10.0.0.1 * 192.0.2.9", 3), ("* * *", 3)] {
            let mut run = run(hops);
            run.hops.remove(0);
            assert_eq!(run.hop_count(), count);
        }
    }

    #[test]
    fn hop_counts_of_several_runs() {
        let runs = [run("10.0.0.1 * 192.0.2.9"), run("10.0.0.1 *"), run("* * * *")];
        let expected = HopCount {
            avg: 8.0 / 3.0,
            min: 1,
            max: 4,
        };
        assert_eq!(HopCount::of(&runs), expected);
    }

    #[test]
    fn empty_runs_count_for_the_mean_only() {
        let expected = HopCount {
            avg: 1.0,
            min: 2,
            max: 2,
        };
        assert_eq!(HopCount::of(&[run(""), run("* 192.0.2.9")]), expected);
        assert_eq!(HopCount::of(&[run("")]), HopCount::default());
        assert_eq!(HopCount::of(&[]), HopCount::default());
    }

    fn assert_close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-9, "{actual} is not {expected}");
    }

    #[test]
    fn the_contracts_example() {
        let probe = E2eProbe::from_rtts(vec![12.7, 12.5, 0.0, 12.9]);
        assert_eq!(probe.rtts, [12.7, 12.5, 0.0, 12.9]);
        assert_eq!((probe.packets_sent, probe.packets_received), (4, 3));
        assert_eq!(probe.packet_loss_percentage.to_bits(), 0.25_f32.to_bits());
        // |12.5 - 12.7| = 0.2 and, over the gap, |12.9 - 12.5| = 0.4.
        assert_close(probe.jitter, 0.3);
        assert_close(probe.rtt.avg, 12.7);
        assert_close(probe.rtt.min, 12.5);
        assert_close(probe.rtt.max, 12.9);
    }

    #[test]
    fn loss_is_in_single_precision() {
        let mut rtts = vec![1.0; 50];
        rtts[7] = 0.0;
        let json = crate::json::to_compact(&E2eProbe::from_rtts(rtts)).unwrap();
        assert!(json.contains(r#""packet_loss_percentage":0.02,"#), "{json}");
    }

    #[test]
    fn too_little_for_jitter() {
        let one = E2eProbe::from_rtts(vec![0.0, 4.0, 0.0]);
        assert_eq!(
            (one.jitter, one.rtt.avg, one.rtt.min, one.rtt.max),
            (0.0, 4.0, 4.0, 4.0)
        );
        assert_eq!(one.packet_loss_percentage.to_bits(), (2.0_f32 / 3.0).to_bits());
        let none = E2eProbe::from_rtts(vec![0.0, 0.0]);
        assert_eq!((none.packets_sent, none.packets_received), (2, 0));
        assert_eq!(none.packet_loss_percentage.to_bits(), 1.0_f32.to_bits());
        assert_eq!((none.jitter, none.rtt), (0.0, RttStatistics::default()));
    }

    #[test]
    fn no_probes() {
        assert_eq!(E2eProbe::from_rtts(Vec::new()), E2eProbe::default());
    }

    #[test]
    fn private_hops_are_blanked_and_their_neighbours_kept() {
        let private =
            "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 fc00::1 fdff::1";
        let mut blanked = run(private);
        blanked.hops[0].reverse_dns = vec!["gateway.example".to_owned()];
        blanked.blank_private_hops();
        let silent: Vec<Hop> = (1..=8).map(Hop::silent).collect();
        assert_eq!(blanked.hops, silent);

        let public = "9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 \
                      100.64.0.1 127.0.0.1 169.254.0.1 fbff::1 fe00::1 fe80::1 * 2001:db8::1";
        let mut kept = run(public);
        kept.blank_private_hops();
        assert_eq!(kept, run(public));
    }
}
