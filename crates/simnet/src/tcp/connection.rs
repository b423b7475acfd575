//! One connection, seen from the server.

use std::time::Duration;

use super::segment::{ACK, FIN, Options, PSH, RST, SYN, Segment};
use super::{Outcome, Timer};
use crate::counters::Dropped;
use crate::topology::Tcp;

/// First retransmission timeout (RFC 6298 §2.1); doubled each time.
const RETRANSMIT: Duration = Duration::from_secs(1);
/// Linux gives up after this many (`tcp_synack_retries`).
const SYN_ACK_RETRIES: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    SynReceived,
    Established,
    /// We sent our FIN after the client's.
    LastAck,
    Closed,
}

#[derive(Debug)]
pub(super) struct Connection {
    state: State,
    initial_send: u32,
    send_next: u32,
    send_unacknowledged: u32,
    initial_receive: u32,
    receive_next: u32,
    /// Data beyond the gap, the block that changed last first (RFC 2018 §4).
    beyond: Vec<(u32, u32)>,
    sack: bool,
    window_scale: Option<u8>,
    /// `TS.Recent` (RFC 7323 §4.3), when timestamps were negotiated.
    recent: Option<u32>,
    last_ack_sent: u32,
    clock_offset: u32,
    /// How many SYN-ACKs are still to get lost.
    syn_acks_to_lose: u8,
}

