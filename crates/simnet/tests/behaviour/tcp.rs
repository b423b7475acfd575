//! The TCP server: handshakes, selective acknowledgments, timestamps, closing.

use etherparse::{TcpHeader, TcpOptionElement};

use crate::lab::*;
use traceroute_simnet::Dropped;

/// A client's side of a connection, as far as needed.
struct Connection {
    lab: Lab,
    to: &'static str,
    /// Our next sequence number.
    next: u32,
    /// The peer's.
    peer_next: u32,
    timestamp: Option<(u32, u32)>,
}

fn segment(sequence: u32) -> TcpHeader {
    TcpHeader::new(50_000, 80, sequence, 64_240)
}

fn syn_with(sequence: u32, options: &[TcpOptionElement]) -> TcpHeader {
    let mut header = segment(sequence);
    header.syn = true;
    header.set_options(options).unwrap();
    header
}

fn lab(server: &str) -> Lab {
    Lab::new(&three("", &format!("[target.tcp]\nopen = [80]\n{server}")))
}

fn options(header: &TcpHeader) -> Vec<TcpOptionElement> {
    header
        .options_iterator()
        .map(Result::unwrap)
        .filter(|option| *option != TcpOptionElement::Noop)
        .collect()
}

fn timestamps(header: &TcpHeader) -> Option<(u32, u32)> {
    options(header).into_iter().find_map(|option| match option {
        TcpOptionElement::Timestamp(value, echo) => Some((value, echo)),
        _ => None,
    })
}

/// The SACK blocks, relative to a sequence number.
fn blocks(header: &TcpHeader, base: u32) -> Vec<(u32, u32)> {
    let found = options(header).into_iter().find_map(|option| match option {
        TcpOptionElement::SelectiveAcknowledgement(first, rest) => Some((first, rest)),
        _ => None,
    });
    let Some((first, rest)) = found else {
        return Vec::new();
    };
    std::iter::once(first)
        .chain(rest.into_iter().flatten())
        .map(|(left, right)| (left.wrapping_sub(base), right.wrapping_sub(base)))
        .collect()
}

const SACK: TcpOptionElement = TcpOptionElement::SelectiveAcknowledgementPermitted;

impl Connection {
    /// Completes a handshake with SACK and, when wanted, timestamps; the sequence numbers are about
    /// to wrap.
    fn open(mut lab: Lab, to: &'static str, timestamps_wanted: bool) -> Self {
        let sequence = u32::MAX - 5;
        let mut offered = vec![SACK, TcpOptionElement::WindowScale(7)];
        if timestamps_wanted {
            offered.push(TcpOptionElement::Timestamp(1000, 0));
        }
        lab.send(&tcp(to, 64, syn_with(sequence, &offered), &[]));
        let heard = lab.wait(ms(500.0));
        let syn_ack = heard.first().expect("a SYN-ACK").tcp();
        assert!(syn_ack.syn && syn_ack.ack);
        assert_eq!(syn_ack.acknowledgment_number, sequence.wrapping_add(1));
        let timestamp = timestamps(syn_ack).map(|(value, echo)| {
            assert_eq!(echo, 1000);
            (1001, value)
        });
        let peer_next = syn_ack.sequence_number.wrapping_add(1);
        let next = sequence.wrapping_add(1);
        let mut connection = Self {
            lab,
            to,
            next,
            peer_next,
            timestamp,
        };
        connection.send(next, &[]);
        connection
    }

    fn packet(&self, sequence: u32, payload: &[u8], change: impl FnOnce(&mut TcpHeader)) -> Vec<u8> {
        let mut header = segment(sequence);
        header.ack = true;
        header.acknowledgment_number = self.peer_next;
        if let Some((value, echo)) = self.timestamp {
            header
                .set_options(&[TcpOptionElement::Timestamp(value, echo)])
                .unwrap();
        }
        change(&mut header);
        tcp(self.to, 64, header, payload)
    }

    fn send(&mut self, sequence: u32, payload: &[u8]) {
        let packet = self.packet(sequence, payload, |_| {});
        self.lab.send(&packet);
    }

