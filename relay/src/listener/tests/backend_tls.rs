//! TLS towards backends: whom the relay trusts, what it presents, and what the two agree to speak.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::route::{
    filter::Retry,
    tls::{CertificateBytes, Certified, KeyForm, Roots, SubjectName, UpstreamTls},
};

struct Ca {
    der: CertificateBytes,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().to_vec().into(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, names: &[SanType], usage: ExtendedKeyUsagePurpose) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names.to_vec();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certified {
            chain: vec![certificate.der().to_vec().into()],
            key: key.serialize_der().into(),
            form: KeyForm::Pkcs8,
        }
    }

    fn server(&self, names: &[SanType]) -> Certified {
        self.issue(names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.der.to_vec())).unwrap();
        roots
    }

    /// Trust in this CA and the name `a.example.com`.
    fn trusted(&self) -> UpstreamTls {
        UpstreamTls {
            server_name: "a.example.com".into(),
            roots: Roots::These(vec![self.der.clone()]),
            names: Vec::new(),
            identity: None,
        }
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// A backend that says what it saw of each connection and request.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(certified: &Certified, alpn: &[&str], clients: Option<&Ca>) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = match clients {
            None => builder.unwrap().with_no_client_auth(),
            Some(ca) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(ca.roots()), provider);
                builder.unwrap().with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(certified.key.to_vec()).unwrap();
        let mut config = builder.with_single_cert(certified.chain(), key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (listener, address) = listener().await;
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Relaxed);
                tokio::spawn(serve(acceptor.clone(), stream));
            }
        });
        Self { address, connections }
    }

    fn target(&self, tls: UpstreamTls, protocol: Protocol) -> Target {
        let (project, endpoint) = (ProjectName::default(), Endpoint::Address(self.address));
        Target::Upstreams(vec![Arc::new(Upstream {
            project,
            endpoint,
            protocol,
            tls: Some(Arc::new(tls)),
            announces: None,
        })])
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let session = stream.get_ref().1;
    let seen = BTreeMap::from([
        ("alpn", session.alpn_protocol().map_or("none".into(), |name| String::from_utf8_lossy(name).into_owned())),
        ("sni", session.server_name().unwrap_or("none").to_owned()),
        ("resumed", (session.handshake_kind() == Some(HandshakeKind::Resumed)).to_string()),
        ("client", session.peer_certificates().is_some().to_string()),
    ]);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let mut seen = seen.clone();
        async move {
            seen.insert("version", format!("{:?}", request.version()));
            seen.insert("scheme", request.uri().scheme_str().unwrap_or("none").to_owned());
            let host = request.headers().get("host").map(|host| host.to_str().unwrap());
            let authority = host.or(request.uri().authority().map(|name| name.as_str()));
            seen.insert("authority", authority.unwrap_or("none").to_owned());
            let upgrades = request.headers().contains_key("upgrade");
            let closes = request.uri().path() == "/close";
            if upgrades {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let mut stream = TokioIo::new(upgrade.await.unwrap());
                    stream.write_all(b"switched").await.unwrap();
                });
            }
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let text = format!("{seen:?} {}", String::from_utf8_lossy(&body));
            let response = Response::builder();
            let response = if upgrades {
                response.status(101).header("upgrade", "websocket").header("connection", "upgrade")
            } else if closes {
                response.header("connection", "close")
            } else {
                response
            };
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from(text))).unwrap())
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

/// What one request to a server that holds `names` comes to.
async fn ask(ca: &Ca, names: &[SanType], tls: UpstreamTls) -> (u16, String) {
    let server = Server::start(&ca.server(names), &["http/1.1"], None).await;
    Gate::open(&[("a.com", server.target(tls, Protocol::Http1))]).get("a.com", "/").await
}

#[tokio::test]
async fn a_backend_that_the_ca_vouches_for_is_spoken_to() {
    let ca = Ca::new();
    let (status, body) = ask(&ca, &[dns("a.example.com")], ca.trusted()).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"sni\": \"a.example.com\"") && body.contains("\"alpn\": \"http/1.1\""), "{body}");
    assert!(body.contains("\"authority\": \"a.com\"") && body.contains("\"client\": \"false\""), "{body}");
}

#[tokio::test]
async fn a_backend_of_another_ca_or_name_is_502() {
    let (ca, other) = (Ca::new(), Ca::new());
    let not_trusted = (502, "the backend presented a certificate that is not trusted\n".to_owned());
    assert_eq!(ask(&ca, &[dns("a.example.com")], other.trusted()).await, not_trusted);
    let system = UpstreamTls { roots: Roots::System, ..ca.trusted() };
    assert_eq!(ask(&ca, &[dns("a.example.com")], system).await.0, 502);
    let other_name = (502, "the backend presented a certificate for another name\n".to_owned());
    assert_eq!(ask(&ca, &[dns("b.example.com")], ca.trusted()).await, other_name);
    let nothing = UpstreamTls { roots: Roots::These(Vec::new()), ..ca.trusted() };
    assert_eq!(ask(&ca, &[dns("a.example.com")], nothing).await, not_trusted);
}

