//! Stream sockets: wait for input and for hang-up at the same time.

use std::future::{Future, pending};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::tcp;
use tokio::time::sleep;

/// A stream socket.
pub(crate) trait Socket: Send + Sync + Sized + 'static {
    type Reader: AsyncRead + Send + Unpin;
    type Writer: AsRef<Self> + Send + Sync;

    fn halves(self) -> (Self::Reader, Self::Writer);
    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn write_now(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize>;
    fn shut_down(&self) -> io::Result<()>;
    /// Sends something that makes the kernel of a peer who has closed the connection wholly reset
    /// it, and that one who has closed its sending half only does not see: a byte out of band. TCP
    /// has nothing else that tells the two apart; Unix sockets do by themselves.
    fn ask(&self) -> io::Result<()>;
    fn readiness(&self, interest: Interest) -> impl Future<Output = io::Result<Ready>> + Send;
    /// Bytes that the kernel still keeps for the peer. 0 where the system does not tell.
    fn owed(&self) -> usize;
    fn reset(&self);
}

macro_rules! socket {
    ($stream:ty, $reader:ty, $writer:ty, $ask:expr) => {
        impl Socket for $stream {
            type Reader = $reader;
            type Writer = $writer;

            fn halves(self) -> (Self::Reader, Self::Writer) {
                self.into_split()
            }

            fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(context)
            }

            fn write_now(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
                self.try_write_vectored(slices)
            }

            fn shut_down(&self) -> io::Result<()> {
                SockRef::from(self).shutdown(Shutdown::Write)
            }

            fn ask(&self) -> io::Result<()> {
                let ask: fn(SockRef<'_>) -> io::Result<()> = $ask;
                ask(SockRef::from(self))
            }

            fn readiness(&self, interest: Interest) -> impl Future<Output = io::Result<Ready>> + Send {
                self.ready(interest)
            }

            fn owed(&self) -> usize {
                // Of a connection that has been reset something is still counted. It has no peer.
                let has_peer = SockRef::from(self).peer_addr().is_ok();
                let owed = has_peer.then(|| traceroute_net::unacknowledged(self));
                owed.flatten().unwrap_or(0)
            }

            fn reset(&self) {
                // If it fails, the peer gets what there is, or the kernel gives up in time.
                let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
            }
        }
    };
}

// A line feed: whoever gets it in the stream after all sees an empty line before the answer.
socket!(
    tokio::net::TcpStream,
    tcp::OwnedReadHalf,
    tcp::OwnedWriteHalf,
    |socket| socket.send_out_of_band(b"\n").map(drop)
);
#[cfg(unix)]
socket!(
    tokio::net::UnixStream,
    tokio::net::unix::OwnedReadHalf,
    tokio::net::unix::OwnedWriteHalf,
    |_| Ok(())
);

/// A socket's bytes.
pub(crate) struct Shared<S: Socket> {
    reader: S::Reader,
    writer: Arc<S::Writer>,
}

/// Who can tell whether the peer is still there.
pub(crate) struct Watch<S: Socket>(Arc<S::Writer>);

pub(crate) fn share<S: Socket>(socket: S) -> (Shared<S>, Watch<S>) {
    let (reader, writer) = socket.halves();
    let writer = Arc::new(writer);
    let watch = Watch(Arc::clone(&writer));
    (Shared { reader, writer }, watch)
}

impl<S: Socket> AsyncRead for Shared<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

impl<S: Socket> AsyncWrite for Shared<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = (*self.writer).as_ref();
        loop {
            ready!(socket.poll_writable(context))?;
            match socket.write_now(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready((*self.writer).as_ref().shut_down())
    }
}