    /// Sends one byte at an offset from the next sequence number; returns the one ACK.
    fn byte(&mut self, offset: u32) -> TcpHeader {
        self.lab.wait(ms(100.0));
        self.send(self.next.wrapping_add(offset), b"x");
        let heard = self.lab.wait(ms(100.0));
        assert_eq!(heard.len(), 1, "{heard:?}");
        heard[0].tcp().clone()
    }
}

#[test]
fn closed_ports_reset_and_silent_ports_do_not() {
    let mut lab = lab("silent = [9]");
    for target in [TARGET, TARGET_V6] {
        let heard = lab.ask_one(&syn(target, 81, 64));
        let reset = heard.tcp();
        assert_eq!(
            (
                reset.rst,
                reset.ack,
                reset.sequence_number,
                reset.acknowledgment_number
            ),
            (true, true, 0, 1001)
        );
        assert!(lab.ask(&syn(target, 9, 64)).is_empty());
    }
}

#[test]
fn a_bare_reset_acknowledges_nothing() {
    let mut lab = lab("bare_reset = true");
    let heard = lab.ask_one(&syn(TARGET, 81, 64));
    assert!(heard.tcp().rst && !heard.tcp().ack);
}

#[test]
fn segments_without_a_connection_are_reset() {
    let mut lab = lab("");
    let mut header = segment(5);
    header.ack = true;
    header.acknowledgment_number = 777;
    let heard = lab.ask_one(&tcp(TARGET, 64, header, &[]));
    assert!(heard.tcp().rst && !heard.tcp().ack);
    assert_eq!(heard.tcp().sequence_number, 777);
    let mut header = segment(5);
    header.rst = true;
    assert!(lab.ask(&tcp(TARGET, 64, header, &[])).is_empty());
}

#[test]
fn options_are_agreed_on_only_when_both_want_them() {
    let timestamp = TcpOptionElement::Timestamp(5, 0);
    for (server, offered, sack, stamped) in [
        ("", vec![SACK, timestamp.clone()], true, true),
        ("", vec![], false, false),
        ("", vec![SACK], true, false),
        ("sack = false", vec![SACK, timestamp.clone()], false, true),
        ("timestamps = false", vec![SACK, timestamp], true, false),
    ] {
        let mut lab = lab(server);
        lab.send(&tcp(TARGET, 64, syn_with(1, &offered), &[]));
        let heard = lab.wait(ms(500.0));
        let agreed = options(heard[0].tcp());
        assert_eq!(agreed.contains(&SACK), sack, "{server}");
        assert_eq!(timestamps(heard[0].tcp()).is_some(), stamped, "{server}");
        assert!(agreed.contains(&TcpOptionElement::MaximumSegmentSize(1460)));
        assert!(
            !agreed
                .iter()
                .any(|option| matches!(option, TcpOptionElement::WindowScale(_)))
        );
    }
}

#[test]
fn windows_are_as_asked_for() {
    let mut lab = lab("window = 4096\nwindow_scale = 4\nmss = 536");
    lab.send(&tcp(
        TARGET,
        64,
        syn_with(1, &[TcpOptionElement::WindowScale(0)]),
        &[],
    ));
    let heard = lab.wait(ms(500.0));
    assert_eq!(heard[0].tcp().window_size, 4096);
    let agreed = options(heard[0].tcp());
    assert!(agreed.contains(&TcpOptionElement::WindowScale(4)));
    assert!(agreed.contains(&TcpOptionElement::MaximumSegmentSize(536)));
}

#[test]
fn bytes_beyond_a_gap_are_selectively_acknowledged() {
    for target in [TARGET, TARGET_V6] {
        for stamped in [true, false] {
            let mut connection = Connection::open(lab(""), target, stamped);
            let base = connection.next;
            for (offset, expected) in [
                (12, vec![(12, 13)]),
                // Joined with its neighbour.
                (11, vec![(11, 13)]),
                // Apart: the newest first.
                (5, vec![(5, 6), (11, 13)]),
                (20, vec![(20, 21), (5, 6), (11, 13)]),
                // The block that changed moves to the front.
                (13, vec![(11, 14), (20, 21), (5, 6)]),
                // A duplicate comes first, then its block (RFC 2883 §4.2).
                (12, vec![(12, 13), (11, 14), (20, 21)]),
            ] {
                let ack = connection.byte(offset);
                assert_eq!(ack.acknowledgment_number, base);
                assert!(!ack.syn && !ack.rst && !ack.fin);
                let got = blocks(&ack, base);
                assert_eq!(got[..expected.len()], expected, "{offset}");
                assert!(got.len() <= if stamped { 3 } else { 4 });
                assert_eq!(timestamps(&ack).map(|(_, echo)| echo), stamped.then_some(1001));
            }
        }
    }
}

