//! The data cores: one thread and one current-thread runtime each, so that a request and its upstreams stay on one core.
//!
//! The API has a thread of its own beside them. Measured against one multi-threaded runtime: 1.2 to 1.8 times the requests per second, a tenth of the p99.

use std::{io, thread};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The relay's worker threads. Dropping them ends their runtimes and everything spawned there.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    api: Worker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads for traffic, at least one, and one for the API.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let workers = (0..count.max(1)).map(|index| Worker::start(format!("worker-{index}"), stop.clone()));
        let (workers, api) = (workers.collect::<io::Result<_>>()?, Worker::start("api".to_owned(), stop.clone())?);
        Ok(Self { workers, api, stop })
    }

    /// One handle for each thread; what is spawned on it stays there.
    pub fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.workers.iter().map(|worker| &worker.handle)
    }

    /// The thread of the API: with many routes a round of the controller takes a while, and whoever asks meanwhile is to be
    /// answered.
    #[must_use]
    pub fn api(&self) -> &Handle {
        &self.api.handle
    }

    /// The thread that drives the tunnels' QUIC endpoint.
    ///
    /// # Panics
    /// Never: there is at least one worker.
    #[must_use]
    pub fn tunnel(&self) -> &Handle {
        &self.workers.first().expect("there is at least one worker").handle
    }
}

impl Worker {
    fn start(name: String, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = thread::Builder::new().name(name).spawn(move || runtime.block_on(stop.cancelled_owned()))?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for worker in self.workers.iter_mut().chain([&mut self.api]) {
            if let Some(thread) = worker.thread.take() {
                // A worker that panicked has said so already.
                let _ = thread.join();
            }
        }
    }
}
