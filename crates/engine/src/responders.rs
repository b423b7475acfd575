//! Who answers where, and the limits that they keep: one memory for all traces of a process.
//!
//! A *place* is (target, way out of this host, protocol, TTL). A *responder* is the address that
//! answered there. A responder's limit is fitted to which probes it answered and which it did not,
//! whichever trace they belong to ([`Evidence`]). From it follow when another probe is worthwhile
//! ([`Responders::ticket`]) and whether the limit explains a silence
//! ([`Responders::explains_probe`]).
//!
//! Bounded: 32,768 places and 4,096 responders. The least recently used go first, and are counted.
//! Of each responder 64 probes are kept; the least informative go first.

use std::net::IpAddr;
use std::time::Duration;

use crate::bucket::{Bucket, Forecast, Limit, Mark, replay};
use crate::evidence::{Candidates, Evidence, Odds, odds};
use crate::generations::Generations;
use crate::{Egress, Method, Time};

/// Half of the places and of the responders that are remembered.
const PLACES: usize = 16 * 1024;
const RESPONDERS: usize = 2 * 1024;
/// Probes remembered for each responder; for each place whose responder is not known yet.
const MARKS: usize = 64;
/// A limit is recomputed at most so often.
const FIT_INTERVAL: Duration = Duration::from_millis(100);
/// A probe counts as unanswered after this time, or twice its responder's round-trip time.
const SILENT_AFTER: Duration = Duration::from_millis(200);
/// Odds from which a limit is believed, so that probes wait for it.
const BELIEVED: f64 = 0.85;
/// Odds from which a limit is the more likely explanation of a silence.
const LIKELIER: f64 = 0.7;
/// How likely a router never answers, before anything was seen.
const SILENT: f64 = 0.1;
/// Fewer unanswered probes do not make a limit.
const LEAST_LOST: u32 = 2;
/// Two retries of different traces at the same place are at least so far apart.
const TURN: Duration = Duration::from_millis(10);
/// The same where several probes in a row went unanswered.
const SUSPICIOUS_TURN: Duration = Duration::from_millis(100);
const SUSPICIOUS: usize = 3;
/// Up to this TTL a path is looked at for losses.
const FARTHEST: u8 = 64;
/// How many hops further on a path is looked at for limits.
const LOOK_AROUND: u8 = 16;

/// Where a probe is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub target: IpAddr,
    /// Another way out of this host is another path.
    pub egress: Egress,
    pub method: Method,
    pub ttl: u8,
}

/// When a silent place may be probed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ticket {
    /// No limit is known: at this time, so that traces take turns.
    Turn(Time),
    /// The responder limits its answers: this token is reserved for the caller.
    Token(Time),
    /// The responder limits its answers, and none is left before the caller's time is up.
    None,
}

/// What is known of a target's limit on the errors by which it answers UDP probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// An answer is likely now.
    Now,
    /// Not before this time.
    At(Time),
    /// As [`Allowance::At`], but that is an assumption which a probe now would test: it goes
    /// unanswered if it is right.
    Assumed(Time),
}

struct PlaceRecord {
    responder: Option<IpAddr>,
    /// Answers here are limited: they are ICMP errors.
    is_limited_kind: bool,
    /// Probes sent while nobody was known to answer, as far as they are unanswered.
    orphans: Vec<Mark>,
    next_turn: Time,
    next_slow_turn: Time,
    /// Probes sent here, and answered.
    sent: u32,
    answered: u32,
    last_sent: Time,
}

impl PlaceRecord {
    fn new() -> Self {
        PlaceRecord {
            responder: None,
            is_limited_kind: true,
            orphans: Vec::new(),
            next_turn: Time::ZERO,
            next_slow_turn: Time::ZERO,
            sent: 0,
            answered: 0,
            last_sent: Time::ZERO,
        }
    }

