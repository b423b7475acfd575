//! What was sent on a flow, and what came back.

use std::net::IpAddr;
use std::time::Duration;

use traceroute_wire::{IcmpError, MplsStack};

use crate::Time;
use crate::answer::Answer;
use crate::flow::ProbeId;

/// What became of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// No answer yet.
    Waiting,
    /// Somebody answered it.
    Answered,
    /// This machine did not send it.
    Refused,
    /// This machine took it, and then found no neighbour to give it to, or a firewall of its own
    /// rejected it.
    Dropped,
}

/// One probe as it was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    pub at: Time,
    /// From then to its mark, in nanoseconds.
    to_mark: i32,
    pub id: ProbeId,
    pub fate: Fate,
    pub by_kernel: bool,
}

impl Attempt {
    /// Its mark in the memory of responders ([`crate::responders::Responders::sent`]).
    pub(crate) fn mark(&self) -> Time {
        let apart = Duration::from_nanos(u64::from(self.to_mark.unsigned_abs()));
        if self.to_mark < 0 {
            self.at - apart
        } else {
            self.at + apart
        }
    }

    fn set_mark(&mut self, mark: Time) {
        let nanos = |apart: Duration| i32::try_from(apart.as_nanos()).unwrap_or(i32::MAX);
        self.to_mark = nanos(mark.since(self.at)) - nanos(self.at.since(mark));
    }
}

/// An answer and when it arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    pub answer: Answer,
    pub at: Time,
    /// It cannot be told which attempt it is to, even where only one seems possible.
    pub is_unclear: bool,
    /// Addresses and ports are all that makes it an answer: anybody may have sent it.
    pub is_unproven: bool,
}

impl Received {
    pub(crate) fn of(answer: Answer, at: Time) -> Self {
        Received {
            answer,
            at,
            is_unclear: false,
            is_unproven: false,
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct TtlRecord {
    kept: Option<Kept>,
    /// Probes made, refused ones included.
    attempts: u8,
    refused: u8,
}

/// An answer without what the ledger knows besides: there may be ten thousand ledgers at once.
#[derive(Debug, Clone, Copy)]
struct Kept {
    at: Time,
    address: IpAddr,
    error: Option<IcmpError>,
    reply_ttl: u8,
    quoted_ttl: Option<u8>,
    attempt: Option<u8>,
    destination: bool,
    kernel_stamped: bool,
    translated: bool,
    /// Its labels are among the ledger's stacks.
    has_labels: bool,
    is_unproven: bool,
}

impl Kept {
    fn new(received: &Received) -> Self {
        let Received {
            answer,
            at,
            is_unproven,
            ..
        } = received;
        Kept {
            at: *at,
            address: answer.address,
            error: answer.error,
            reply_ttl: answer.reply_ttl,
            quoted_ttl: answer.quoted_ttl,
            attempt: answer.attempt,
            destination: answer.destination,
            kernel_stamped: answer.kernel_stamped,
            translated: answer.translated,
            has_labels: answer.mpls != MplsStack::default(),
            is_unproven: *is_unproven,
        }
    }

    fn is_refusal(&self) -> bool {
        !self.destination && matches!(self.error, Some(IcmpError::Unreachable { .. }))
    }
}

/// Answers by which a node refuses to forward.
#[derive(Debug, Clone, Copy)]
struct Refusals {
    from: IpAddr,
    code: u8,
    /// The lowest TTL.
    ttl: u8,
    count: u32,
}

/// What an answer did to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It is the answer that counts at its TTL, with its RTT filled in; whether its probe had none
    /// before.
    New { answer: Answer, is_first: bool },
    /// The first to its probe, but another one counts at its TTL.
    Another(Answer),
    /// The probe had one.
    Duplicate,
    /// No such probe was sent.
    NeverSent,
}

/// The probes of a flow and their answers, by TTL.
pub(crate) struct Ledger {
    first_ttl: u8,
    attempts: Vec<Attempt>,
    places: Vec<TtlRecord>,
    /// Labels of routers, by TTL: few have any.
    stacks: Vec<(u8, MplsStack)>,
    destination: Option<u8>,
    /// The longest round trip seen.
    rtt: Duration,
    refusals: Option<Refusals>,
    sent: u32,
}

impl Ledger {
    pub(crate) fn new(first_ttl: u8) -> Self {
        Ledger {
            first_ttl,
            attempts: Vec::new(),
            places: Vec::new(),
            stacks: Vec::new(),
            destination: None,
            rtt: Duration::ZERO,
            refusals: None,
            sent: 0,
        }
    }

    fn index(&self, ttl: u8) -> Option<usize> {
        ttl.checked_sub(self.first_ttl).map(usize::from)
    }

    fn place(&self, ttl: u8) -> Option<&TtlRecord> {
        self.places.get(self.index(ttl)?)
    }

    fn attempt_mut(&mut self, id: ProbeId) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|attempt| attempt.id == id)
    }

