//! Questions to name servers, as C libraries ask them: one server after the other, in the order of
//! the configuration.
//!
//! Dropping a future stops its questions.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, select_all};
use hickory_resolver::proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout};

use super::configuration::Configuration;
use super::{LookupFailure, Resolution, Wanted, prefer_v4};
use crate::turns::Turn;

/// When a server is silent for so long, the next is asked, or the same again. The answer still
/// counts when it comes.
const PATIENCE: Duration = Duration::from_secs(1);
/// Room for an answer over UDP. 512 bytes are the limit (RFC 1035 §2.3.4), which some servers do
/// not know.
const MAX_DATAGRAM: usize = 4096;

/// The addresses of a name in the first of its meanings that has any.
pub(super) async fn addresses(
    configuration: &Configuration,
    name: &str,
    wanted: Wanted,
    turn: Option<&Turn>,
) -> Resolution {
    let mut failure = LookupFailure::Unknown;
    for candidate in configuration.candidates(name) {
        match addresses_of(configuration, &candidate, wanted, turn).await {
            Ok(found) => return Ok(found),
            // The servers are as silent about the next one.
            Err(silence @ LookupFailure::Silence { .. }) => return Err(silence),
            Err(other) => failure = failure.or(other),
        }
    }
    Err(failure)
}

async fn addresses_of(
    configuration: &Configuration,
    name: &Name,
    wanted: Wanted,
    turn: Option<&Turn>,
) -> Resolution {
    let v4 = async || {
        let answer = ask(configuration, name, RecordType::A, turn).await?;
        some_of(&answer, |data| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        })
    };
    let v6 = async || {
        if configuration.no_ipv6 {
            return Err(LookupFailure::NoAddress);
        }
        let answer = ask(configuration, name, RecordType::AAAA, turn).await?;
        some_of(&answer, |data| match data {
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        })
    };
    match wanted {
        Wanted::V4 => v4().await,
        Wanted::V6 => v6().await,
        Wanted::V4OrElseV6 => prefer_v4(v4(), v6()).await,
    }
}

fn some_of(answer: &Message, address: impl Fn(&RData) -> Option<IpAddr>) -> Resolution {
    let records = answer.answers.iter();
    let found: Vec<IpAddr> = records.filter_map(|record| address(&record.data)).collect();
    if found.is_empty() {
        return Err(LookupFailure::NoAddress);
    }
    Ok(found)
}

/// The names that an address points to, in the order of the answer.
pub(crate) async fn pointers(
    configuration: &Configuration,
    address: IpAddr,
    turn: Option<&Turn>,
) -> Result<Vec<Name>, LookupFailure> {
    let answer = ask(configuration, &Name::from(address), RecordType::PTR, turn).await?;
    let pointers = answer.answers.into_iter().filter_map(|record| match record.data {
        RData::PTR(name) => Some(name.0),
        _ => None,
    });
    Ok(pointers.collect())
}

/// The first good answer: one that is about the name, if only to say that it does not exist (a
/// [`LookupFailure::Unknown`]).
///
/// A server that refuses, fails or cannot be reached is passed over at once. A silent one is waited
/// for while others are asked, each over a socket of its own. Those beyond the first need a further
/// turn each; without, the server that was asked first is given up.
async fn ask(
    configuration: &Configuration,
    name: &Name,
    kind: RecordType,
    turn: Option<&Turn>,
) -> Result<Message, LookupFailure> {
    let question = Query::query(name.clone(), kind);
    let servers = in_turn(configuration);
    let mut turns = (0..configuration.attempts).flat_map(|_| servers.iter().copied());
    let mut next = turns.next();
    let (began, mut due) = (Instant::now(), Instant::now());
    let mut last_asked = began;
    let mut asked: VecDeque<Exchange<'_>> = VecDeque::new();
    let mut passed_over: Vec<SocketAddr> = Vec::new();
    let mut failure: Option<LookupFailure> = None;
    loop {
        tokio::select! {
            biased;
            (result, index) = next_answer(&mut asked), if !asked.is_empty() => {
                let Some(Exchange { server, .. }) = asked.remove(index) else {
                    continue;
                };
                match judge(server, result) {
                    Err(useless) if useless.may_be_the_servers() => {
                        tracing::debug!(%name, %kind, error = %useless, "a name server is passed over");
                        passed_over.push(server);
                        failure.get_or_insert(useless);
                        due = Instant::now();
                    }
                    judged => return judged,
                }
            }
            () = sleep_until(due), if next.is_some() => {
                let server = next.take();
                next = turns.next();
                if let Some(server) = server.filter(|server| !passed_over.contains(server)) {
                    last_asked = Instant::now();
                    due = last_asked + PATIENCE.min(configuration.timeout);
                    let further = if asked.is_empty() { None } else { turn.and_then(Turn::another) };
                    let turn = if asked.is_empty() || further.is_some() {
                        further
                    } else {
                        asked.pop_front().and_then(|oldest| oldest.turn)
                    };
                    let answer = exchange(server, &question, configuration).boxed();
                    asked.push_back(Exchange { server, answer, turn });
                }
            }
            () = sleep_until(last_asked + configuration.timeout), if next.is_none() && !asked.is_empty() => {
                let silence = LookupFailure::Silence { servers, waited: began.elapsed() };
                return Err(failure.unwrap_or(silence));
            }
            else => return Err(failure.unwrap_or(LookupFailure::Unknown)),
        }
    }
}