    /// What was lost here, as far as that is settled.
    fn lost(&self, now: Time) -> u32 {
        // The last one may be on its way.
        let waits = self.sent > self.answered && now.since(self.last_sent) < SILENT_AFTER;
        self.sent.saturating_sub(self.answered + u32::from(waits))
    }
}

struct Responder {
    marks: RecentMarks<MARKS>,
    rtt: Duration,
    next_turn: Time,
    /// The last token promised.
    promised: Time,
    fitted_at: Option<Time>,
    /// What the marks showed then.
    evidence: Evidence,
    candidates: Candidates,
    /// How likely it is one, and when that was weighed.
    odds: Odds,
    weighed_at: Option<Time>,
    /// A probe was answered that Linux's limit forbids.
    refuted: bool,
}

impl Responder {
    fn new() -> Self {
        Responder {
            marks: RecentMarks::new(),
            rtt: Duration::ZERO,
            next_turn: Time::ZERO,
            promised: Time::ZERO,
            fitted_at: None,
            evidence: Evidence::unlimited(0, 0),
            candidates: Candidates::default(),
            odds: Odds::default(),
            weighed_at: None,
            refuted: false,
        }
    }

    fn grace(&self) -> Duration {
        SILENT_AFTER.max(self.rtt * 2)
    }

    /// Looks again at what the marks show, if it is time to.
    fn refit(&mut self, now: Time) {
        if is_recent(self.fitted_at, now) {
            return;
        }
        self.fitted_at = Some(now);
        let mut buffer = [Mark::NONE; MARKS];
        let marks = self.marks.settled(now, self.grace(), &mut buffer);
        (self.evidence, self.candidates) = Evidence::of(marks);
    }

    /// The limit that its probes wait for.
    fn limit(&self) -> Option<Limit> {
        (self.odds.limited >= BELIEVED && self.evidence.lost() >= LEAST_LOST).then_some(self.candidates.best)
    }

    /// The limit that explains best what it did not answer.
    fn likely_limit(&self) -> Option<Limit> {
        (self.odds.limited >= LIKELIER).then_some(self.candidates.closest)
    }

    /// The bucket after all that was seen.
    fn bucket(&self, limit: Limit) -> Option<Bucket> {
        replay(limit, self.marks.known(), |_, _| {})
    }
}

/// Probes with their times, in the order of time; those on their way have no answer yet. The oldest
/// are overwritten.
struct RecentMarks<const N: usize> {
    marks: [Mark; N],
    len: usize,
}

impl<const N: usize> RecentMarks<N> {
    fn new() -> Self {
        RecentMarks {
            marks: [Mark::NONE; N],
            len: 0,
        }
    }

    fn push(&mut self, mark: Mark) {
        if self.len == N {
            let surplus = self.least_telling();
            self.marks.copy_within(surplus + 1.., surplus);
            self.len -= 1;
        }
        let mut at = self.len;
        while at > 0 && self.marks[at - 1].at > mark.at {
            self.marks[at] = self.marks[at - 1];
            at -= 1;
        }
        self.marks[at] = mark;
        self.len += 1;
    }

    /// Which mark tells least: one of three unanswered ones in a row, or else the oldest.
    fn least_telling(&self) -> usize {
        let all_silent = |marks: &[Mark]| marks.iter().all(|mark| !mark.answered);
        let row = self.known().windows(3).position(all_silent);
        row.map_or(0, |first| first + 1)
    }

    fn known(&self) -> &[Mark] {
        self.marks.get(..self.len).unwrap_or(&self.marks)
    }

    /// Takes note of the answer to the probe sent at this time, or the unanswered one nearest to
    /// it.
    fn answer(&mut self, at: Time) -> bool {
        let len = self.len;
        let unanswered = self.marks.iter_mut().take(len).filter(|mark| !mark.answered);
        let nearest = unanswered.min_by_key(|mark| apart(mark.at, at));
        match nearest.filter(|mark| apart(mark.at, at) <= Duration::from_millis(50)) {
            Some(mark) => {
                mark.answered = true;
                true
            }
            None => false,
        }
    }

