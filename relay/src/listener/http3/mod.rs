//! HTTP/3 of HTTPS listeners: one QUIC endpoint per worker, on the UDP port of the same number.
//!
//! The library's types stay in this folder; `proxy` gets requests as from any other listener. Only listeners that let
//! anybody in are served: QUIC's handshake takes one setting for client certificates, before the name is known. Nor is
//! HTTP/3 served where proxies say for whom connections are (PROXY protocol), which over QUIC they cannot.

pub(super) mod alternative;
mod answer;
mod body;
mod connection;
mod head;
mod tls;
mod websocket;

use std::{io, net::UdpSocket, sync::Arc, time::Duration};

use quinn::{EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use tokio_util::sync::CancellationToken;
use underpass_shared::quic::endpoint;

use super::{CONNECTION_WINDOW_BYTES, PING, STREAM_WINDOW_BYTES, STREAMS_MAX, Worker, places::Room};
use crate::route::table::ListenAddress;

pub(super) use self::{alternative::Served, tls::Tickets};

/// When a silent client is given up: it did not answer a ping for as long as one of HTTP/2 may take.
const SILENT: Duration = Duration::from_secs(2 * PING.as_secs());

/// Three streams of HTTP/3, and room for those that must be ignored (RFC 9114 §6.2).
const UNI_STREAMS_MAX: u32 = 16;

/// What may be sent and not acknowledged on a connection, in bytes: 160 Mbit/s at a round trip of 50 ms.
const SEND_WINDOW_BYTES: u64 = 1024 * 1024;

/// Handshakes that wait to be accepted, per worker, and what they may hold, in bytes; further ones are refused.
const INCOMING_MAX: usize = 256;
const INCOMING_BYTES_MAX: u64 = 4 * 1024 * 1024;

impl Worker {
    /// Serves HTTP/3 on `socket` for the HTTPS listeners at `at` until `stop` is cancelled, which also asks the
    /// connections to finish; [`Worker::drain`] waits for them.
    ///
    /// # Errors
    /// When `socket` cannot be used by the runtime.
    pub async fn serve_http3(
        self: Arc<Self>,
        socket: UdpSocket,
        at: ListenAddress,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let mut config = tls::server_config(&self.gateway, at)?;
        config.transport_config(Arc::new(transport()));
        // A client whose address changes may reach another worker, which does not know it.
        config.migration(false);
        config.max_incoming(INCOMING_MAX).incoming_buffer_size_total(INCOMING_BYTES_MAX);
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?;
        let local = endpoint.local_addr()?;
        let serving = self.http3.begin(at);
        // Each handshake under way holds a clone, so that the count needs no bookkeeping.
        let half_open = Arc::new(());
        loop {
            let incoming = tokio::select! {
                () = stop.cancelled() => break,
                incoming = endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            let Ok(room) = self.room.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let limit = self.gateway.routing.table.load().clients(at).and_then(|clients| clients.arrival.limit);
            let place = limit.map(|limit| self.gateway.places.take(at, limit));
            if let Some(None) = place {
                incoming.refuse();
                continue;
            }
            let room = Room { _permit: room, _place: place.flatten() };
            let src = incoming.remote_address();
            match endpoint::admit(incoming, Arc::strong_count(&half_open) - 1) {
                Ok(Some(connecting)) => {
                    let connection =
                        connection::Accepted { connecting, half_open: half_open.clone(), at, local, _room: room };
                    self.tasks.spawn(connection.serve(self.clone(), stop.clone()));
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%src, %error, "no QUIC handshake"),
            }
        }
        drop(serving);
        // The connections go on without this handle; nobody new is let in.
        endpoint.set_server_config(None);
        Ok(())
    }
}

/// What the relay allows a client at once; as for HTTP/2 where that has the same limit.
fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(PING))
        .max_idle_timeout(Some(IdleTimeout::try_from(SILENT).expect("40 s fit")))
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None);
    config
}