#[test]
fn only_as_many_blocks_as_fit() {
    for (stamped, most) in [(true, 3), (false, 4)] {
        let mut connection = Connection::open(lab(""), TARGET, stamped);
        let base = connection.next;
        let last = [2, 4, 6, 8, 10].map(|offset| connection.byte(offset))[4].clone();
        let expected: Vec<_> = [10, 8, 6, 4]
            .into_iter()
            .take(most)
            .map(|left| (left, left + 1))
            .collect();
        assert_eq!(blocks(&last, base), expected);
    }
}

#[test]
fn filling_the_gap_acknowledges_everything() {
    let mut connection = Connection::open(lab(""), TARGET, true);
    let base = connection.next;
    connection.byte(1);
    connection.byte(3);
    let ack = connection.byte(0);
    assert_eq!(ack.acknowledgment_number, base.wrapping_add(2));
    assert_eq!(blocks(&ack, base), [(3, 4)]);
    let ack = connection.byte(2);
    assert_eq!(ack.acknowledgment_number, base.wrapping_add(4));
    assert_eq!(blocks(&ack, base), []);
}

#[test]
fn old_data_is_reported_as_duplicate() {
    let mut connection = Connection::open(lab(""), TARGET, true);
    let base = connection.next;
    connection.byte(0);
    let ack = connection.byte(0);
    assert_eq!(ack.acknowledgment_number, base.wrapping_add(1));
    assert_eq!(blocks(&ack, base), [(0, 1)]);
    let mut connection = Connection::open(lab("duplicate_sack = false"), TARGET, true);
    connection.byte(0);
    assert_eq!(blocks(&connection.byte(0), base), []);
}

#[test]
fn servers_may_acknowledge_without_blocks() {
    let mut connection = Connection::open(lab("sack_blocks = false"), TARGET, true);
    let ack = connection.byte(5);
    assert_eq!(ack.acknowledgment_number, connection.next);
    assert_eq!(blocks(&ack, connection.next), []);
}

#[test]
fn servers_may_ignore_what_is_out_of_order() {
    let mut connection = Connection::open(lab("ignore_out_of_order = true"), TARGET, true);
    connection.send(connection.next.wrapping_add(5), b"x");
    assert!(connection.lab.wait(ms(500.0)).is_empty());
    assert_eq!(connection.lab.counters("target").dropped(Dropped::OutOfOrder), 1);
}

#[test]
fn timestamps_from_the_past_are_refused() {
    let mut connection = Connection::open(lab(""), TARGET, true);
    connection.timestamp = Some((900, 0));
    let ack = connection.byte(5);
    assert_eq!(blocks(&ack, connection.next), []);
    assert_eq!(connection.lab.counters("target").dropped(Dropped::Paws), 1);
    // Data beyond the gap does not move the limit (RFC 7323 §4.3): a lower value than a later
    // probe's is fine.
    for value in [5000, 3000] {
        connection.timestamp = Some((value, 0));
        assert!(!blocks(&connection.byte(value / 1000), connection.next).is_empty());
    }
    assert_eq!(connection.lab.counters("target").dropped(Dropped::Paws), 1);
}

#[test]
fn segments_without_negotiated_timestamps_are_ignored() {
    let mut connection = Connection::open(lab(""), TARGET, true);
    connection.timestamp = None;
    connection.send(connection.next.wrapping_add(5), b"x");
    assert!(connection.lab.wait(ms(500.0)).is_empty());
    assert_eq!(
        connection.lab.counters("target").dropped(Dropped::NoTimestamps),
        1
    );
}