    /// Without those that may still be answered.
    fn settled<'b>(&self, now: Time, grace: Duration, buffer: &'b mut [Mark; N]) -> &'b [Mark] {
        let mut count = 0;
        for mark in self.known() {
            if mark.answered || now.since(mark.at) >= grace {
                buffer[count] = *mark;
                count += 1;
            }
        }
        buffer.get(..count).unwrap_or(&[])
    }
}

/// A limit is looked at anew after some time only.
fn is_recent(at: Option<Time>, now: Time) -> bool {
    at.is_some_and(|at| now.since(at) < FIT_INTERVAL)
}

fn apart(one: Time, other: Time) -> Duration {
    one.since(other).max(other.since(one))
}

/// The memory.
pub(crate) struct Responders {
    paths: Generations<Place, PlaceRecord>,
    responders: Generations<IpAddr, Responder>,
    last_mark: Time,
}

impl Responders {
    pub(crate) fn new() -> Self {
        Responders {
            paths: Generations::new(PLACES),
            responders: Generations::new(RESPONDERS),
            last_mark: Time::ZERO,
        }
    }

    /// Entries dropped because the memory was full.
    pub(crate) fn forgotten(&self) -> u64 {
        self.paths.forgotten() + self.responders.forgotten()
    }

    /// Responders known now.
    pub(crate) fn len(&self) -> usize {
        self.responders.len()
    }

    /// A probe left. Its mark: a time that no other probe has, so that answers are known to be to
    /// this one.
    pub(crate) fn sent(&mut self, place: Place, at: Time) -> Time {
        let at = at.max(self.last_mark + Duration::from_nanos(1));
        self.last_mark = at;
        let path = self.paths.entry(place, PlaceRecord::new);
        path.sent += 1;
        path.last_sent = at;
        if !path.is_limited_kind {
            return at;
        }
        let mark = Mark { at, answered: false };
        match path.responder {
            Some(address) => self.responders.entry(address, Responder::new).marks.push(mark),
            None => {
                if path.orphans.len() == MARKS {
                    path.orphans.remove(0);
                }
                path.orphans.push(mark);
            }
        }
        at
    }

    /// The probe with the mark `sent` was answered by an ICMP error (`is_error`) or by the target
    /// itself.
    pub(crate) fn answered(
        &mut self,
        place: Place,
        from: IpAddr,
        is_error: bool,
        sent: Time,
        rtt: Option<Duration>,
    ) {
        let path = self.paths.entry(place, PlaceRecord::new);
        path.answered += 1;
        path.is_limited_kind = is_error;
        if !is_error {
            path.responder = Some(from);
            path.orphans.clear();
            return;
        }
        let responder = self.responders.entry(from, Responder::new);
        if path.responder != Some(from) {
            path.responder = Some(from);
            for orphan in path.orphans.drain(..) {
                responder.marks.push(orphan);
            }
        }
        if !responder.marks.answer(sent) {
            responder.marks.push(Mark {
                at: sent,
                answered: true,
            });
        }
        if let Some(rtt) = rtt {
            responder.rtt = responder.rtt.max(rtt).min(Duration::from_secs(2));
        }
    }

    /// Whether anybody was seen to answer at this place.
    pub(crate) fn is_known(&self, place: Place) -> bool {
        self.paths
            .peek(&place)
            .is_some_and(|path| path.responder.is_some())
    }

    /// A responder with what its marks show now, beside those of the others on the path.
    fn fitted(&mut self, place: Place, address: IpAddr, now: Time) -> Option<&mut Responder> {
        let responder = self.responders.get_mut(&address)?;
        if !is_recent(responder.weighed_at, now) {
            responder.weighed_at = Some(now);
            responder.refit(now);
            let is_suspect = responder.evidence.lost() > 0;
            let odds = if is_suspect {
                let (path, own) = self.path(place, address, now);
                odds(&path, own)
            } else {
                Odds::default()
            };
            self.responders.get_mut(&address)?.odds = odds;
        }
        self.responders.get_mut(&address)
    }

