//! The handshake of HTTP/3: TLS 1.3 with the certificates of the listener that the client names, no early data.

use std::{
    fmt, io,
    sync::{Arc, OnceLock},
};

use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{
    authority::tls::provider,
    listener::{Gateway, tls::Carries},
    route::{
        table::{ListenAddress, Port, Table, TlsListener, TlsServes},
        tls::Clients,
    },
};

/// The keys of session tickets, which all workers share: a client may come back to any of them.
#[derive(Debug, Default)]
pub(in crate::listener) struct Tickets(OnceLock<Arc<dyn ProducesTickets>>);

impl Tickets {
    fn get(&self) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
        if let Some(known) = self.0.get() {
            return Ok(known.clone());
        }
        let made = aws_lc_rs::Ticketer::new()?;
        Ok(self.0.get_or_init(|| made).clone())
    }
}

/// Whether `listener` at `at` may be served over HTTP/3: it serves HTTP to anybody, and to clients that come themselves;
/// a policy for its clients must name HTTP/3 (`spec.http3`).
#[must_use]
pub(super) fn is_served(table: &Table, at: ListenAddress, listener: &TlsListener) -> bool {
    table.from_proxies(at).is_none()
        && listener.clients.as_ref().is_none_or(|clients| clients.http3)
        && matches!(&listener.serves, TlsServes::Http(tls) if tls.clients == Clients::Anybody)
}

/// The listener at `at` that `name` selects, if it is served over HTTP/3.
pub(super) fn listener(gateway: &Gateway, at: ListenAddress, name: Option<&str>) -> Option<Arc<TlsListener>> {
    let table = gateway.routing.table.load();
    match table.port(at) {
        Some(Port::Tls(port)) => port.listener(name).filter(|listener| is_served(&table, at, listener)).cloned(),
        _ => None,
    }
}

/// The name that the client asked for in the handshake, lower case.
pub(super) fn server_name(connection: &quinn::Connection) -> Option<String> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.server_name
}

/// What an endpoint at `at` begins its handshakes with.
///
/// # Errors
/// When the cryptographic provider has no randomness, or not the ciphers of QUIC.
pub(super) fn server_config(gateway: &Arc<Gateway>, at: ListenAddress) -> io::Result<quinn::ServerConfig> {
    let crypto = rustls_config(gateway, at).map_err(io::Error::other)?;
    let crypto = QuicServerConfig::try_from(crypto).map_err(io::Error::other)?;
    Ok(quinn::ServerConfig::with_crypto(Arc::new(crypto)))
}

fn rustls_config(gateway: &Arc<Gateway>, at: ListenAddress) -> Result<ServerConfig, rustls::Error> {
    let resolver = Arc::new(ByName { gateway: gateway.clone(), at });
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h3".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = gateway.http3_tickets.get()?;
    Ok(config)
}

/// Presents the certificate of the listener that the client names; for others the handshake fails, so that the client
/// comes over TCP. Asked for every handshake, resumed ones too.
struct ByName {
    gateway: Arc<Gateway>,
    at: ListenAddress,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let listener = listener(&self.gateway, self.at, hello.server_name())?;
        let TlsServes::Http(tls) = &listener.serves else { return None };
        // Of what serves the same listener over TCP only the certificates are taken.
        let config = self.gateway.configs.get(tls, Carries::Http, self.gateway.tls.load().as_ref());
        config.inspect_err(|error| tracing::debug!(%error, "HTTP/3 handshake")).ok()?.cert_resolver.resolve(hello)
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByName({:?})", self.at)
    }
}