impl Connection {
    pub(super) fn accept(
        spec: &Tcp,
        syn: &Segment,
        now: Duration,
        initial: u32,
        clock: u32,
    ) -> (Self, Outcome) {
        let receive_next = syn.sequence.wrapping_add(1);
        let mut connection = Self {
            state: State::SynReceived,
            initial_send: initial,
            send_next: initial.wrapping_add(1),
            send_unacknowledged: initial,
            initial_receive: syn.sequence,
            receive_next,
            beyond: Vec::new(),
            sack: spec.sack && syn.options.sack_permitted,
            window_scale: spec.window_scale.filter(|_| syn.options.window_scale.is_some()),
            recent: syn
                .options
                .timestamps
                .map(|(value, _)| value)
                .filter(|_| spec.timestamps),
            last_ack_sent: receive_next,
            clock_offset: clock,
            syn_acks_to_lose: spec.lose_syn_acks,
        };
        let mut outcome = connection.syn_ack(spec, now);
        outcome.timers.push(again_after(spec, 1));
        (connection, outcome)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// The SYN-ACK, or nothing while the topology says that it gets lost.
    fn syn_ack(&mut self, spec: &Tcp, now: Duration) -> Outcome {
        let mut outcome = Outcome::default();
        if let Some(fewer) = self.syn_acks_to_lose.checked_sub(1) {
            self.syn_acks_to_lose = fewer;
            return outcome;
        }
        let mut segment = self.segment_out(spec, SYN | ACK, now);
        segment.sequence = self.initial_send;
        segment.window = spec.window;
        segment.options.mss = Some(spec.mss);
        segment.options.window_scale = self.window_scale;
        segment.options.sack_permitted = self.sack;
        outcome.send.push((spec.syn_ack_delay.0, segment));
        outcome
    }

    /// A segment with the fields that all have.
    fn segment_out(&self, spec: &Tcp, flags: u8, now: Duration) -> Segment {
        // One tick per millisecond (RFC 7323 §5.4).
        let value = self.clock_offset.wrapping_add(now.as_millis() as u32);
        Segment {
            sequence: self.send_next,
            acknowledgment: self.receive_next,
            flags,
            window: spec.window >> self.window_scale.unwrap_or(0),
            options: Options {
                timestamps: self.recent.map(|recent| (value, recent)),
                ..Options::default()
            },
            payload: Vec::new(),
        }
    }

    /// An ACK with what lies beyond the gap; `duplicate` is reported first (RFC 2883 §4).
    fn ack(&mut self, spec: &Tcp, duplicate: Option<(u32, u32)>, now: Duration) -> Outcome {
        let mut segment = self.segment_out(spec, ACK, now);
        if self.sack && spec.sack_blocks {
            let duplicate = duplicate.filter(|_| spec.duplicate_sack);
            segment.options.sack = duplicate.into_iter().chain(self.beyond.iter().copied()).collect();
        }
        self.last_ack_sent = self.receive_next;
        Outcome::now(segment)
    }

    /// RFC 9293 §3.10.7.4, in its order.
    pub(super) fn segment(&mut self, spec: &Tcp, segment: &Segment, now: Duration) -> Outcome {
        if self.state == State::SynReceived && segment.flags & (SYN | ACK | RST) == SYN {
            return self.another_syn(spec, segment, now);
        }
        if let Some(refused) = self.refuse_by_timestamps(spec, segment, now) {
            return refused;
        }
        if !self.acceptable(spec, segment) {
            return self.refuse_outside_window(spec, segment, now);
        }
        if segment.flags & RST != 0 {
            return self.reset(spec, segment, now);
        }
        if segment.flags & SYN != 0 {
            return self.ack(spec, None, now);
        }
        if segment.flags & ACK == 0 {
            return Outcome::dropped(Dropped::NotUnderstood);
        }
        if self.state == State::SynReceived && segment.acknowledgment != self.send_next {
            let sequence = segment.acknowledgment;
            return Outcome::now(Segment {
                sequence,
                flags: RST,
                ..Segment::default()
            });
        }
        if is_before(self.send_next, segment.acknowledgment) {
            return self.ack(spec, None, now).with_drop(Dropped::OutsideWindow);
        }
        self.remember_timestamp(segment);
        let mut outcome = self.acknowledged(spec, segment.acknowledgment);
        let received = self.receive(spec, segment, now);
        outcome.send.extend(received.send);
        outcome.dropped = received.dropped;
        outcome
    }

    /// A SYN while the handshake is open: the same one again is answered again; one beside it
    /// resets (as Linux does).
    fn another_syn(&mut self, spec: &Tcp, segment: &Segment, now: Duration) -> Outcome {
        if segment.sequence == self.initial_receive {
            return self.syn_ack(spec, now);
        }
        if !self.in_window(spec, segment.sequence) {
            return self.ack(spec, None, now).with_drop(Dropped::OutsideWindow);
        }
        self.state = State::Closed;
        let acknowledgment = segment.sequence.wrapping_add(segment.length());
        Outcome::now(Segment {
            acknowledgment,
            flags: RST | ACK,
            ..Segment::default()
        })
    }

    fn refuse_by_timestamps(&mut self, spec: &Tcp, segment: &Segment, now: Duration) -> Option<Outcome> {
        let recent = self.recent?;
        if segment.flags & RST != 0 {
            return None;
        }
        match segment.options.timestamps {
            None => Some(Outcome::dropped(Dropped::NoTimestamps)),
            Some((value, _)) if is_before(value, recent) => {
                Some(self.ack(spec, None, now).with_drop(Dropped::Paws))
            }
            Some(_) => None,
        }
    }

    fn window(&self, spec: &Tcp) -> u32 {
        let shift = self.window_scale.unwrap_or(0);
        u32::from(spec.window >> shift) << shift
    }

    fn in_window(&self, spec: &Tcp, sequence: u32) -> bool {
        sequence.wrapping_sub(self.receive_next) < self.window(spec)
    }

    fn acceptable(&self, spec: &Tcp, segment: &Segment) -> bool {
        let length = segment.length();
        let first = self.in_window(spec, segment.sequence);
        if length == 0 {
            return first || segment.sequence == self.receive_next;
        }
        first || self.in_window(spec, segment.sequence.wrapping_add(length - 1))
    }

    fn refuse_outside_window(&mut self, spec: &Tcp, segment: &Segment, now: Duration) -> Outcome {
        if segment.flags & RST != 0 {
            return Outcome::dropped(Dropped::OutsideWindow);
        }
        let end = segment.sequence.wrapping_add(segment.length());
        let old = segment.length() > 0 && !is_before(self.receive_next, end);
        let duplicate = old.then_some((segment.sequence, end));
        self.ack(spec, duplicate, now).with_drop(Dropped::OutsideWindow)
    }

    /// RFC 5961 §3.2: only the exact sequence number resets; another one in the window is
    /// challenged.
    fn reset(&mut self, spec: &Tcp, segment: &Segment, now: Duration) -> Outcome {
        if segment.sequence == self.receive_next {
            self.state = State::Closed;
            return Outcome::default();
        }
        self.ack(spec, None, now)
    }

    /// RFC 7323 §4.3 rule 2: only segments at or before the last acknowledgment count.
    fn remember_timestamp(&mut self, segment: &Segment) {
        if let (Some(_), Some((value, _))) = (self.recent, segment.options.timestamps)
            && !is_before(self.last_ack_sent, segment.sequence)
        {
            self.recent = Some(value);
        }
    }

    fn acknowledged(&mut self, spec: &Tcp, acknowledgment: u32) -> Outcome {
        if is_before(self.send_unacknowledged, acknowledgment) {
            self.send_unacknowledged = acknowledgment;
        }
        let mut outcome = Outcome::default();
        match self.state {
            State::SynReceived => {
                self.state = State::Established;
                if spec.greeting.is_some() {
                    outcome
                        .timers
                        .push((spec.greeting_delay.0, Timer::Greeting { tries: 0 }));
                }
            }
            State::LastAck if acknowledgment == self.send_next => self.state = State::Closed,
            _ => {}
        }
        outcome
    }

    fn receive(&mut self, spec: &Tcp, segment: &Segment, now: Duration) -> Outcome {
        if segment.length() == 0 {
            return Outcome::default();
        }
        let end = segment.sequence.wrapping_add(segment.payload.len() as u32);
        if is_before(self.receive_next, segment.sequence) {
            return self.receive_beyond_gap(spec, (segment.sequence, end), now);
        }
        if is_before(self.receive_next, end) {
            self.receive_next = end;
            self.close_gap();
        }
        if segment.flags & FIN != 0 && self.receive_next == end {
            return self.close(spec, now);
        }
        self.ack(spec, None, now)
    }

    fn receive_beyond_gap(&mut self, spec: &Tcp, block: (u32, u32), now: Duration) -> Outcome {
        if spec.ignore_out_of_order {
            return Outcome::dropped(Dropped::OutOfOrder);
        }
        if block.0 == block.1 {
            return self.ack(spec, None, now);
        }
        let known = self
            .beyond
            .iter()
            .any(|held| !is_before(block.0, held.0) && !is_before(held.1, block.1));
        self.merge(block);
        self.ack(spec, known.then_some(block), now)
    }

    /// Joins a block with all that touch it and puts it first.
    fn merge(&mut self, block: (u32, u32)) {
        let mut joined = block;
        self.beyond.retain(|held| {
            let apart = is_before(held.1, joined.0) || is_before(joined.1, held.0);
            if !apart {
                joined.0 = if is_before(held.0, joined.0) {
                    held.0
                } else {
                    joined.0
                };
                joined.1 = if is_before(joined.1, held.1) {
                    held.1
                } else {
                    joined.1
                };
            }
            apart
        });
        self.beyond.insert(0, joined);
    }

    fn close_gap(&mut self) {
        while let Some(index) = self
            .beyond
            .iter()
            .position(|held| !is_before(self.receive_next, held.0))
        {
            let (_, end) = self.beyond.remove(index);
            if is_before(self.receive_next, end) {
                self.receive_next = end;
            }
        }
    }

    fn close(&mut self, spec: &Tcp, now: Duration) -> Outcome {
        self.receive_next = self.receive_next.wrapping_add(1);
        if spec.reset_on_close {
            self.state = State::Closed;
            return Outcome::now(self.segment_out(spec, RST | ACK, now));
        }
        let segment = self.segment_out(spec, FIN | ACK, now);
        self.send_next = self.send_next.wrapping_add(1);
        self.state = State::LastAck;
        Outcome::now(segment)
    }

    pub(super) fn timer(&mut self, spec: &Tcp, timer: Timer, now: Duration) -> Outcome {
        match timer {
            Timer::SynAck { .. } if self.state != State::SynReceived => Outcome::default(),
            Timer::SynAck { tries } if tries > SYN_ACK_RETRIES => {
                self.state = State::Closed;
                Outcome::default()
            }
            Timer::SynAck { tries } => {
                let mut outcome = self.syn_ack(spec, now);
                outcome.timers.push(again_after(spec, tries + 1));
                outcome
            }
            Timer::Greeting { tries } => self.greet(spec, tries, now),
        }
    }

    fn greet(&mut self, spec: &Tcp, tries: u32, now: Duration) -> Outcome {
        let start = self.initial_send.wrapping_add(1);
        let Some(greeting) = &spec.greeting else {
            return Outcome::default();
        };
        let end = start.wrapping_add(greeting.len() as u32);
        let done = !is_before(self.send_unacknowledged, end);
        if self.state != State::Established || done || tries > SYN_ACK_RETRIES {
            return Outcome::default();
        }
        let mut segment = self.segment_out(spec, PSH | ACK, now);
        segment.sequence = start;
        segment.payload = greeting.as_bytes().to_vec();
        self.send_next = end;
        let mut outcome = Outcome::now(segment);
        let again = Timer::Greeting { tries: tries + 1 };
        outcome.timers.push((RETRANSMIT * 2_u32.pow(tries.min(8)), again));
        outcome
    }
}

/// When the SYN-ACK is repeated after this many tries, if nobody has acknowledged it.
fn again_after(spec: &Tcp, tries: u32) -> (Duration, Timer) {
    let wait = spec.syn_ack_delay.0 + RETRANSMIT * 2_u32.pow(tries.min(8) - 1);
    (wait, Timer::SynAck { tries })
}

/// Whether `a` comes before `b` in sequence space (RFC 9293 §3.4).
fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}