    /// What the nodes on the way to `place`'s target have shown, and which of them is the one with
    /// this address.
    fn path(&mut self, place: Place, address: IpAddr, now: Time) -> (Vec<Evidence>, usize) {
        let (mut path, mut own, mut last) = (Vec::new(), 0, None);
        let (mut answered, mut lost) = (0, 0);
        for ttl in 1..=FARTHEST {
            let Some(known) = self.paths.peek(&Place { ttl, ..place }) else {
                continue;
            };
            let Some(from) = known.responder.filter(|from| Some(*from) != last) else {
                continue;
            };
            if !known.is_limited_kind {
                answered += known.answered;
                lost += known.lost(now);
                continue;
            }
            last = Some(from);
            if from == address {
                own = path.len();
            }
            if let Some(responder) = self.responders.get_mut(&from) {
                responder.refit(now);
                path.push(responder.evidence);
            }
        }
        path.push(Evidence::unlimited(answered, lost));
        (path, own)
    }

    /// Whether routers were seen further on: then it is not the target that is at this place.
    pub(crate) fn is_before_router(&self, place: Place) -> bool {
        let mut further = place.ttl..=FARTHEST;
        further.any(|ttl| self.router_at(Place { ttl, ..place }).is_some())
    }

    /// The limit that the responder of this place has shown.
    pub(crate) fn limit(&mut self, place: Place, now: Time) -> Option<Limit> {
        let path = self.paths.get_mut(&place).filter(|path| path.is_limited_kind)?;
        let address = path.responder?;
        self.fitted(place, address, now)?.limit()
    }

    /// When this place may be probed again, up to `latest`. Callers take turns; where a limit is
    /// known, each gets a token.
    pub(crate) fn ticket(&mut self, place: Place, now: Time, latest: Time) -> Ticket {
        let limit = self.limit(place, now);
        let path = self.paths.entry(place, PlaceRecord::new);
        let responder = path
            .responder
            .filter(|_| path.is_limited_kind)
            .and_then(|address| self.responders.get_mut(&address));
        let Some(responder) = responder else {
            return Ticket::Turn(turn(&mut path.next_turn, &path.orphans, now));
        };
        let Some(limit) = limit else {
            return Ticket::Turn(turn(&mut responder.next_turn, responder.marks.known(), now));
        };
        let free = responder.bucket(limit).map_or(now, |bucket| bucket.surely_at());
        let at = free.max(responder.promised + limit.interval).max(now);
        if at > latest {
            return Ticket::None;
        }
        responder.promised = at;
        Ticket::Token(at)
    }

    /// Whether a responder between the start of this place's path and its end is known to limit its
    /// answers.
    pub(crate) fn is_path_limited(&self, place: Place) -> bool {
        (1..=u8::MAX)
            .take_while(|ttl| *ttl < place.ttl.saturating_add(LOOK_AROUND))
            .any(|ttl| {
                let path = self.paths.peek(&Place { ttl, ..place });
                let responder = path.and_then(|path| self.responders.peek(&path.responder?));
                responder.is_some_and(|responder| responder.limit().is_some())
            })
    }

