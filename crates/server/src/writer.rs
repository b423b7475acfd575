//! Documents are written where nobody waits for the thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::{Semaphore, oneshot};

use crate::failure::Failure;

/// Documents of so many bytes keep a thread for milliseconds.
const LARGE: usize = 1 << 20;

/// Writes large documents, one at a time, on a thread for that: of the threads that serve requests
/// there are only as many as processors, and a document may take a good part of a second.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Semaphore>);

impl Default for Writer {
    fn default() -> Self {
        Writer(Arc::new(Semaphore::new(1)))
    }
}

impl Writer {
    /// Does the work of writing something of so many bytes. Once begun it ends, whether or not somebody
    /// waits for it. Where no further thread can be started, it is done here: others wait then, but
    /// nothing is lost. (A runtime's pool of threads would keep it, and end whoever asked.)
    ///
    /// # Errors
    /// It has panicked.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        if bytes < LARGE {
            return Ok(work());
        }
        // It is never closed, so there is a turn.
        let turn = Arc::clone(&self.0).acquire_owned().await;
        let (done, writing) = oneshot::channel();
        let work = Arc::new(Mutex::new(Some(move || {
            // Who has the result may begin the next one.
            let turn = turn;
            let result = work();
            drop(turn);
            // Nobody may wait any more.
            let _ = done.send(result);
        })));
        let of_thread = Arc::clone(&work);
        let started = thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || once(&of_thread));
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for a large document");
            once(&work);
        }
        writing
            .await
            .map_err(|_| Failure::crashed("writing the document has panicked"))
    }
}

fn once(work: &Mutex<Option<impl FnOnce()>>) {
    let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(work) = work {
        work();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;

    /// Two clients with large documents kept both threads, and nobody was served meanwhile.
    #[tokio::test]
    async fn large_documents_are_written_elsewhere_and_one_at_a_time() {
        let writer = Writer::default();
        let here = thread::current().id();
        let by = |bytes| writer.write(bytes, || thread::current().id());
        assert_eq!(by(LARGE - 1).await.unwrap(), here);
        assert_ne!(by(LARGE).await.unwrap(), here);
        let (go_on, wait) = mpsc::channel::<()>();
        let mut first = Box::pin(writer.write(LARGE, move || wait.recv().is_ok()));
        assert!(first.as_mut().now_or_never().is_none());
        let mut second = Box::pin(by(LARGE));
        assert!(second.as_mut().now_or_never().is_none());
        // Whoever gives up does not end what has begun.
        drop(first);
        assert!(second.as_mut().now_or_never().is_none());
        go_on.send(()).unwrap();
        second.await.unwrap();
        assert!(writer.write(LARGE, || panic!("on purpose")).await.is_err());
        assert_ne!(by(LARGE).await.unwrap(), here);
    }
}
