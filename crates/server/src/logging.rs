//! Logs, on standard error.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::OptionalWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl LogLevel {
    fn level(self) -> Level {
        match self {
            LogLevel::Error => Level::ERROR,
            LogLevel::Warn => Level::WARN,
            LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Trace => Level::TRACE,
        }
    }
}

/// Logs from now on. Starts a thread.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn start(level: LogLevel, format: LogFormat) -> io::Result<Log> {
    let log = Log::start(io::stderr(), &DROPPED)?;
    let writer = Writers(log.clone());
    let level = LevelFilter::from_level(level.level());
    // Libraries tell more about their insides than anybody wants to know, except at the highest
    // level.
    let others = if level == LevelFilter::TRACE {
        level
    } else {
        level.min(LevelFilter::WARN)
    };
    let filter = Targets::new()
        .with_default(others)
        .with_target("datadog_traceroute", level)
        .with_target("traceroute", level);
    let lines = fmt::layer()
        .with_writer(writer)
        .with_ansi(false)
        .log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
    Ok(log)
}

/// Lines that wait for standard error to take them.
const QUEUE: usize = 4096;
/// How long the last lines may take at the end.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Most lines a second about requests that may have cost nothing, and of libraries.
const CHEAP_LINES: u32 = 100;
/// Most lines a second about requests that have probed.
const USUAL_LINES: u32 = 500;
/// Most bytes that a log line has of anything a client sent.
const LONGEST: usize = 512;

/// Lines dropped because nobody read them.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Lines left out because there were too many like them.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
static CHEAP: Mutex<Option<Second>> = Mutex::new(None);
static USUAL: Mutex<Option<Second>> = Mutex::new(None);

/// How many lines were not written: dropped because nobody read them, and left out because there
/// were too many like them.
pub(crate) fn missing_lines() -> [(&'static str, u64); 2] {
    [
        ("unread", DROPPED.load(Ordering::Relaxed)),
        ("too_many", LEFT_OUT.load(Ordering::Relaxed)),
    ]
}

/// The beginning of something that a client sent, for the log.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST {
        return text.into();
    }
    let end = text.floor_char_boundary(LONGEST);
    format!("{}… ({} bytes)", &text[..end], text.len()).into()
}

/// Whether one more line may be written that is about a request which may have cost nothing.
/// Strangers can send a hundred thousand such requests a second.
pub(crate) fn may_tell_of_cheap_request() -> bool {
    may_tell(&CHEAP, CHEAP_LINES)
}

/// Whether one more line may be written about a request that has probed. They can be thousands a
/// second, too.
pub(crate) fn may_tell_of_request() -> bool {
    may_tell(&USUAL, USUAL_LINES)
}

fn may_tell(second: &Mutex<Option<Second>>, most: u32) -> bool {
    let mut second = second.lock().unwrap_or_else(PoisonError::into_inner);
    let (may, ended) = Second::count(&mut second, most, Instant::now());
    drop(second);
    if ended > 0 {
        tracing::info!(lines = ended, "left out of the log: there were too many");
    }
    if !may {
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
    }
    may
}

/// What was counted in one second.
struct Second {
    began: Instant,
    lines: u32,
    left_out: u64,
}

impl Second {
    /// Whether there may be one more line, and how many were left out in a second that has ended.
    fn count(second: &mut Option<Second>, most: u32, now: Instant) -> (bool, u64) {
        let is_over = |second: &mut Second| now.duration_since(second.began) >= Duration::from_secs(1);
        let ended = second.take_if(is_over);
        let current = second.get_or_insert(Second {
            began: now,
            lines: 0,
            left_out: 0,
        });
        let may = current.lines < most;
        current.lines += u32::from(may);
        current.left_out += u64::from(!may);
        (may, ended.map_or(0, |second| second.left_out))
    }
}

/// Bounds what libraries say, ours too, which do not know how often they are asked: that a name has
/// no IPv4 address, say, or that an answer of a name server is odd. At the levels that tell of
/// insides nothing is bounded.
struct Writers(Log);

impl<'a> MakeWriter<'a> for Writers {
    type Writer = OptionalWriter<Log>;

    fn make_writer(&'a self) -> Self::Writer {
        OptionalWriter::some(self.0.clone())
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> Self::Writer {
        let is_own = line.target().starts_with(env!("CARGO_CRATE_NAME"));
        if is_own || *line.level() > Level::INFO || may_tell_of_cheap_request() {
            return self.make_writer();
        }
        OptionalWriter::none()
    }
}

/// Writes lines in a thread of its own, so that nobody waits for who reads them. Clones write to
/// the same.
#[derive(Clone)]
pub(crate) struct Log {
    lines: SyncSender<Vec<u8>>,
    /// Lines not yet written.
    waiting: Arc<AtomicUsize>,
    dropped: &'static AtomicU64,
}

impl Log {
    /// # Errors
    /// The thread cannot be started.
    fn start(mut target: impl io::Write + Send + 'static, dropped: &'static AtomicU64) -> io::Result<Self> {
        let (sender, lines) = sync_channel::<Vec<u8>>(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            let mut told = 0;
            for line in lines {
                if target.write_all(&line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
                left.fetch_sub(1, Ordering::Release);
                let all = dropped.load(Ordering::Relaxed);
                if all > told {
                    tracing::warn!(lines = all - told, "lines were dropped: nobody reads the log");
                    told = all;
                }
            }
        })?;
        Ok(Log {
            lines: sender,
            waiting,
            dropped,
        })
    }

    /// Waits a moment for the last lines to be written.
    pub(crate) fn finish(&self) {
        let deadline = Instant::now() + LAST_LINES;
        while self.waiting.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Each write is a line.
impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.lines.try_send(line.to_vec()).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::mpsc::{Receiver, channel};

    /// Takes a line for each permission that it gets.
    struct Slow(Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_who_reads_nothing() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        let (permit, permits) = channel();
        let mut log = Log::start(Slow(permits), &DROPPED).unwrap();
        for _ in 0..QUEUE + 100 {
            assert_eq!(log.write(b"line\n").unwrap(), 5);
        }
        // One may be in the hands of the thread.
        let dropped = DROPPED.load(Ordering::Relaxed);
        assert!((99..=100).contains(&dropped), "{dropped}");
        for _ in 0..=QUEUE {
            permit.send(()).unwrap();
        }
        log.finish();
        assert_eq!(log.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_flood_is_counted() {
        let mut second = None;
        let begin = Instant::now();
        for index in 0..1000 {
            let expected = (index < CHEAP_LINES, 0);
            assert_eq!(
                Second::count(&mut second, CHEAP_LINES, begin),
                expected,
                "{index}"
            );
        }
        let later = begin + Duration::from_secs(1);
        assert_eq!(Second::count(&mut second, CHEAP_LINES, later), (true, 900));
        assert_eq!(Second::count(&mut second, CHEAP_LINES, later), (true, 0));
    }

    #[test]
    fn long_texts_are_shortened_at_a_character() {
        assert_eq!(shorten("short"), "short");
        let long = "ü".repeat(8000);
        let shown = shorten(&long);
        assert!(shown.len() < 540 && shown.ends_with("… (16000 bytes)"), "{shown}");
    }
}