    /// Whether limits explain that nobody answered any probe at this place, where a router
    /// forwards: as many limit their answers on this path, and answered as few.
    pub(crate) fn explains_silent_place(&self, place: Place) -> bool {
        let probes = self.paths.peek(&place).map_or(0, |path| path.sent);
        let (mut nodes, mut limited, mut answered, mut lost) = (0, 0, 0, 0);
        let mut last = None;
        for ttl in 1..=FARTHEST {
            let path = self.paths.peek(&Place { ttl, ..place });
            let known = path.filter(|path| path.is_limited_kind && path.responder != last);
            let Some(address) = known.and_then(|path| path.responder) else {
                continue;
            };
            last = Some(address);
            let Some(responder) = self.responders.peek(&address) else {
                continue;
            };
            nodes += 1;
            if responder.limit().is_some() {
                limited += 1;
                answered += responder.evidence.answered();
                lost += responder.evidence.lost();
            }
        }
        if limited == 0 {
            return false;
        }
        let share = f64::from(lost) / f64::from(lost + answered);
        let is_limited = f64::from(limited) / f64::from(nodes + 1);
        is_limited * share.powf(f64::from(probes)) > SILENT
    }

    /// When this place may be probed again that may be out of tokens at any time, up to `latest`:
    /// traces take turns, so far apart.
    pub(crate) fn slow_turn(
        &mut self,
        place: Place,
        (now, latest): (Time, Time),
        apart: Duration,
    ) -> Option<Time> {
        let path = self.paths.entry(place, PlaceRecord::new);
        let at = path.next_slow_turn.max(now);
        if at > latest {
            return None;
        }
        path.next_slow_turn = at + apart;
        Some(at)
    }

    /// The router that was seen at this place, if it was one.
    pub(crate) fn router_at(&self, place: Place) -> Option<IpAddr> {
        let path = self.paths.peek(&place).filter(|path| path.is_limited_kind)?;
        path.responder.filter(|address| *address != place.target)
    }

    /// Whether the target of this place has answered probes of any TTL.
    pub(crate) fn has_answered(&self, place: Place) -> bool {
        (1..=u8::MAX).any(|ttl| {
            let path = self.paths.peek(&Place { ttl, ..place });
            path.is_some_and(|path| path.responder == Some(place.target))
        })
    }

    /// Whether the target is known to limit the errors by which it answers.
    pub(crate) fn is_target_limited(&self, target: IpAddr) -> bool {
        self.responders
            .peek(&target)
            .is_some_and(|responder| responder.limit().is_some())
    }

    /// Whether the limit of this place's responder explains that the probe sent at `sent` is
    /// unanswered. `None`: nobody is known to answer there.
    pub(crate) fn explains_probe(&mut self, place: Place, sent: Time, now: Time) -> Option<bool> {
        let path = self.paths.get_mut(&place)?;
        let address = path.responder?;
        if !path.is_limited_kind {
            return Some(false);
        }
        let responder = self.fitted(place, address, now)?;
        let Some(limit) = responder.likely_limit() else {
            return Some(false);
        };
        if responder.odds.shared > responder.odds.limited / 2.0 {
            return Some(true);
        }
        let mut buffer = [Mark::NONE; MARKS];
        let marks = responder.marks.settled(now, responder.grace(), &mut buffer);
        let mut forecast_then = Forecast::Open;
        let mut nearest = Duration::MAX;
        replay(limit, marks, |mark, forecast| {
            let distance = apart(mark.at, sent);
            if !mark.answered && distance < nearest {
                (nearest, forecast_then) = (distance, forecast);
            }
        });
        Some(forecast_then != Forecast::Answered)
    }

    /// Whether the target would answer an error to one more UDP probe now, sent as those of
    /// `place`.
    pub(crate) fn allowance(&mut self, place: Place, now: Time) -> Allowance {
        let place = Place {
            method: Method::Udp,
            ..place
        };
        let Some(responder) = self.fitted(place, place.target, now) else {
            return Allowance::Now;
        };
        let learned = responder.limit();
        if learned.is_none() && responder.refutes_linux() {
            return Allowance::Now;
        }
        let limit = learned.unwrap_or(Limit::LINUX);
        let Some((mut bucket, was_wrong)) = responder.bucket_if_answered(limit) else {
            return Allowance::Now;
        };
        bucket.advance(now);
        // Once an answer was missing that might have come, only what is sure counts.
        let at = if was_wrong {
            bucket.surely_at()
        } else {
            bucket.perhaps_at()
        };
        if at <= now {
            Allowance::Now
        } else if learned.is_some() || bucket.forecast() != Forecast::Unanswered {
            Allowance::At(at)
        } else {
            Allowance::Assumed(at)
        }
    }