    /// The next attempt at `ttl`.
    pub(crate) fn next(&self, ttl: u8) -> ProbeId {
        ProbeId {
            ttl,
            attempt: self.attempts_at(ttl),
        }
    }

    pub(crate) fn attempts_at(&self, ttl: u8) -> u8 {
        self.place(ttl).map_or(0, |place| place.attempts)
    }

    pub(crate) fn refused_at(&self, ttl: u8) -> u8 {
        self.place(ttl).map_or(0, |place| place.refused)
    }

    /// The highest TTL probed.
    pub(crate) fn highest(&self) -> Option<u8> {
        let place = self.places.len().checked_sub(1)?;
        Some(self.first_ttl + place as u8)
    }

    /// Probes that left.
    pub(crate) fn sent(&self) -> u32 {
        self.sent
    }

    pub(crate) fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    pub(crate) fn attempt(&self, id: ProbeId) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.id == id)
    }

    /// Whether this probe left.
    pub(crate) fn was_sent(&self, id: ProbeId) -> bool {
        self.attempt(id)
            .is_some_and(|attempt| attempt.fate != Fate::Refused)
    }

    /// When `ttl` was probed first.
    pub(crate) fn first_sent(&self, ttl: u8) -> Option<Time> {
        self.attempts
            .iter()
            .find(|attempt| attempt.id.ttl == ttl)
            .map(|attempt| attempt.at)
    }

    /// When `ttl` was probed last.
    pub(crate) fn last_sent(&self, ttl: u8) -> Option<Time> {
        self.attempts
            .iter()
            .rfind(|attempt| attempt.id.ttl == ttl)
            .map(|attempt| attempt.at)
    }

    /// A probe's mark in the memory of responders.
    pub(crate) fn mark(&self, id: ProbeId) -> Option<Time> {
        let attempt = self.attempts.iter().find(|attempt| attempt.id == id)?;
        Some(attempt.mark())
    }

    pub(crate) fn set_mark(&mut self, id: ProbeId, mark: Time) {
        if let Some(attempt) = self.attempt_mut(id) {
            attempt.set_mark(mark);
        }
    }

    /// The answer that counts at `ttl`.
    pub(crate) fn answer(&self, ttl: u8) -> Option<Answer> {
        let kept = self.kept(ttl)?;
        let sent = |attempt| {
            self.attempts
                .iter()
                .find(|sent| sent.id == ProbeId { ttl, attempt })
        };
        let stack = || self.stacks.iter().find(|(of, _)| *of == ttl);
        let stack = kept.has_labels.then(stack).flatten();
        Some(Answer {
            address: kept.address,
            rtt: kept.attempt.and_then(sent).map(|sent| rtt(sent.at, kept.at)),
            destination: kept.destination,
            error: kept.error,
            reply_ttl: kept.reply_ttl,
            quoted_ttl: kept.quoted_ttl,
            mpls: stack.map_or_else(MplsStack::default, |(_, stack)| *stack),
            kernel_stamped: kept.kernel_stamped,
            attempt: kept.attempt,
            translated: kept.translated,
        })
    }

    fn kept(&self, ttl: u8) -> Option<&Kept> {
        self.place(ttl)?.kept.as_ref()
    }

    pub(crate) fn is_answered(&self, ttl: u8) -> bool {
        self.kept(ttl).is_some()
    }

    /// Whether an attempt, beside another one whose answer counts, was answered or may still be:
    /// that answer did not say which attempt it is to, or this one has not had twice the time it
    /// took.
    pub(crate) fn may_be_answered(&self, attempt: &Attempt, now: Time) -> bool {
        let Some(kept) = self.kept(attempt.id.ttl) else {
            return false;
        };
        let took = kept
            .attempt
            .and_then(|attempt_of| {
                self.attempt(ProbeId {
                    attempt: attempt_of,
                    ..attempt.id
                })
            })
            .map(|answered| rtt(answered.at, kept.at));
        took.is_none_or(|took| now < attempt.at + took * 2)
    }

    /// Whether nothing can come back from `ttl` any more: it was answered, or this machine did not
    /// send anything.
    pub(crate) fn is_settled(&self, ttl: u8) -> bool {
        self.place(ttl).is_some_and(|place| {
            place.kept.is_some() || place.attempts > 0 && place.attempts == place.refused
        })
    }

    /// Whether somebody else than the destination answered at `ttl`.
    pub(crate) fn is_passed(&self, ttl: u8) -> bool {
        self.kept(ttl).is_some_and(|kept| !kept.destination)
    }

    /// The lowest TTL at which the destination answered.
    pub(crate) fn destination(&self) -> Option<u8> {
        self.destination
    }

    /// Whether the destination's answer at `ttl` is one that anybody may have sent.
    pub(crate) fn is_unproven(&self, ttl: u8) -> bool {
        self.kept(ttl).is_some_and(|kept| kept.is_unproven)
    }

    /// Whether the destination is known by an answer that quotes or acknowledges a probe.
    pub(crate) fn is_destination_proven(&self) -> bool {
        self.destination.is_some_and(|ttl| !self.is_unproven(ttl))
    }

    /// The destination is further away than `ttl`, or is known by something better: forgets its
    /// answers up to there that anybody may have sent.
    fn withdraw(&mut self, ttl: u8) {
        if self.destination.is_none_or(|destination| destination > ttl) {
            return;
        }
        let Some(index) = self.index(ttl) else { return };
        for place in self.places.iter_mut().take(index + 1) {
            place.kept.take_if(|kept| kept.is_unproven);
        }
        let lowest = |place: &TtlRecord| place.kept.is_some_and(|kept| kept.destination);
        let index = self.places.iter().position(lowest);
        self.destination = index.map(|index| self.first_ttl + index as u8);
    }

    /// The highest TTL below `ttl` that somebody else than the destination answered.
    pub(crate) fn highest_passed(&self, below: u8) -> Option<u8> {
        (self.first_ttl..below.min(self.highest().unwrap_or(0).saturating_add(1)))
            .rev()
            .find(|ttl| self.is_passed(*ttl))
    }

    /// Whether a probe with this TTL that left at this time, or later, was answered.
    pub(crate) fn was_answered_since(&self, ttl: u8, since: Time) -> bool {
        let is_it = |sent: &Attempt| sent.id.ttl == ttl && sent.at >= since && sent.fate == Fate::Answered;
        self.attempts.iter().any(is_it)
    }

    /// The highest TTL that anybody answered.
    pub(crate) fn highest_answered(&self) -> Option<u8> {
        let index = self.places.iter().rposition(|place| place.kept.is_some())?;
        Some(self.first_ttl + index as u8)
    }

    /// A TTL where a node refuses to forward, which no second probe has confirmed yet, and beyond
    /// which nobody answers.
    pub(crate) fn unconfirmed_refusal(&self) -> Option<u8> {
        let refusals = self.refusals.filter(|refusals| refusals.count == 1)?;
        (self.highest_answered() == Some(refusals.ttl)).then_some(refusals.ttl)
    }

    /// The longest round trip seen so far.
    pub(crate) fn rtt(&self) -> Duration {
        self.rtt
    }

    /// The TTL where a node refuses to forward, who, and with which code: confirmed by two probes,
    /// and nobody answers from beyond.
    pub(crate) fn refusal(&self) -> Option<(u8, IpAddr, u8)> {
        let Refusals { from, code, ttl, .. } = self.refusals.filter(|refusals| refusals.count >= 2)?;
        let beyond = self.places.iter().skip(self.index(ttl)? + 1);
        let passes = |place: &TtlRecord| place.kept.is_some_and(|kept| !kept.is_refusal());
        (!beyond.into_iter().any(passes)).then_some((ttl, from, code))
    }

    fn place_mut(&mut self, ttl: u8) -> Option<&mut TtlRecord> {
        let index = self.index(ttl)?;
        if self.places.len() <= index {
            make_room(&mut self.places, index + 1);
            self.places.resize(index + 1, TtlRecord::default());
        }
        self.places.get_mut(index)
    }

    /// A probe left.
    pub(crate) fn record_sent(&mut self, id: ProbeId, at: Time) {
        self.record(id, at, Fate::Waiting);
        self.sent += 1;
    }

    /// This machine refused to send a probe.
    pub(crate) fn record_refused(&mut self, id: ProbeId, at: Time) {
        self.record(id, at, Fate::Refused);
    }

    fn record(&mut self, id: ProbeId, at: Time, fate: Fate) {
        if let Some(place) = self.place_mut(id.ttl) {
            place.attempts = place.attempts.saturating_add(1);
            place.refused += u8::from(fate == Fate::Refused);
        }
        let count = self.attempts.len() + 1;
        make_room(&mut self.attempts, count);
        self.attempts.push(Attempt {
            at,
            to_mark: 0,
            id,
            fate,
            by_kernel: false,
        });
    }

    /// The kernel knows better when the probe left.
    pub(crate) fn sent_by_kernel(&mut self, id: ProbeId, at: Time) {
        if let Some(attempt) = self
            .attempt_mut(id)
            .filter(|attempt| attempt.fate == Fate::Waiting)
        {
            let mark = attempt.mark();
            attempt.at = at;
            attempt.set_mark(mark);
            attempt.by_kernel = true;
        }
    }

    /// This machine's own kernel gave the probe up. Whether it was on its way.
    pub(crate) fn dropped(&mut self, id: ProbeId) -> bool {
        match self
            .attempt_mut(id)
            .filter(|attempt| attempt.fate == Fate::Waiting)
        {
            Some(attempt) => {
                attempt.fate = Fate::Dropped;
                true
            }
            None => false,
        }
    }

    /// The one attempt at `ttl` that may be answered at `at`, if there is just one. (Receive times
    /// may be a bit earlier than send times, whose clock is another.)
    pub(crate) fn sole_attempt(&self, ttl: u8, at: Time) -> Option<u8> {
        let mut possible = self
            .attempts
            .iter()
            .filter(|attempt| attempt.id.ttl == ttl && attempt.fate != Fate::Refused && attempt.at <= at);
        let first = possible.next();
        let Some(first) = first else {
            // Stamped before it left, by a clock that is ahead.
            return self
                .attempts
                .iter()
                .find(|attempt| attempt.id.ttl == ttl)
                .map(|attempt| attempt.id.attempt);
        };
        possible.next().is_none().then_some(first.id.attempt)
    }

    /// Takes an answer to a probe with `ttl`; `answer.attempt` says to which, if that is known.
    ///
    /// The destination's answer counts more than a router's, otherwise the first one does, by its
    /// stamp: what comes in by two interfaces or queues may be read in another order.
    pub(crate) fn answered(&mut self, ttl: u8, mut received: Received) -> Entry {
        let sole = || {
            self.sole_attempt(ttl, received.at)
                .filter(|_| !received.is_unclear)
        };
        let attempt = received.answer.attempt.or_else(sole);
        received.answer.attempt = attempt;
        let sent = match attempt {
            Some(attempt) => self.attempt_mut(ProbeId { ttl, attempt }),
            // Whichever it was: one more of them is answered.
            None => self
                .attempts
                .iter_mut()
                .find(|attempt| attempt.id.ttl == ttl && attempt.fate == Fate::Waiting),
        };
        let Some(sent) = sent.filter(|sent| sent.fate != Fate::Refused) else {
            let is_known = attempt.is_none() && self.attempts_at(ttl) > 0;
            return if is_known {
                Entry::Duplicate
            } else {
                Entry::NeverSent
            };
        };
        let is_first = sent.fate != Fate::Answered;
        sent.fate = Fate::Answered;
        let (sent_at, by_kernel) = (sent.at, sent.by_kernel);
        match (received.answer.error, received.answer.destination) {
            (Some(IcmpError::TimeExceeded), false) => self.withdraw(ttl),
            // A closed port sends no datagrams.
            (Some(IcmpError::Unreachable { .. }), true) => self.withdraw(u8::MAX),
            _ => {}
        }
        if attempt.is_some() {
            received.answer.rtt = Some(rtt(sent_at, received.at));
            received.answer.kernel_stamped &= by_kernel;
        }
        if is_first {
            self.note_refusal(ttl, &received.answer);
        }
        let Some(place) = self.place_mut(ttl) else {
            return Entry::NeverSent;
        };
        if place.kept.is_some_and(|known| !replaces(&received, &known)) {
            return if is_first {
                Entry::Another(received.answer)
            } else {
                Entry::Duplicate
            };
        }
        let kept = Kept::new(&received);
        place.kept = Some(kept);
        if kept.has_labels {
            self.stacks.retain(|(of, _)| *of != ttl);
            self.stacks.push((ttl, received.answer.mpls));
        }
        // Of an answer that may be to several, at most: what is too long only makes patient.
        let repeated = |sent: &&Attempt| sent.id.ttl == ttl && sent.id.attempt > 0 && sent.at <= received.at;
        let longest = || {
            self.attempts
                .iter()
                .find(repeated)
                .map(|sent| rtt(sent.at, received.at))
        };
        if let Some(rtt) = received.answer.rtt.or_else(longest) {
            self.rtt = self.rtt.max(rtt);
        }
        if received.answer.destination {
            self.destination = Some(self.destination.map_or(ttl, |lowest| lowest.min(ttl)));
        }
        Entry::New {
            answer: received.answer,
            is_first,
        }
    }

    fn note_refusal(&mut self, ttl: u8, answer: &Answer) {
        let (true, Some(IcmpError::Unreachable { code })) = (answer.is_refusal(), answer.error) else {
            return;
        };
        let from = answer.address;
        match &mut self.refusals {
            Some(refusals) if refusals.from == from => {
                refusals.count += 1;
                if ttl < refusals.ttl {
                    (refusals.ttl, refusals.code) = (ttl, code);
                }
            }
            Some(refusals) if refusals.ttl <= ttl => {}
            refusals => {
                *refusals = Some(Refusals {
                    from,
                    code,
                    ttl,
                    count: 1,
                });
            }
        }
    }
}

/// Room for `len` entries and few more: most paths are short, and there may be ten thousand ledgers
/// at once.
fn make_room<T>(entries: &mut Vec<T>, len: usize) {
    const STEP: usize = 4;
    if entries.capacity() < len {
        entries.reserve_exact(len.next_multiple_of(STEP) - entries.len());
    }
}

fn replaces(new: &Received, known: &Kept) -> bool {
    let rank = |destination, at| (destination, std::cmp::Reverse(at));
    rank(new.answer.destination, new.at) > rank(known.destination, known.at)
}

/// Round-trip time; at least a nanosecond, because zero stands for "no answer" in results.
pub(crate) fn rtt(sent: Time, received: Time) -> Duration {
    received.since(sent).max(Duration::from_nanos(1))
}