/// A question that a server was asked.
struct Exchange<'q> {
    server: SocketAddr,
    answer: BoxFuture<'q, io::Result<Message>>,
    /// For its socket; the first one's is that of the look-up.
    turn: Option<Turn>,
}

/// The answer that comes next, and to which of these. There must be some.
async fn next_answer(asked: &mut VecDeque<Exchange<'_>>) -> (io::Result<Message>, usize) {
    let (answer, index, _) = select_all(asked.iter_mut().map(|exchange| &mut exchange.answer)).await;
    (answer, index)
}

/// The servers in the order in which this question goes to them.
fn in_turn(configuration: &Configuration) -> Vec<SocketAddr> {
    static FIRST: AtomicUsize = AtomicUsize::new(0);
    let mut servers = configuration.servers.clone();
    if configuration.rotate && !servers.is_empty() {
        let first = FIRST.fetch_add(1, Ordering::Relaxed) % servers.len();
        servers.rotate_left(first);
    }
    servers
}

pub(super) fn judge(server: SocketAddr, answer: io::Result<Message>) -> Result<Message, LookupFailure> {
    let answer = answer.map_err(|error| LookupFailure::Unreachable { server, error })?;
    match answer.metadata.response_code {
        ResponseCode::NoError if is_referral(&answer) => Err(LookupFailure::NotServed { server }),
        ResponseCode::NoError => Ok(answer),
        ResponseCode::NXDomain => Err(LookupFailure::Unknown),
        code => Err(LookupFailure::Refused { server, code }),
    }
}

/// Whether a server that does not ask others says who else may know.
fn is_referral(answer: &Message) -> bool {
    let metadata = &answer.metadata;
    answer.answers.is_empty()
        && !metadata.authoritative
        && !metadata.recursion_available
        && answer
            .authorities
            .iter()
            .any(|record| record.record_type() == RecordType::NS)
}

/// A question to one server: over UDP, and again over TCP when the answer does not fit.
pub(super) async fn exchange(
    server: SocketAddr,
    question: &Query,
    configuration: &Configuration,
) -> io::Result<Message> {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(question.clone());
    let bytes = query.to_vec().map_err(io::Error::other)?;
    if configuration.tcp_only {
        return over_tcp(server, &query, &bytes).await;
    }
    let answer = over_udp(server, &query, &bytes).await?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    match timeout(configuration.timeout, over_tcp(server, &query, &bytes)).await {
        Ok(Ok(whole)) => Ok(whole),
        // What did arrive is better than nothing.
        _ if !answer.answers.is_empty() => Ok(answer),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn over_udp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // The kernel lets in what comes from the server only, and says when nobody listens there.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = answer_to(query, buffer.get(..length).unwrap_or_default()) {
            return answer;
        }
    }
}

/// RFC 1035 §4.2.2: each message after its length.
async fn over_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    answer_to(query, &answer).unwrap_or_else(|| Err(io::ErrorKind::InvalidData.into()))
}

/// `None` when the bytes answer another question; an error when they cannot be understood.
pub(super) fn answer_to(query: &Message, bytes: &[u8]) -> Option<io::Result<Message>> {
    let id = query.metadata.id.to_be_bytes();
    if bytes.get(..2) != Some(&id) {
        return None;
    }
    let answer = match Message::from_vec(bytes) {
        Ok(answer) => answer,
        Err(error) => return Some(Err(io::Error::new(io::ErrorKind::InvalidData, error))),
    };
    // Some servers do not repeat the question when they refuse it.
    let same_question = answer.queries == query.queries
        || answer.queries.is_empty() && answer.metadata.response_code != ResponseCode::NoError;
    (answer.metadata.message_type == MessageType::Response && same_question).then_some(Ok(answer))
}