    /// Whether the silence of `place` may be the target's limit, if it is the target that is there.
    pub(crate) fn may_hide_target(&mut self, place: Place, now: Time) -> bool {
        if self.router_at(place).is_some() {
            return false;
        }
        let Some(responder) = self.fitted(place, place.target, now) else {
            return false;
        };
        let learned = responder.limit();
        let refuted = responder.refutes_linux();
        let limit = learned.unwrap_or(Limit::LINUX);
        let mut marks = RecentMarks::<{ 2 * MARKS }>::new();
        let mut buffer = [Mark::NONE; MARKS];
        for mark in responder.marks.settled(now, responder.grace(), &mut buffer) {
            marks.push(*mark);
        }
        let orphans = self.paths.peek(&place).map_or(&[][..], |path| &path.orphans);
        for mark in orphans {
            marks.push(*mark);
        }
        let mut contradictions = 0;
        replay(limit, marks.known(), |mark, forecast| {
            let contradicts = match forecast {
                Forecast::Answered => !mark.answered,
                Forecast::Unanswered => mark.answered,
                Forecast::Open => false,
            };
            // Where a limit is known, its own answers are not what it is judged by: on the way some
            // probes are held up.
            let counts = learned.is_none() || orphans.contains(mark);
            contradictions += u32::from(contradicts && counts);
        });
        contradictions < 2 && (learned.is_some() || !refuted)
    }
}

impl Responder {
    /// Whether a probe was answered that Linux's limit forbids.
    fn refutes_linux(&mut self) -> bool {
        let mut refuted = self.refuted;
        let _ = replay(Limit::LINUX, self.marks.known(), |mark, forecast| {
            refuted |= mark.answered && forecast == Forecast::Unanswered;
        });
        self.refuted = refuted;
        refuted
    }

    /// The bucket, if all probes on their way are answered that it has a token for; and whether an
    /// answer was missing that might have come.
    fn bucket_if_answered(&self, limit: Limit) -> Option<(Bucket, bool)> {
        let marks = self.marks.known();
        let last = marks.last()?.at;
        let mut bucket = Bucket::unknown(limit, marks.first()?.at);
        let mut was_wrong = false;
        for mark in marks {
            bucket.advance(mark.at);
            let is_possible = bucket.forecast() != Forecast::Unanswered;
            let may_be = last.since(mark.at) < self.grace() && is_possible;
            was_wrong |= is_possible && !may_be && !mark.answered;
            bucket.take(mark.answered || may_be);
        }
        Some((bucket, was_wrong))
    }
}

fn turn(next: &mut Time, marks: &[Mark], now: Time) -> Time {
    let silent = marks.iter().rev().take_while(|mark| !mark.answered).count();
    let apart = if silent >= SUSPICIOUS {
        SUSPICIOUS_TURN
    } else {
        TURN
    };
    let at = (*next).max(now);
    *next = at + apart;
    at
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn who_answers_by_one_uplink_says_nothing_of_another() {
        let mut responders = Responders::new();
        let by = |interface| Place {
            target: IpAddr::from([192, 0, 2, 1]),
            egress: Egress {
                interface: NonZeroU32::new(interface),
                ..Egress::default()
            },
            method: Method::Icmp,
            ttl: 2,
        };
        let router = IpAddr::from([10, 0, 0, 1]);
        responders.sent(by(1), Time::ZERO);
        responders.answered(by(1), router, true, Time::ZERO, None);
        assert_eq!(responders.router_at(by(1)), Some(router));
        assert_eq!(responders.router_at(by(2)), None);
        assert_eq!(responders.router_at(by(0)), None);
    }
}
