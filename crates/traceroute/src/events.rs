//! What happens while a request is carried out, as it happens.

use std::fmt::Debug;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;
use traceroute_engine::Answer;

use crate::driver::News;
use crate::error::Error;
use crate::report::Report;

/// How many events wait for a reader that is slow. Those beyond are left out, for probing waits for
/// nobody; the report has what they tell.
const MOST_WAITING: usize = 16_384;

/// What happens while a request is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The target's address is known. It comes first.
    Resolved {
        /// The address that is traced.
        address: IpAddr,
    },
    /// A hop answered.
    HopFound {
        /// Which run, from 0.
        run: u32,
        /// TTL, in hops.
        ttl: u8,
        /// The answer.
        answer: Answer,
    },
    /// A traceroute run ended.
    RunFinished {
        /// Which run, from 0.
        run: u32,
    },
    /// An end-to-end probe was answered, or will not be any more.
    E2eProbe {
        /// Which probe, from 0.
        index: u32,
        /// Round-trip time; `None`: no answer.
        rtt: Option<Duration>,
    },
}

impl Event {
    /// What a run (from 0) tells, or the end-to-end probes (`None`).
    ///
    /// `None` for the answer to an end-to-end probe: it is told when that probe is settled, and is
    /// no hop of a run.
    pub(crate) fn of(run: Option<u32>, news: News) -> Option<Self> {
        match news {
            News::Hop(found) => run.map(|run| Event::HopFound {
                run,
                ttl: found.ttl,
                answer: found.answer,
            }),
            News::Probe { index, rtt } => Some(Event::E2eProbe { index, rtt }),
        }
    }
}

/// The events of a request that is being carried out; it goes on while they are read. Dropping this
/// stops its probes at once and frees their ports.
///
/// They are a [`Stream`] too. It ends with the request; [`Events::report`] then has the result.
///
/// `E` are the events and `R` is the result: of a trace, unless named.
#[must_use = "a request is carried out while its events are read"]
pub struct Events<'r, E = Event, R = Report> {
    queue: EventQueue<E>,
    job: BoxFuture<'r, Result<R, Error>>,
    result: Option<Result<R, Error>>,
}

impl<E, R: Unpin> Events<'_, E, R> {
    /// What happens next; `None` when the request has ended.
    pub async fn next(&mut self) -> Option<E> {
        StreamExt::next(self).await
    }

    /// The result. Events that have not been read are left out.
    ///
    /// # Errors
    /// As [`Tracer::trace`](crate::Tracer::trace).
    pub async fn report(self) -> Result<R, Error> {
        match self.result {
            Some(result) => result,
            None => self.job.await,
        }
    }

    /// How many events were left out because too many waited to be read.
    pub fn missed(&self) -> u64 {
        self.queue.missed.load(Relaxed)
    }
}

impl<E, R: Unpin> Stream for Events<'_, E, R> {
    type Item = E;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<E>> {
        if let Poll::Ready(Some(event)) = self.queue.events.poll_recv(context) {
            return Poll::Ready(Some(event));
        }
        if self.result.is_none()
            && let Poll::Ready(result) = self.job.poll_unpin(context)
        {
            self.result = Some(result);
        }
        // What it told in its last moments.
        match self.queue.events.try_recv() {
            Ok(event) => Poll::Ready(Some(event)),
            Err(_) if self.result.is_some() => Poll::Ready(None),
            Err(_) => Poll::Pending,
        }
    }
}

/// Where events go in.
pub(crate) struct Teller<E = Event> {
    events: mpsc::Sender<E>,
    missed: Arc<AtomicU64>,
}

impl<E> Clone for Teller<E> {
    fn clone(&self) -> Self {
        Teller {
            events: self.events.clone(),
            missed: Arc::clone(&self.missed),
        }
    }
}

impl<E: Debug> Teller<E> {
    pub(crate) fn tell(&self, event: E) {
        tracing::trace!(?event, "event");
        // Nobody listening any more means the request is being dropped.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            self.missed.fetch_add(1, Relaxed);
        }
    }
}

/// Where events come out.
pub(crate) struct EventQueue<E> {
    events: mpsc::Receiver<E>,
    missed: Arc<AtomicU64>,
}

impl<E> EventQueue<E> {
    /// The events of `job`.
    pub(crate) fn of<R>(self, job: BoxFuture<'_, Result<R, Error>>) -> Events<'_, E, R> {
        Events {
            queue: self,
            job,
            result: None,
        }
    }
}

/// A queue between a request and whoever reads its events.
pub(crate) fn queue<E>() -> (Teller<E>, EventQueue<E>) {
    let (sender, receiver) = mpsc::channel(MOST_WAITING);
    let missed = Arc::new(AtomicU64::new(0));
    let teller = Teller {
        events: sender,
        missed: Arc::clone(&missed),
    };
    let queue = EventQueue {
        events: receiver,
        missed,
    };
    (teller, queue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Protocol;

    #[test]
    fn answers_to_end_to_end_probes_are_no_hops_of_a_run() {
        let answer = Answer::new("192.0.2.9".parse().unwrap(), None, None);
        let hop = News::Hop(traceroute_engine::FoundHop {
            flow: 0,
            ttl: 30,
            answer,
        });
        assert_eq!(Event::of(None, hop), None);
        let found = Event::HopFound {
            run: 2,
            ttl: 30,
            answer,
        };
        assert_eq!(Event::of(Some(2), hop), Some(found));
        let (index, rtt) = (4, None);
        let probe = Event::E2eProbe { index, rtt };
        assert_eq!(Event::of(None, News::Probe { index, rtt }), Some(probe));
    }

    #[tokio::test]
    async fn what_a_slow_reader_has_no_room_for_is_counted_and_the_rest_comes_in_order() {
        const TOLD: u32 = MOST_WAITING as u32 + 3;
        let (teller, queue) = queue();
        let mut events = queue.of(Box::pin(async move {
            (0..TOLD).for_each(|run| teller.tell(Event::RunFinished { run }));
            Ok(Report::new("192.0.2.9", 80, Protocol::Tcp, Vec::new()))
        }));
        let mut runs = 0..;
        while let Some(event) = events.next().await {
            assert_eq!(
                event,
                Event::RunFinished {
                    run: runs.next().unwrap()
                }
            );
        }
        assert_eq!((runs.next(), events.missed()), (Some(MOST_WAITING as u32), 3));
        assert_eq!(events.report().await.unwrap().hostname, "192.0.2.9");
    }
}