#[test]
fn data_outside_the_window_is_refused() {
    let mut connection = Connection::open(lab("window = 100\nwindow_scale = 0"), TARGET, true);
    assert_eq!(blocks(&connection.byte(100), connection.next), []);
    assert_eq!(
        connection.lab.counters("target").dropped(Dropped::OutsideWindow),
        1
    );
    assert_eq!(blocks(&connection.byte(99), connection.next), [(99, 100)]);
}

#[test]
fn syn_acks_are_sent_again_until_acknowledged() {
    let mut lab = lab("");
    let heard = lab.ask(&syn(TARGET, 80, 64));
    let seconds: Vec<_> = heard
        .iter()
        .map(|heard| (heard.after - ms(8.0)).as_secs())
        .collect();
    assert_eq!(seconds, [0, 1, 3, 7, 15, 31]);
    let first = heard[0].tcp().sequence_number;
    assert!(heard.iter().all(|heard| heard.tcp().sequence_number == first));
    // The half-open connection is gone: an ACK is answered with a reset.
    let mut header = segment(1001);
    header.ack = true;
    assert!(lab.ask_one(&tcp(TARGET, 64, header, &[])).tcp().rst);
}

#[test]
fn syn_acks_may_be_late_or_lost() {
    let mut lab = lab("syn_ack_delay = 700\nlose_syn_acks = 2");
    lab.send(&syn(TARGET, 80, 64));
    let heard = lab.wait(ms(6000.0));
    assert_eq!(heard.len(), 1);
    // Given up after 1.7 s and after another 2.7 s; then delayed itself.
    assert_eq!(heard[0].after, ms(8.0 + 1700.0 + 2700.0 + 700.0));
}

/// Whether the client repeats its SYN or the server its answer makes no difference.
#[test]
fn answers_to_repeated_syns_get_lost_too() {
    let mut lab = lab("lose_syn_acks = 3");
    let mut answers = || {
        lab.send(&syn(TARGET, 80, 64));
        lab.wait(ms(100.0)).len()
    };
    assert_eq!(
        [answers(), answers(), answers(), answers(), answers()],
        [0, 0, 0, 1, 1]
    );
}

#[test]
fn all_syn_acks_may_get_lost() {
    let mut lab = lab("lose_syn_acks = 255");
    lab.send(&syn(TARGET, 80, 64));
    assert!(lab.ask(&syn(TARGET, 80, 64)).is_empty());
}

#[test]
fn a_repeated_syn_is_answered_alike_and_another_one_resets() {
    let mut lab = lab("");
    lab.send(&syn(TARGET, 80, 64));
    lab.send(&syn(TARGET, 80, 64));
    let heard = lab.wait(ms(500.0));
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[0].tcp().sequence_number, heard[1].tcp().sequence_number);
    let mut header = segment(1003);
    header.syn = true;
    lab.send(&tcp(TARGET, 64, header, &[]));
    let heard = lab.wait(ms(500.0));
    assert!(heard[0].tcp().rst);
    assert_eq!(heard[0].tcp().acknowledgment_number, 1004);
}

#[test]
fn a_reset_of_the_client_ends_a_half_open_connection() {
    let mut lab = lab("");
    lab.send(&syn(TARGET, 80, 64));
    assert_eq!(lab.wait(ms(500.0)).len(), 1);
    let mut header = segment(1001);
    header.rst = true;
    assert!(lab.ask(&tcp(TARGET, 64, header, &[])).is_empty());
}

#[test]
fn servers_may_speak_first() {
    let mut connection = Connection::open(lab("greeting = \"220 ready\"\ngreeting_delay = 30"), TARGET, true);
    let heard = connection.lab.wait(ms(500.0));
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].after, ms(38.0));
    let What::Tcp(header, payload) = &heard[0].what else {
        panic!("{heard:?}")
    };
    assert_eq!(
        (header.sequence_number, payload.as_slice()),
        (connection.peer_next, &b"220 ready"[..])
    );
    // Unacknowledged, it comes again; acknowledged, it does not.
    assert_eq!(connection.lab.wait(ms(1000.0)).len(), 1);
    connection.peer_next = connection.peer_next.wrapping_add(9);
    connection.send(connection.next, &[]);
    assert!(connection.lab.wait(ms(60_000.0)).is_empty());
    assert_eq!(blocks(&connection.byte(3), connection.next), [(3, 4)]);
}

