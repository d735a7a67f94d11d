//! The task that reads: it knows without asking the transport that nothing has come.
//!
//! hyper tries to read whenever it is polled, four times for a small request, and is polled as well when an
//! answer is ready. So the transport wakes what is here, which remembers that and wakes the task. As long as
//! it has not, a read would find what the last one has found: that is what a transport promises with
//! [`Poll::Pending`](std::task::Poll::Pending).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::task::{Context, Wake, Waker};

/// What reads from a layer.
#[derive(Debug)]
pub(crate) struct Reader {
    task: Arc<Task>,
    /// Wakes it.
    waker: Waker,
    /// The last read has found nothing, and what there is comes from the transport alone.
    pub(crate) waits: bool,
}

#[derive(Debug)]
struct Task {
    waker: Waker,
    /// It was woken since that was looked at last.
    is_woken: AtomicBool,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Release);
        self.waker.wake_by_ref();
    }
}

impl Reader {
    pub(crate) fn new(task: &Context<'_>) -> Self {
        let task = Arc::new(Task { waker: task.waker().clone(), is_woken: AtomicBool::new(false) });
        Self { waker: task.clone().into(), task, waits: false }
    }

    /// Whether this is the task that reads.
    #[inline]
    pub(crate) fn is(&self, task: &Context<'_>) -> bool {
        self.task.waker.will_wake(task.waker())
    }

    /// Whether a read would find nothing again.
    #[inline]
    pub(crate) fn sleeps(&self) -> bool {
        self.waits && !self.task.is_woken.load(Acquire)
    }

    /// Right before a read. To be woken by what is asked here.
    #[inline]
    pub(crate) fn begin(&mut self) -> Context<'_> {
        // Before the transport is asked: what comes later wakes it again. And with what has woken it seen.
        self.task.is_woken.swap(false, AcqRel);
        self.waits = false;
        Context::from_waker(&self.waker)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::Poll;

    use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};

    use crate::{Layer, Limits};

    use super::*;

    /// Counts how often it is asked.
    struct Asked {
        io: DuplexStream,
        times: Arc<AtomicUsize>,
    }

    impl AsyncRead for Asked {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.times.fetch_add(1, SeqCst);
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Asked {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.io).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[tokio::test]
    async fn the_transport_is_asked_once_for_each_time_that_it_wakes() {
        let (mut client, io) = tokio::io::duplex(64);
        let times = Arc::new(AtomicUsize::new(0));
        let (mut layer, handle) = Layer::new(Asked { io, times: times.clone() }, Limits::default());
        let wakes: [Arc<Wakes>; 2] = Default::default();
        let tasks = wakes.clone().map(Waker::from);
        let woken = || [wakes[0].0.load(SeqCst), wakes[1].0.load(SeqCst)];
        let mut read = |task: usize| {
            let mut bytes = [0; 8];
            let mut buf = ReadBuf::new(&mut bytes);
            let read = Pin::new(&mut layer).poll_read(&mut Context::from_waker(&tasks[task]), &mut buf);
            (read.map(|read| read.map(|()| buf.filled().len()).unwrap()), times.load(SeqCst))
        };
        for _ in 0..3 {
            assert_eq!(read(0), (Poll::Pending, 1));
        }
        for _ in 0..3 {
            assert_eq!(read(1), (Poll::Pending, 2), "another task is to be woken");
        }
        client.write_all(b"PRI").await.unwrap();
        assert_eq!(woken(), [0, 1]);
        assert_eq!(read(1), (Poll::Ready(3), 3));
        for _ in 0..3 {
            assert_eq!(read(1), (Poll::Pending, 4));
        }
        handle.hold();
        handle.release();
        assert_eq!(woken(), [0, 2], "the layer may have something");
        for _ in 0..3 {
            assert_eq!(read(1), (Poll::Pending, 5));
        }
        drop(client);
        assert_eq!(woken(), [0, 3]);
        assert_eq!(read(1), (Poll::Ready(0), 6));
    }
}
