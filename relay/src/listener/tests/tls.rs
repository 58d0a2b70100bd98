//! TLS listeners: which certificate a name gets, who is let in, and what happens to bad beginnings.

mod demands;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::*;
use crate::{
    listener::tls,
    route::tls::{Certified, Clients, KeyForm, ServerTls},
};

const AT: ListenAddress = ListenAddress { address: None, port: 443 };

/// A certificate that vouches for itself.
pub(super) struct Issued {
    key: KeyPair,
    pub(super) der: CertificateDer<'static>,
}

impl Issued {
    pub(super) fn new(name: &str) -> Self {
        Self::with_key(name, KeyPair::generate().unwrap())
    }

    fn with_key(name: &str, key: KeyPair) -> Self {
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        Self { der: certificate.der().clone(), key }
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    fn certified(&self) -> Arc<Certified> {
        let key = self.key.serialize_der().into();
        Arc::new(Certified { chain: vec![self.der.to_vec().into()], key, form: KeyForm::Pkcs8 })
    }

    fn config(&self) -> Arc<rustls::ServerConfig> {
        tls::server_config(vec![self.der.clone()], self.key()).unwrap()
    }

    /// What a listener that presents this takes.
    pub(super) fn tls(&self) -> Arc<ServerTls> {
        Arc::new(ServerTls { certificates: vec![self.certified()], ..ServerTls::default() })
    }
}

/// A CA, and somebody whom it vouches for.
struct Vouched {
    ca: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Vouched {
    fn by(ca: &str) -> Self {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, ca);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let one = CertificateParams::new(vec!["client".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        Self { ca: ca.der().clone(), chain: vec![one.der().clone()], key }
    }

    fn cas(&self) -> Vec<Arc<[u8]>> {
        vec![self.ca.to_vec().into()]
    }
}

fn trusting(issued: &[&Issued]) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    for one in issued {
        roots.add(one.der.clone()).unwrap();
    }
    ClientConfig::builder_with_provider(crate::authority::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

pub(super) fn anonymous(issued: &[&Issued]) -> Arc<ClientConfig> {
    Arc::new(trusting(issued).with_no_client_auth())
}

fn presenting(issued: &Issued, client: &Vouched) -> Arc<ClientConfig> {
    let key = PrivateKeyDer::try_from(client.key.serialize_der()).unwrap();
    Arc::new(trusting(&[issued]).with_client_auth_cert(client.chain.clone(), key).unwrap())
}

pub(super) fn pattern(text: &str) -> HostPattern {
    HostPattern::parse(text).unwrap()
}

pub(super) fn to_backend(address: SocketAddr, weight: u32) -> target::Backend {
    target::Backend { name: "default/b".into(), weight, target: to_address(address), filters: Filters::default() }
}

pub(super) fn rule(backends: Vec<target::Backend>) -> Arc<Rule> {
    Arc::new(Rule::new(ProjectName::default(), "default/r".into(), backends))
}

/// HTTPS listeners by hostname, all to `backend`.
fn https(listeners: &[(&str, Arc<ServerTls>)], backend: SocketAddr) -> Table {
    let mut builder = TableBuilder::default();
    for (host, tls) in listeners {
        builder.https(AT, &ProjectName::default(), &pattern(host), tls.clone());
        builder.attach(Attachment {
            at: AT,
            listener: &pattern(host),
            host: &pattern(host),
            matcher: Matcher::new(PathMatcher::prefix("/").unwrap()),
            created: 0,
            position: (0, 0),
            rule: &rule(vec![to_backend(backend, 1)]),
        });
    }
    builder.build()
}

impl Gate {
    /// Serves `table` at port 443.
    pub(super) fn serving(table: Table) -> Self {
        let mut gate = Self::open(&[]);
        gate.gateway.routing.table.store(Arc::new(table));
        let socket = bind::bind((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap().remove(0);
        gate.address = socket.local_addr().unwrap();
        tokio::spawn(gate.worker.clone().serve(socket, AT, gate.stop.clone()));
        gate
    }

    pub(super) async fn tls(&self, name: &str, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(config.clone()).connect(name, self.connect().await).await
    }

    /// Connects, asks for `/`, and says what was presented and how hands were shaken.
    async fn asked(
        &self,
        name: &str,
        config: &Arc<ClientConfig>,
    ) -> io::Result<(CertificateDer<'static>, HandshakeKind)> {
        let mut stream = self.tls(name, config).await?;
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok((presented(&stream), stream.get_ref().1.handshake_kind().unwrap()))
    }
}

fn presented(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// The alert that ended a handshake.
pub(super) fn alert(error: &io::Error) -> AlertDescription {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("no alert: {error:?}, {other:?}"),
    }
}

#[tokio::test]
async fn the_name_selects_the_certificate() {
    let (exact, wild, own) = (Issued::new("x.a.com"), Issued::new("*.a.com"), Issued::new("b.org"));
    let listeners = [("x.a.com", exact.tls()), ("*.a.com", wild.tls()), ("b.org", Arc::default())];
    let gate = Gate::serving(https(&listeners, echo().await));
    gate.gateway.tls.store(Some(own.config()));
    let config = anonymous(&[&exact, &wild, &own]);
    assert_eq!(gate.asked("x.a.com", &config).await.unwrap().0, exact.der);
    assert_eq!(gate.asked("y.a.com", &config).await.unwrap().0, wild.der);
    assert_eq!(gate.asked("b.org", &config).await.unwrap().0, own.der);
    let error = gate.tls("elsewhere.org", &config).await.unwrap_err();
    assert_eq!(alert(&error), AlertDescription::UnrecognisedName);
}

#[tokio::test]
async fn post_quantum_keys_are_agreed_on_and_alpn_prefers_http2() {
    let issued = Issued::new("a.com");
    let gate = Gate::serving(https(&[("", issued.tls())], echo().await));
    let mut config = ClientConfig::clone(&anonymous(&[&issued]));
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let stream = gate.tls("a.com", &Arc::new(config)).await.unwrap();
    let connection = stream.get_ref().1;
    assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
    let group = connection.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

/// Trusts anybody, and understands these signatures only.
#[derive(Debug)]
struct Understands(Vec<SignatureScheme>);

impl ServerCertVerifier for Understands {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

fn understanding(schemes: &[SignatureScheme], version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(crate::authority::tls::provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Understands(schemes.to_vec())))
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test]
async fn a_client_gets_the_certificate_whose_key_it_understands() {
    let ecdsa = Issued::new("a.com");
    let rsa = Issued::with_key("a.com", KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());
    let certificates = vec![rsa.certified(), ecdsa.certified()];
    let tls = Arc::new(ServerTls { certificates, ..ServerTls::default() });
    let gate = Gate::serving(https(&[("", tls)], echo().await));
    let (of_ecdsa, of_rsa) = (SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (schemes, want) in [(&[of_ecdsa][..], &ecdsa), (&[of_rsa], &rsa), (&[of_rsa, of_ecdsa], &ecdsa)] {
            let (got, _) = gate.asked("a.com", &understanding(schemes, version)).await.unwrap();
            assert_eq!(got, want.der, "{schemes:?}");
        }
        let error = gate.tls("a.com", &understanding(&[SignatureScheme::ED25519], version)).await.unwrap_err();
        assert_eq!(alert(&error), AlertDescription::AccessDenied);
    }
}

#[tokio::test]
async fn a_certificate_is_replaced_under_open_connections() {
    let (old, new, backend) = (Issued::new("a.com"), Issued::new("a.com"), echo().await);
    let gate = Gate::serving(https(&[("a.com", old.tls())], backend));
    let config = anonymous(&[&old, &new]);
    let mut open = gate.tls("a.com", &config).await.unwrap();
    gate.gateway.routing.table.store(Arc::new(https(&[("a.com", new.tls())], backend)));
    // The client offers its ticket of the old certificate, which is not good for the new one.
    assert_eq!(gate.asked("a.com", &config).await.unwrap(), (new.der.clone(), HandshakeKind::Full));
    open.write_all(b"GET / HTTP/1.1\r\nhost: a.com\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(presented(&open), old.der);
}

#[tokio::test]
async fn the_relays_own_certificate_is_replaced_for_whatever_was_made_of_it() {
    let (old, new) = (Issued::new("a.com"), Issued::new("a.com"));
    let tls =
        Arc::new(ServerTls { certificates: vec![], clients: Clients::ValidOrNot(vec![]), ..ServerTls::default() });
    let gate = Gate::serving(https(&[("a.com", tls)], echo().await));
    let config = anonymous(&[&old, &new]);
    let error = gate.tls("a.com", &config).await.unwrap_err();
    assert_eq!(alert(&error), AlertDescription::InternalError);
    for own in [&old, &new] {
        gate.gateway.tls.store(Some(own.config()));
        assert_eq!(gate.asked("a.com", &config).await.unwrap().0, own.der);
    }
}

#[tokio::test]
async fn sessions_are_resumed_although_the_table_is_another() {
    let (issued, backend) = (Issued::new("a.com"), echo().await);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let gate = Gate::serving(https(&[("a.com", issued.tls())], backend));
        let config = understanding(&[SignatureScheme::ECDSA_NISTP256_SHA256], version);
        assert_eq!(gate.asked("a.com", &config).await.unwrap().1, HandshakeKind::Full);
        gate.gateway.routing.table.store(Arc::new(https(&[("a.com", issued.tls())], backend)));
        assert_eq!(gate.asked("a.com", &config).await.unwrap().1, HandshakeKind::Resumed);
    }
}

/// A listener that asks `clients`.
async fn asking(issued: &Issued, clients: Clients) -> Gate {
    let tls = Arc::new(ServerTls { certificates: vec![issued.certified()], clients, ..ServerTls::default() });
    Gate::serving(https(&[("a.com", tls)], echo().await))
}

#[tokio::test]
async fn only_clients_with_a_valid_certificate_are_let_in_where_one_is_needed() {
    let (issued, friend, stranger) = (Issued::new("a.com"), Vouched::by("friends"), Vouched::by("strangers"));
    let gate = asking(&issued, Clients::Valid(friend.cas())).await;
    let config = presenting(&issued, &friend);
    for _ in 0..2 {
        // Each time anew: a session must not outlive the certificate.
        assert_eq!(gate.asked("a.com", &config).await.unwrap().1, HandshakeKind::Full);
    }
    let error = gate.asked("a.com", &anonymous(&[&issued])).await.unwrap_err();
    assert_eq!(alert(&error), AlertDescription::CertificateRequired);
    let error = gate.asked("a.com", &presenting(&issued, &stranger)).await.unwrap_err();
    assert_eq!(alert(&error), AlertDescription::UnknownCA);
}

#[tokio::test]
async fn clients_are_asked_and_let_in_whatever_they_present() {
    let (issued, friend, stranger) = (Issued::new("a.com"), Vouched::by("friends"), Vouched::by("strangers"));
    let gate = asking(&issued, Clients::ValidOrNot(friend.cas())).await;
    for config in [anonymous(&[&issued]), presenting(&issued, &friend), presenting(&issued, &stranger)] {
        gate.asked("a.com", &config).await.unwrap();
    }
}

#[tokio::test]
async fn a_presented_certificate_must_be_the_clients_own() {
    let (issued, friend) = (Issued::new("a.com"), Vouched::by("friends"));
    let gate = asking(&issued, Clients::ValidOrNot(vec![])).await;
    let thief = Vouched { chain: friend.chain.clone(), ..Vouched::by("thieves") };
    let key = PrivateKeyDer::try_from(thief.key.serialize_der()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    // `with_client_auth_cert` would notice.
    let resolver = rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(thief.chain, key));
    let config = Arc::new(trusting(&[&issued]).with_client_cert_resolver(Arc::new(resolver)));
    let error = gate.asked("a.com", &config).await.unwrap_err();
    assert_eq!(alert(&error), AlertDescription::DecryptError);
}

#[tokio::test]
async fn nobody_is_let_in_when_the_cas_cannot_be_read() {
    let (issued, friend) = (Issued::new("a.com"), Vouched::by("friends"));
    for clients in [Clients::Nobody, Clients::Valid(vec![]), Clients::Valid(vec![b"no certificate"[..].into()])] {
        let gate = asking(&issued, clients).await;
        let error = gate.tls("a.com", &presenting(&issued, &friend)).await.unwrap_err();
        assert_eq!(alert(&error), AlertDescription::AccessDenied);
    }
}

/// Sends every byte in a segment of its own.
struct Dribble(TcpStream);

impl AsyncRead for Dribble {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    let issued = Issued::new("a.com");
    let gate = Gate::serving(https(&[("a.com", issued.tls())], echo().await));
    let stream = gate.connect().await;
    stream.set_nodelay(true).unwrap();
    let connector = TlsConnector::from(anonymous(&[&issued]));
    let stream = connector.connect(ServerName::try_from("a.com").unwrap(), Dribble(stream)).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], issued.der);
}

#[tokio::test]
async fn bad_beginnings_are_refused() {
    let issued = Issued::new("a.com");
    let gate = Gate::serving(https(&[("a.com", issued.tls())], echo().await));
    let long = {
        // A ClientHello of 60,000 bytes, of which the first record brings all that fits.
        let mut hello = vec![22, 3, 1, 0x40, 0, 1, 0, 0xea, 0x60];
        hello.resize(16 * 1024, 0);
        hello
    };
    let cases: [(&[u8], AlertDescription); 3] = [
        (&long, AlertDescription::DecodeError),
        (b"GET / HTTP/1.1\r\n\r\n", AlertDescription::DecodeError),
        // A ClientHello without content.
        (&[22, 3, 1, 0, 4, 1, 0, 0, 0], AlertDescription::DecodeError),
    ];
    for (bytes, want) in cases {
        let mut stream = gate.connect().await;
        stream.write_all(bytes).await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, [21, 3, 3, 0, 2, 2, want.into()], "{:?}", &bytes[..9]);
    }
}

#[tokio::test]
async fn an_end_is_no_beginning() {
    let issued = Issued::new("a.com");
    let gate = Gate::serving(https(&[("a.com", issued.tls())], echo().await));
    // An alert that says goodbye, and more behind it, together and one after the other.
    let (goodbye, more) = ([21, 3, 3, 0, 2, 1, 0], [22, 3, 1, 0, 4, 1, 0, 0, 0]);
    for pieces in [&[&[goodbye, [0; 7]].concat()[..]][..], &[&goodbye, &more], &[&goodbye]] {
        let mut stream = gate.connect().await;
        for piece in pieces {
            // It may have hung up by then.
            let _ = stream.write_all(piece).await;
        }
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    gate.tls("a.com", &anonymous(&[&issued])).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_does_not_come_is_not_waited_for() {
    let issued = Issued::new("a.com");
    let gate = Gate::serving(https(&[("a.com", issued.tls())], echo().await));
    let mut stream = gate.connect().await;
    stream.write_all(&[22, 3, 1]).await.unwrap();
    assert!(matches!(stream.read(&mut [0; 16]).await, Ok(0) | Err(_)));
}

/// A table of TLSRoutes on one listener for `*.a.com`, which serves `x.a.com`.
fn routed(tls: Option<Arc<ServerTls>>, backends: Vec<target::Backend>) -> Table {
    let mut builder = TableBuilder::default();
    builder.tls(AT, &ProjectName::default(), &pattern("*.a.com"), tls);
    builder.attach_tls(AT, &pattern("*.a.com"), &pattern("x.a.com"), &rule(backends));
    builder.build()
}

#[tokio::test]
async fn tls_is_passed_through_to_the_backend() {
    let (issued, (listener, address)) = (Issued::new("x.a.com"), listener().await);
    let acceptor = TlsAcceptor::from(issued.config());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        stream.write_all(said.to_uppercase().as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let gate = Gate::serving(routed(None, vec![to_backend(address, 1)]));
    let mut stream = gate.tls("x.a.com", &anonymous(&[&issued])).await.unwrap();
    assert_eq!(presented(&stream), issued.der);
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "HELLO");
}

#[tokio::test]
async fn tls_ends_at_the_listener_and_the_backend_gets_what_was_inside() {
    let (issued, (listener, address)) = (Issued::new("x.a.com"), listener().await);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        stream.write_all(said.to_uppercase().as_bytes()).await.unwrap();
    });
    let gate = Gate::serving(routed(Some(issued.tls()), vec![to_backend(address, 1)]));
    let mut config = ClientConfig::clone(&anonymous(&[&issued]));
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let mut stream = gate.tls("x.a.com", &Arc::new(config)).await.unwrap();
    assert_eq!(presented(&stream), issued.der);
    assert_eq!(stream.get_ref().1.alpn_protocol(), None, "what is inside is not the listener's business");
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "HELLO");
}

#[tokio::test]
async fn a_name_without_route_is_hung_up_on() {
    let issued = Issued::new("y.a.com");
    for tls in [None, Some(issued.tls())] {
        let gate = Gate::serving(routed(tls, vec![]));
        // No route, and no listener.
        for name in ["y.a.com", "elsewhere.org"] {
            let error = gate.tls(name, &anonymous(&[&issued])).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{name}");
        }
    }
}