#[tokio::test]
async fn with_alternative_names_one_of_them_counts_and_the_server_name_does_not() {
    let ca = Ca::new();
    let check = async |held: &[SanType], wanted: &[SubjectName], status: u16| {
        let tls = UpstreamTls { names: wanted.to_vec(), ..ca.trusted() };
        assert_eq!(ask(&ca, held, tls).await.0, status, "{held:?} {wanted:?}");
    };
    let (want_dns, want_uri) = (|name: &str| SubjectName::Dns(name.into()), |name: &str| SubjectName::Uri(name.into()));
    check(&[dns("b.example.com")], &[want_dns("b.example.com")], 200).await;
    check(&[dns("b.example.com")], &[want_dns("*.example.com")], 200).await;
    check(&[dns("*.example.com")], &[want_dns("b.example.com")], 200).await;
    check(&[dns("x.test"), uri("spiffe://a/b")], &[want_dns("c.test"), want_uri("spiffe://a/b")], 200).await;
    check(&[uri("spiffe://a/b")], &[want_uri("spiffe://a/b")], 200).await;
    check(&[dns("a.example.com")], &[want_dns("b.example.com")], 502).await;
    check(&[dns("a.example.com")], &[want_uri("spiffe://a/b")], 502).await;
    check(&[uri("spiffe://a/b")], &[want_uri("spiffe://a/c")], 502).await;
    check(&[dns("a.b.example.com")], &[want_dns("*.example.com")], 502).await;
    let tls = UpstreamTls { names: vec![want_dns("b.example.com")], ..Ca::new().trusted() };
    assert_eq!(ask(&ca, &[dns("b.example.com")], tls).await.0, 502, "the chain counts as ever");
}

#[tokio::test]
async fn an_address_is_verified_without_sni() {
    let ca = Ca::new();
    let tls = || UpstreamTls { server_name: "127.0.0.1".into(), ..ca.trusted() };
    let (status, body) = ask(&ca, &[SanType::IpAddress(Ipv4Addr::LOCALHOST.into())], tls()).await;
    assert!(status == 200 && body.contains("\"sni\": \"none\""), "{status} {body}");
    assert_eq!(ask(&ca, &[dns("a.example.com")], tls()).await.0, 502);
}

#[tokio::test]
async fn the_relay_presents_its_identity() {
    let ca = Ca::new();
    let server = Server::start(&ca.server(&[dns("a.example.com")]), &["h2"], Some(&ca)).await;
    let identity = Arc::new(ca.issue(&[], ExtendedKeyUsagePurpose::ClientAuth));
    let stranger = Arc::new(Ca::new().issue(&[], ExtendedKeyUsagePurpose::ClientAuth));
    let with = |identity| server.target(UpstreamTls { identity, ..ca.trusted() }, Protocol::Http2);
    let gate = Gate::open(&[("a.com", with(Some(identity))), ("b.com", with(None)), ("c.com", with(Some(stranger)))]);
    let (status, body) = gate.get("a.com", "/").await;
    assert!(status == 200 && body.contains("\"client\": \"true\""), "{status} {body}");
    assert_eq!(gate.get("b.com", "/").await.0, 502);
    assert_eq!(gate.get("c.com", "/").await.0, 502);
}

#[tokio::test]
async fn http2_must_be_agreed_on() {
    let ca = Ca::new();
    let check = async |alpn: &[&str], status: u16| {
        let server = Server::start(&ca.server(&[dns("a.example.com")]), alpn, None).await;
        let gate = Gate::open(&[("a.com", server.target(ca.trusted(), Protocol::Http2))]);
        let (got, body) = gate.get("a.com", "/").await;
        assert_eq!(got, status, "{alpn:?} {body}");
        body
    };
    let body = check(&["h2"], 200).await;
    assert!(body.contains("\"version\": \"HTTP/2.0\"") && body.contains("\"scheme\": \"https\""), "{body}");
    assert_eq!(check(&[], 502).await, "the backend does not speak HTTP/2 over TLS\n");
    check(&["http/1.1"], 502).await;
}

