//! Strategies: what to send next, and when that is enough.
//!
//! A strategy is asked when something has happened or the time that it named has come. It sees the
//! present time and what was sent and answered so far ([`View`]), and says one [`Step`]. It knows
//! no sockets, clocks or packets, and keeps nothing that the ledgers of its flows know.
//!
//! The engine sees to the rest: identifiers, matching, ports, full queues, ends.

mod distance;
mod end_to_end;
mod multipath;
mod repeat;
mod run;
mod steps;
mod sweep;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::Time;
use crate::answer::{Answer, TraceOutcome};
use crate::ledger::Ledger;
use crate::responders::Responders;
use crate::trace::{FlowIndex, FlowState, Plan, TraceSpec};
pub(crate) use run::patience;

/// The flow that every trace begins with.
pub(crate) const FIRST: FlowIndex = 0;

/// What a strategy wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send one more probe with this TTL, now.
    Send {
        flow: FlowIndex,
        ttl: u8,
        /// Its IPv6 flow label, where that is not the flow's.
        label: Option<u32>,
        /// No other is on its way: an answer that does not say to which probe it is, is to this
        /// one.
        alone: bool,
    },
    /// Open a further flow. It gets the next number; where it cannot be had, the view does not show
    /// it.
    Open,
    /// Close a flow: release its port.
    Close {
        flow: FlowIndex,
        /// The number of the probe that this settles, and its round-trip time if it was answered.
        settled: Option<(u32, Option<Duration>)>,
    },
    /// Nothing until then, unless something happens.
    Wait {
        until: Time,
        /// The trace is over then. What arrives later does not count.
        last: bool,
    },
    /// The trace is over.
    Done,
}

/// What a strategy sees.
pub(crate) struct View<'v> {
    pub now: Time,
    pub started: Time,
    pub spec: &'v TraceSpec,
    pub flows: &'v [Option<FlowState>],
    pub responders: &'v mut Responders,
    /// In the end: nobody answers on the local link, so that no probe has left this host.
    pub lacks_neighbour: bool,
}

impl<'v> View<'v> {
    /// What was sent on a flow.
    pub(crate) fn ledger(&self, flow: FlowIndex) -> Option<&'v Ledger> {
        Some(&self.state(flow)?.ledger)
    }

    pub(crate) fn state(&self, flow: FlowIndex) -> Option<&'v FlowState> {
        self.flows.get(flow as usize)?.as_ref()
    }

    /// When the trace must be over.
    pub(crate) fn end(&self) -> Time {
        self.started + self.spec.longest
    }
}

/// What to send next and when it is enough.
pub(crate) trait Strategy: Send {
    /// The next step.
    fn next(&mut self, view: &mut View<'_>) -> Step;
    /// The first answer to a probe of a discovery of paths; the ledger keeps only one for each TTL.
    /// Whether it says who is where: other probes measure loss.
    fn answered(&mut self, _flow: FlowIndex, _ttl: u8, _answer: &Answer) -> bool {
        true
    }
    /// What was found; the trace is over.
    fn outcome(&mut self, view: &mut View<'_>) -> TraceOutcome;
    /// Whether the trace goes on only for answers that a limit holds back.
    fn is_lingering(&self) -> bool {
        false
    }
}

/// The strategy for a plan.
pub(crate) fn of(spec: &TraceSpec) -> Box<dyn Strategy> {
    match spec.plan {
        Plan::EndToEnd { .. } => Box::new(end_to_end::EndToEndStrategy::new()),
        Plan::Paths(plan) => Box::new(multipath::Multipath::new(spec, plan)),
        Plan::Run if spec.is_serial() => Box::new(run::RunStrategy::new(steps::Steps)),
        Plan::Run => Box::new(run::RunStrategy::new(sweep::Sweep)),
    }
}
