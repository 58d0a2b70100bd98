//! The services behind agents: in the test's own process, on real TCP, HTTP/1.1 and HTTP/2 in the clear.
//!
//! `handler` answers; this file owns the listener and what a test may see and decide while requests are under way.

mod abrupt;
mod handler;

use std::{net::SocketAddr, sync::Arc};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
};

pub use self::abrupt::Abrupt;
use crate::eventually::{PATIENCE, within};

/// A running service. Stops, with all its connections, when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    listener: AbortHandle,
}

/// What requests tell the test, and the test tells them.
#[derive(Debug)]
struct State {
    name: String,
    /// Requests whose head has arrived.
    requests: watch::Sender<usize>,
    /// Requests and WebSockets that are open at this moment.
    open: watch::Sender<usize>,
    /// TCP connections since the start.
    connections: watch::Sender<usize>,
    /// How many events may still be written.
    events: Semaphore,
    /// Whether `/hold` may answer.
    released: watch::Sender<bool>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Upstream {
    /// Starts a service that answers `/name` with `name`.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            name: name.to_owned(),
            requests: watch::Sender::new(0),
            open: watch::Sender::new(0),
            connections: watch::Sender::new(0),
            events: Semaphore::new(0),
            released: watch::Sender::new(false),
        });
        let listener = tokio::spawn(accept(listener, Arc::clone(&state))).abort_handle();
        Self { address, state, listener }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many requests have begun.
    #[must_use]
    pub fn requests(&self) -> usize {
        *self.state.requests.borrow()
    }

    /// How many TCP connections were made.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.state.connections.borrow()
    }

    /// Waits until exactly `count` requests or WebSockets are open at once.
    pub async fn holds(&self, count: usize) {
        let mut open = self.state.open.subscribe();
        let reached = async { open.wait_for(|&open| open == count).await.is_ok() };
        let what = format!("upstream {} holds {count} requests at once", self.state.name);
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            panic!("{what}: it holds {} after {PATIENCE:?}", *self.state.open.borrow());
        }
    }

    /// Waits until `count` requests in all have arrived.
    ///
    /// # Panics
    /// When they do not arrive in time.
    pub async fn saw(&self, count: usize) {
        let mut requests = self.state.requests.subscribe();
        let reached = requests.wait_for(|&requests| requests >= count);
        let what = format!("upstream {} sees {count} requests", self.state.name);
        within(PATIENCE, &what, reached).await.expect("the state lives as long as the upstream");
    }

    /// Lets all requests to `/hold` answer, now and later.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// Lets one more event be written.
    pub fn allow_event(&self) {
        self.state.events.add_permits(1);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        // Without it, small answers wait for the acknowledgement of the one before.
        let _ = tcp.set_nodelay(true);
        state.connections.send_modify(|count| *count += 1);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| handler::answer(request, Arc::clone(&state)));
            let server = auto::Builder::new(TokioExecutor::new());
            // A client that goes away is the test's business, not ours.
            let _ = server.serve_connection_with_upgrades(TokioIo::new(tcp), service).await;
        });
    }
}
