//! Stream sockets: wait for input and for hang-up at the same time.

use std::future::{Future, pending};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::tcp;

/// A stream socket.
pub(crate) trait Socket: Send + Sync + Sized + 'static {
    type Reader: AsyncRead + Send + Unpin;
    type Writer: AsRef<Self> + Send + Sync;

    fn halves(self) -> (Self::Reader, Self::Writer);
    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn write_now(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize>;
    fn shut_down(&self) -> io::Result<()>;
    fn readiness(&self, interest: Interest) -> impl Future<Output = io::Result<Ready>> + Send;
}

macro_rules! socket {
    ($stream:ty, $reader:ty, $writer:ty) => {
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

            fn readiness(&self, interest: Interest) -> impl Future<Output = io::Result<Ready>> + Send {
                self.ready(interest)
            }
        }
    };
}

socket!(tokio::net::TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf);
#[cfg(unix)]
socket!(
    tokio::net::UnixStream,
    tokio::net::unix::OwnedReadHalf,
    tokio::net::unix::OwnedWriteHalf
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

/// The one interest that the end of the peer satisfies and unread bytes do not: `EPOLLRDHUP` of `epoll_ctl(2)`.
#[cfg(any(target_os = "linux", target_os = "android"))]
const END: Option<Interest> = Some(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const END: Option<Interest> = None;

impl<S: Socket> Watch<S> {
    /// Ends when the peer has closed the connection, or its half, even where bytes that nobody reads stand before that end.
    /// Never, where the system does not tell: then only who reads so far sees it.
    pub(crate) async fn closed(&self) {
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
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn the_end_is_seen_behind_bytes_that_nobody_reads() {
        for read_some in [false, true] {
            let (near, mut far) = UnixStream::pair().unwrap();
            let (mut near, watch) = share(near);
            far.write_all(b"unread").await.unwrap();
            if read_some {
                near.read_exact(&mut [0; 5]).await.unwrap();
            }
            let mut end = Box::pin(watch.closed());
            let early = tokio::time::timeout(Duration::from_millis(10), &mut end).await;
            assert!(early.is_err(), "the peer is there");
            drop(far);
            end.await;
        }
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
