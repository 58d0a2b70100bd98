//! A relay with one backend of the test's own behind it, and no agent between: for what only concerns the listeners.

use std::net::SocketAddr;

use crate::{
    client,
    eventually::eventually,
    manifest,
    relay::{Addresses, Relay},
};

/// The hostname that is routed to the backend.
pub const HOST: &str = "front.example.com";

/// A relay that serves [`HOST`].
#[derive(Debug)]
pub struct Front {
    pub relay: Relay,
}

impl Front {
    /// Starts a relay and waits until it serves [`HOST`] from `backend`, which must answer GET `/name`.
    pub async fn open(backend: SocketAddr) -> Self {
        let front = Self::prepare(backend).await;
        front.relay.cli().apply(&manifest::route("front", HOST, "front", backend.port())).await;
        front.serves().await;
        front
    }

    /// The same without a route.
    pub async fn prepare(backend: SocketAddr) -> Self {
        Self::prepare_with(backend, "plain").await
    }

    /// The same with a protocol for the backend, as `Backend.spec.protocol` has it.
    pub async fn prepare_with(backend: SocketAddr, protocol: &str) -> Self {
        let relay = Relay::start_with(&["--allow-backend", "127.0.0.0/8"]).await;
        let ip = backend.ip();
        let manifest = format!(
            "apiVersion: core.apoxy.dev/v1alpha2\nkind: Backend\nmetadata:\n  name: front\nspec:\n  protocol: {protocol}\n  endpoints:\n  \
             - ip: {ip}\n"
        );
        relay.cli().apply(&manifest).await;
        Self { relay }
    }

    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.relay.addresses
    }

    /// Waits until GET `/name` is answered by the backend.
    pub async fn serves(&self) {
        eventually("the front serves", async || {
            let answer =
                client::get(self.relay.addresses.http, HOST, "/name").await.map_err(|error| error.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }

    /// Waits until a path has a route that the backend answers, with whatever.
    pub async fn answers(&self, path: &str) {
        eventually("the front answers", async || {
            let answer = client::get(self.relay.addresses.http, HOST, &format!("/{path}")).await;
            let answer = answer.map_err(|error| error.to_string())?;
            if answer.status == 404 { Err(answer.text()) } else { Ok(()) }
        })
        .await;
    }

    /// Asserts that others are served at this moment, and that nothing in the relay has panicked.
    ///
    /// # Panics
    /// When it is not so.
    pub async fn serves_others(&self, meanwhile: &str) {
        let answer = client::get(self.relay.addresses.http, HOST, "/name").await;
        let answer = answer.unwrap_or_else(|error| panic!("{meanwhile}: others are served: {error:#}"));
        assert_eq!(answer.status, 200, "{meanwhile}: others are served: {}", answer.text());
        let log = self.relay.process.log();
        assert!(!log.contains("panicked"), "{meanwhile}: {log}");
    }

    /// Memory of the relay now, in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.relay.process.memory()
    }
}