/// The one interest that the end of the peer satisfies and unread bytes do not: `EPOLLRDHUP` of
/// `epoll_ctl(2)`.
#[cfg(any(target_os = "linux", target_os = "android"))]
const END: Option<Interest> = Some(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const END: Option<Interest> = None;

/// Whether the system tells that the peer has closed something while nobody reads.
pub(crate) const TELLS_END: bool = END.is_some();
/// How often to look whether a peer who sends no more has gone altogether.
const PERIOD: Duration = Duration::from_secs(1);
/// How long to wait at first for the peer to acknowledge the end; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

impl<S: Socket> Watch<S> {
    /// Ends when the peer has gone: has reset the connection or closed it wholly. One who has
    /// closed its sending half only may wait for its answer (RFC 9112 §9.6). Never, where the
    /// system does not tell: then only who reads sees it.
    pub(crate) async fn gone(&self) {
        self.half_closed().await;
        let socket = (*self.0).as_ref();
        sleep(PERIOD).await;
        // Once: a second one could push the first into the stream. Who goes later is found out by
        // keep-alive.
        let mut gone = socket.ask().is_err();
        while !gone {
            sleep(PERIOD / 10).await;
            let ready = socket.readiness(Interest::WRITABLE).await;
            gone = ready.is_ok_and(Ready::is_write_closed);
        }
    }

    /// Tells the peer that nothing more comes, and ends when it has everything.
    pub(crate) async fn delivered(&self) {
        let socket = (*self.0).as_ref();
        // It may have been told already.
        let _ = socket.shut_down();
        let mut pause = FIRST_PAUSE;
        while socket.owed() > 0 {
            sleep(pause).await;
            pause = (2 * pause).min(PERIOD / 10);
        }
    }

    /// Bytes that the peer does not have yet.
    pub(crate) fn owed(&self) -> u32 {
        let owed = (*self.0).as_ref().owed();
        u32::try_from(owed).unwrap_or(u32::MAX)
    }

    /// What the peer does not have yet is thrown away when the socket closes.
    pub(crate) fn reset(&self) {
        (*self.0).as_ref().reset();
    }

    /// Ends when the peer sends no more, even where bytes that nobody reads stand before that end.
    async fn half_closed(&self) {
        if let Some(end) = END
            && let Ok(ready) = (*self.0).as_ref().readiness(end).await
            && ready.is_read_closed()
        {
            return;
        }
        pending::<()>().await;
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "all of this is test code")]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};
    use tokio::time::timeout;

    async fn tcp_pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, far) = tokio::join!(listener.accept(), far);
        (accepted.unwrap().0, far.unwrap())
    }

    /// Long enough for who goes to be noticed.
    const LONG: Duration = Duration::from_secs(3);

    async fn ends_with_its_peer<S: Socket + AsyncRead + AsyncWrite + Unpin>(
        near: S,
        mut far: S,
        read_some: bool,
    ) {
        let (mut near, watch) = share(near);
        far.write_all(b"unread").await.unwrap();
        if read_some {
            near.read_exact(&mut [0; 5]).await.unwrap();
        }
        let mut end = Box::pin(watch.gone());
        assert!(timeout(PERIOD / 10, &mut end).await.is_err(), "the peer is there");
        drop(far);
        timeout(10 * LONG, end).await.unwrap();
    }

    async fn answers_reach_half_a_peer<S: Socket + AsyncRead + AsyncWrite + Unpin>(near: S, mut far: S) {
        let (mut near, watch) = share(near);
        far.shutdown().await.unwrap();
        let mut end = Box::pin(watch.gone());
        assert!(timeout(LONG, &mut end).await.is_err(), "the peer still reads");
        near.write_all(b"answer").await.unwrap();
        near.shutdown().await.unwrap();
        let mut received = String::new();
        far.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "answer");
    }

    #[tokio::test]
    async fn the_end_is_seen_behind_bytes_that_nobody_reads() {
        for read_some in [false, true] {
            let (near, far) = UnixStream::pair().unwrap();
            ends_with_its_peer(near, far, read_some).await;
            let (near, far) = tcp_pair().await;
            ends_with_its_peer(near, far, read_some).await;
        }
    }

    #[tokio::test]
    async fn who_only_sends_no_more_is_there() {
        let (near, far) = UnixStream::pair().unwrap();
        let (tcp_near, tcp_far) = tcp_pair().await;
        tokio::join!(
            answers_reach_half_a_peer(near, far),
            answers_reach_half_a_peer(tcp_near, tcp_far)
        );
    }

    /// Gives the kernel what it takes while nobody reads.
    async fn fill<S: Socket>(near: S) -> (Shared<S>, Watch<S>, usize) {
        let (near, watch) = share(near);
        let socket = (*near.writer).as_ref();
        poll_fn(|context| socket.poll_writable(context)).await.unwrap();
        let chunk = [7; 4096];
        let mut size = 0;
        while let Ok(sent) = socket.write_now(&[io::IoSlice::new(&chunk)]) {
            size += sent;
        }
        (near, watch, size)
    }

    async fn ends_with_the_last_byte<S: Socket + AsyncRead + Unpin>(near: S, mut far: S) {
        let (near, watch, size) = fill(near).await;
        drop(near);
        let mut end = Box::pin(watch.delivered());
        assert!(
            timeout(PERIOD / 10, &mut end).await.is_err(),
            "nobody has read it"
        );
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), size);
        timeout(10 * LONG, end).await.unwrap();
    }

    async fn ends_without_a_peer<S: Socket>(near: S, far: S) {
        let (near, watch, _) = fill(near).await;
        drop(far);
        timeout(10 * LONG, watch.delivered()).await.unwrap();
        drop(near);
    }

    #[tokio::test]
    async fn the_end_is_not_there_before_the_peer_has_everything() {
        let (near, far) = UnixStream::pair().unwrap();
        ends_with_the_last_byte(near, far).await;
        let (near, far) = tcp_pair().await;
        ends_with_the_last_byte(near, far).await;
        let (near, far) = UnixStream::pair().unwrap();
        ends_without_a_peer(near, far).await;
        let (near, far) = tcp_pair().await;
        ends_without_a_peer(near, far).await;
    }

    #[tokio::test]
    async fn bytes_go_both_ways() {
        let (near, far) = UnixStream::pair().unwrap();
        let ((mut near, _), (mut far, _)) = (share(near), share(far));
        // More than fits into the kernel's buffer.
        let sent = vec![7; 1 << 20];
        let writing = async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let ((), count) = tokio::join!(writing, far.read_to_end(&mut received));
        assert_eq!(count.unwrap(), 1 << 20);
        assert_eq!(received, sent);
    }
}