#[test]
fn closing_is_answered_with_a_fin_or_a_reset() {
    for reset in [false, true] {
        let mut connection = Connection::open(lab(&format!("reset_on_close = {reset}")), TARGET, true);
        let packet = connection.packet(connection.next, &[], |header| header.fin = true);
        let heard = connection.lab.ask_one(&packet);
        assert_eq!((heard.tcp().fin, heard.tcp().rst), (!reset, reset));
        assert_eq!(heard.tcp().acknowledgment_number, connection.next.wrapping_add(1));
        if !reset {
            connection.peer_next = connection.peer_next.wrapping_add(1);
            connection.next = connection.next.wrapping_add(1);
            connection.send(connection.next, &[]);
            assert!(connection.lab.wait(ms(500.0)).is_empty());
        }
        // Gone: even the sequence number that it waits for is reset.
        assert!(connection.byte(0).rst);
    }
}

#[test]
fn only_an_exact_reset_closes() {
    let mut connection = Connection::open(lab(""), TARGET, true);
    let near = connection.packet(connection.next.wrapping_add(1), &[], |header| header.rst = true);
    let heard = connection.lab.ask_one(&near);
    assert!(heard.tcp().ack && !heard.tcp().rst);
    assert!(!connection.byte(1).rst);
    let exact = connection.packet(connection.next, &[], |header| header.rst = true);
    assert!(connection.lab.ask(&exact).is_empty());
    assert!(connection.byte(1).rst);
}

#[test]
fn a_firewall_may_strip_options() {
    let mut lab = Lab::new(&three("strip_tcp_options = true", "tcp = { open = [80] }"));
    for target in [TARGET, TARGET_V6] {
        lab.send(&tcp(
            target,
            64,
            syn_with(1, &[SACK, TcpOptionElement::Timestamp(1, 0)]),
            &[],
        ));
        let heard = lab.wait(ms(500.0));
        assert!(heard[0].tcp().syn);
        assert_eq!(
            options(heard[0].tcp()),
            [TcpOptionElement::MaximumSegmentSize(1460)]
        );
    }
}

#[test]
fn acknowledgments_of_what_was_never_sent_are_refused() {
    let mut connection = Connection::open(lab(""), TARGET, true);
    connection.peer_next = connection.peer_next.wrapping_add(1);
    assert_eq!(blocks(&connection.byte(5), connection.next), []);
    assert_eq!(
        connection.lab.counters("target").dropped(Dropped::OutsideWindow),
        1
    );
}

#[test]
fn a_handshake_with_a_wrong_acknowledgment_is_reset() {
    let mut lab = lab("greeting = \"hello\"");
    lab.send(&syn(TARGET, 80, 64));
    let heard = lab.wait(ms(500.0));
    let right = heard[0].tcp().sequence_number.wrapping_add(1);
    let mut header = segment(1001);
    header.ack = true;
    header.acknowledgment_number = right.wrapping_sub(1);
    lab.send(&tcp(TARGET, 64, header.clone(), &[]));
    let heard = lab.wait(ms(100.0));
    assert_eq!(heard.len(), 1);
    assert!(heard[0].tcp().rst && !heard[0].tcp().ack);
    assert_eq!(heard[0].tcp().sequence_number, right.wrapping_sub(1));
    // The right one still completes it.
    header.acknowledgment_number = right;
    lab.send(&tcp(TARGET, 64, header, &[]));
    assert!(matches!(&lab.wait(ms(100.0))[0].what, What::Tcp(_, payload) if payload == b"hello"));
}

#[test]
fn data_in_order_moves_the_limit_for_timestamps() {
    let mut connection = Connection::open(lab(""), TARGET, true);
    for value in [2000, 3000] {
        connection.timestamp = Some((value, 0));
        connection.byte(0);
        connection.next = connection.next.wrapping_add(1);
    }
    connection.timestamp = Some((2500, 0));
    assert_eq!(blocks(&connection.byte(5), connection.next), []);
    assert_eq!(connection.lab.counters("target").dropped(Dropped::Paws), 1);
}
