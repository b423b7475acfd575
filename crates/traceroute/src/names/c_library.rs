//! The C library's own look-up, for names that it alone knows. It blocks its thread and cannot be
//! stopped.

use std::io;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use dns_lookup::{AddrFamily, AddrInfoHints, SockType, getaddrinfo};
use tokio::sync::oneshot;

use super::{LookupFailure, Resolution, Wanted, prefer_v4};
use crate::turns::Turns;
use traceroute_engine::Family;

/// How many names are looked up at once, for the whole process.
const LOOKUPS: usize = 64;
/// How long a look-up may take, waiting for its turn included: more than C libraries take to ask
/// all servers twice (resolv.conf(5)).
const LOOKUP_TIMEOUT: Duration = Duration::from_mins(1);

/// Asks for each family by itself, so that a name server that ignores one kind of question does not
/// keep the other.
pub(super) async fn addresses(name: &str, wanted: Wanted, client: u64) -> Resolution {
    static TURNS: LazyLock<Turns> = LazyLock::new(|| Turns::new(LOOKUPS));
    let family = |family| look_up(&TURNS, client, name.to_owned(), move |name| ask(name, family));
    match wanted {
        Wanted::V4 => family(Family::V4).await,
        Wanted::V6 => family(Family::V6).await,
        Wanted::V4OrElseV6 => prefer_v4(family(Family::V4), family(Family::V6)).await,
    }
}

fn ask(name: &str, family: Family) -> io::Result<Vec<IpAddr>> {
    let family = match family {
        Family::V4 => AddrFamily::Inet,
        Family::V6 => AddrFamily::Inet6,
    };
    let hints = AddrInfoHints {
        address: family.into(),
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    let found = getaddrinfo(Some(name), None, Some(hints))?;
    found.map(|found| Ok(found?.sockaddr.ip())).collect()
}

/// Waits for a turn, and asks on a thread that may block. The turn ends with the question, not with
/// who asks it: otherwise those who go away would fill all threads, and everybody else would wait.
async fn look_up<A>(turns: &Turns, client: u64, name: String, ask: A) -> Resolution
where
    A: FnOnce(&str) -> io::Result<Vec<IpAddr>> + Send + 'static,
{
    let asking = async {
        let turn = turns.turn(client).await;
        let (tell, answer) = oneshot::channel();
        // Not on the runtime's threads: it panics where no further one can be started.
        std::thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || {
                let _turn = turn;
                // Nobody may be waiting any more.
                let _ = tell.send(ask(&name));
            })?;
        answer.await.map_err(io::Error::other)?
    };
    match tokio::time::timeout(LOOKUP_TIMEOUT, asking).await {
        Ok(Ok(found)) if found.is_empty() => Err(LookupFailure::NoAddress),
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(LookupFailure::CLibrary(error)),
        Err(_) => Err(LookupFailure::CLibrary(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "no answer from the system's resolver within {} seconds",
                LOOKUP_TIMEOUT.as_secs()
            ),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn one() -> Vec<IpAddr> {
        vec!["192.0.2.1".parse().unwrap()]
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_not_waited_for_without_end() {
        let full = Turns::new(0);
        let error = look_up(&full, 0, "slow.example".to_owned(), |_| panic!("asked"))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no answer from the system's resolver within 60 seconds"
        );
    }

    #[tokio::test]
    async fn who_goes_away_keeps_one_thread_busy_at_most() {
        // One, since the last is for a client that has none.
        let turns = Arc::new(Turns::new(2));
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (answer, answered) = std::sync::mpsc::channel();
        let first = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move {
                look_up(&turns, 0, "slow.example".to_owned(), move |_| {
                    begun.send(()).unwrap();
                    answered.recv().unwrap()
                })
                .await
            }
        });
        has_begun.await.unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        // The resolver still works for nobody; who comes now waits, and may leave before anything
        // begins.
        let mut second = Box::pin(look_up(&turns, 0, "second.example".to_owned(), |_| {
            panic!("asked")
        }));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(second);
        let third = look_up(&turns, 0, "third.example".to_owned(), |_| Ok(one()));
        answer.send(Ok(Vec::new())).unwrap();
        assert_eq!(third.await.unwrap(), one());
    }

    #[tokio::test]
    async fn localhost_has_an_address_of_each_family_asked_for() {
        let v4 = addresses("localhost", Wanted::V4, 0).await.unwrap();
        assert!(
            v4.iter()
                .all(|address| address.is_ipv4() && address.is_loopback()),
            "{v4:?}"
        );
        let either = addresses("localhost", Wanted::V4OrElseV6, 0).await.unwrap();
        assert_eq!(either, v4);
    }
}