#[tokio::test]
async fn a_backend_chooses_between_http1_and_http2() {
    let ca = Ca::new();
    for (alpn, version, connections) in
        [(&["h2", "http/1.1"][..], "HTTP/2.0", 1), (&["http/1.1"], "HTTP/1.1", 1), (&[], "HTTP/1.1", 1)]
    {
        let server = Server::start(&ca.server(&[dns("a.example.com")]), alpn, None).await;
        let gate = Gate::open(&[("a.com", server.target(ca.trusted(), Protocol::Either))]);
        let mut sender = gate.http1().await;
        for number in 0..5 {
            let post = Request::post("/p?q").header("host", "a.com").header("te", "trailers").body(chunks(number));
            let (status, body) = told(sender.send_request(post.unwrap()).await.unwrap()).await;
            assert_eq!(status, 200, "{alpn:?} {body}");
            assert!(body.contains(&format!("\"version\": \"{version}\"")), "{alpn:?} {body}");
            assert!(body.contains("\"authority\": \"a.com\"") && body.ends_with(&format!(" {number}")), "{body}");
            sender.ready().await.unwrap();
        }
        assert_eq!(server.connections.load(Relaxed), connections, "{alpn:?}");
    }
}

/// A body whose length is not known before.
fn chunks(number: u32) -> http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible> {
    let frame = hyper::body::Frame::data(Bytes::from(number.to_string()));
    http_body_util::StreamBody::new(futures_util::stream::iter([Ok(frame)])).boxed_unsync()
}

#[tokio::test]
async fn a_websocket_goes_over_http1_where_the_backend_prefers_http2() {
    let ca = Ca::new();
    let server = Server::start(&ca.server(&[dns("a.example.com")]), &["h2", "http/1.1"], None).await;
    let gate = Gate::open(&[("a.com", server.target(ca.trusted(), Protocol::Either))]);
    assert!(gate.get("a.com", "/").await.1.contains("HTTP/2.0"));
    let answer = gate.raw("GET / HTTP/1.1\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("switched"), "{answer}");
    assert!(gate.get("a.com", "/").await.1.contains("HTTP/2.0"));
}

#[tokio::test]
async fn sessions_are_resumed_but_not_with_other_settings() {
    let ca = Ca::new();
    let server = Server::start(&ca.server(&[dns("a.example.com")]), &["http/1.1"], None).await;
    let target = || server.target(ca.trusted(), Protocol::Http1);
    let gate = Gate::open(&[("a.com", target())]);
    assert!(gate.get("a.com", "/close").await.1.contains("\"resumed\": \"false\""));
    assert!(gate.get("a.com", "/").await.1.contains("\"resumed\": \"true\""));
    assert_eq!(server.connections.load(Relaxed), 2);
    let names = vec![SubjectName::Dns("a.example.com".into())];
    gate.publish(&[("a.com", server.target(UpstreamTls { names, ..ca.trusted() }, Protocol::Http1))]);
    assert!(gate.get("a.com", "/").await.1.contains("\"resumed\": \"false\""));
    assert_eq!(server.connections.load(Relaxed), 3, "a connection is never used under other settings");
}

#[tokio::test]
async fn a_ca_that_is_taken_away_ends_all_trust() {
    let ca = Ca::new();
    let server = Server::start(&ca.server(&[dns("a.example.com")]), &["h2"], None).await;
    let gate = Gate::open(&[("a.com", server.target(ca.trusted(), Protocol::Either))]);
    assert_eq!(gate.get("a.com", "/").await.0, 200);
    gate.publish(&[("a.com", server.target(Ca::new().trusted(), Protocol::Either))]);
    assert_eq!(gate.get("a.com", "/").await.0, 502);
    gate.publish(&[("a.com", server.target(ca.trusted(), Protocol::Either))]);
    assert_eq!(gate.get("a.com", "/").await.0, 200);
}

#[tokio::test]
async fn a_backend_without_tls_is_502_and_grpc_is_told_that_it_is_unavailable() {
    let ca = Ca::new();
    let plain = echo().await;
    let (project, endpoint) = (ProjectName::default(), Endpoint::Address(plain));
    let tls = Some(Arc::new(ca.trusted()));
    let upstream = Upstream { project, endpoint, protocol: Protocol::Http1, tls, announces: None };
    let gate = Gate::open(&[("a.com", Target::Upstreams(vec![Arc::new(upstream)]))]);
    let (status, body) = gate.get("a.com", "/").await;
    assert_eq!(status, 502, "{body}");
    let call = Request::post("/s/m").header("host", "a.com").header("content-type", "application/grpc");
    let answer = gate.http1().await.send_request(call.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "14");
}

#[tokio::test]
async fn a_failed_handshake_is_worth_another_attempt() {
    let ca = Ca::new();
    let server = Server::start(&Ca::new().server(&[dns("a.example.com")]), &["http/1.1"], None).await;
    let gate = Gate::open_rule(server.address, |rule| {
        rule.backends[0].target = server.target(ca.trusted(), Protocol::Http1);
        rule.retry = Some(Retry { attempts: 2, backoff: std::time::Duration::ZERO, codes: Vec::new() });
    });
    assert_eq!(gate.get("a.com", "/").await.0, 502);
    assert_eq!(server.connections.load(Relaxed), 3);
}
