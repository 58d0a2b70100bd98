//! Who is answered what: routing, heads that are refused, and how clients learn of HTTP/3.

use tokio_rustls::TlsConnector;

use super::*;
use crate::route::{
    client::FromProxies,
    table::{Attachment, Port},
    tls::{Clients, ServerTls},
};
use crate::{listener::tests::proxied::from_proxies, proxy::Client};

fn text(told: &Told) -> &str {
    std::str::from_utf8(&told.body).unwrap()
}

#[tokio::test]
async fn a_request_is_routed_and_forwarded_as_from_any_listener() {
    let site = Site::open(&[("a.com", to_address(echo().await))]);
    let mut visitor = site.visit("a.com").await;
    let told = soon(visitor.get("a.com", "/x/../y?z")).await;
    let seen = text(&told);
    assert_eq!(told.status, 200);
    assert_eq!(told.headers["content-length"], told.body.len().to_string());
    assert!(seen.starts_with("GET /y?z HTTP/1.1\n"), "{seen}");
    for field in ["host: a.com", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: https", "x-forwarded-host: a.com"] {
        assert!(seen.contains(&format!("{field}\n")), "{seen}");
    }
    assert!(!seen.contains("transfer-encoding") && !seen.contains("content-length"), "it has no body: {seen}");
}

#[tokio::test]
async fn one_connection_serves_many_requests_at_once() {
    let site = Site::open(&[("a.com", to_address(echo().await))]);
    let visitor = site.visit("a.com").await;
    let asked = (0..200).map(|index| {
        let mut requests = visitor.requests.clone();
        async move {
            let mut stream = requests.send_request(get3("a.com", &format!("/{index}"))).await.unwrap();
            stream.finish().await.unwrap();
            told_by(stream.split().1).await.unwrap()
        }
    });
    let all = soon(futures_util::future::join_all(asked)).await;
    for (index, told) in all.iter().enumerate() {
        assert!(text(told).starts_with(&format!("GET /{index} ")), "{}", text(told));
    }
}

#[tokio::test]
async fn unknown_hosts_and_paths_are_404_with_a_reason_and_head_has_no_body() {
    let site = Site::open(&[("a.com", to_address(echo().await))]);
    let mut visitor = site.visit("a.com").await;
    let told = soon(visitor.get("b.com", "/")).await;
    assert_eq!((told.status, text(&told)), (404, "no route for host \"b.com\"\n"));
    assert_eq!(told.headers["content-length"], told.body.len().to_string());
    let head = Request::head("https://b.com/").body(()).unwrap();
    let told = soon(visitor.ask(head, b"")).await.unwrap();
    assert_eq!((told.status, told.body.len()), (404, 0));
    assert!(told.headers.contains_key("date"));
}

#[tokio::test]
async fn a_host_of_another_listener_is_misdirected() {
    let site = Site::open(&[]);
    site.gate.gateway.routing.table.store(Arc::new(two_listeners(Arc::default(), echo().await)));
    let mut visitor = site.visit("a.com").await;
    assert_eq!(soon(visitor.get("a.com", "/")).await.status, 200);
    assert_eq!(soon(visitor.get("b.com", "/")).await.status, 421);
    let mut visitor = site.visit("b.com").await;
    assert_eq!(soon(visitor.get("b.com", "/")).await.status, 200);
}

/// a.com, and b.com with `tls`, each with a listener of its own.
fn two_listeners(tls: Arc<ServerTls>, backend: SocketAddr) -> Table {
    let (mut builder, project, at) = (TableBuilder::default(), ProjectName::default(), ListenAddress::shared(80));
    for (host, tls) in [("a.com", Arc::default()), ("b.com", tls)] {
        let host = HostPattern::parse(host).unwrap();
        builder.https(at, &project, &host, tls);
        builder.owner(at, &host, &project);
        let (name, target) = ("default/b".into(), to_address(backend));
        let backends = vec![target::Backend { name, weight: 1, target, filters: Filters::default() }];
        builder.attach(Attachment {
            at,
            listener: &host,
            host: &host,
            matcher: Matcher::new(PathMatcher::prefix("/").unwrap()),
            created: 0,
            position: (0, 0),
            rule: &Arc::new(Rule::new(project.clone(), "default/r".into(), backends)),
        });
    }
    builder.build()
}

/// Asks clients for certificates, and lets them in without.
fn asking(site: &Site) -> Arc<ServerTls> {
    let ca = Arc::from(site.certificate.as_ref());
    Arc::new(ServerTls { clients: Clients::ValidOrNot(vec![ca]), ..ServerTls::default() })
}

#[tokio::test]
async fn a_listener_that_asks_for_certificates_is_served_over_tcp_only() {
    let site = Site::open(&[]);
    site.gate.gateway.routing.table.store(Arc::new(two_listeners(asking(&site), echo().await)));
    let refused = soon(site.dial("b.com")).await;
    assert!(matches!(refused, Err(quinn::ConnectionError::ConnectionClosed(_))), "{refused:?}");
    let mut visitor = site.visit("a.com").await;
    assert_eq!(soon(visitor.get("a.com", "/")).await.status, 200);
    assert_eq!(soon(visitor.get("b.com", "/")).await.status, 421);
    assert_eq!(soon(alternative(&site, "a.com")).await.as_deref(), Some("h3=\":80\"; ma=86400"));
    assert_eq!(soon(alternative(&site, "b.com")).await, None);
}

#[tokio::test]
async fn a_listener_behind_proxies_is_served_over_tcp_only() {
    let site = Site::open(&[]);
    let at = ListenAddress::shared(80);
    let mut builder = TableBuilder::default();
    builder.https(at, &ProjectName::default(), &HostPattern::Any, Arc::default());
    builder.arrive(at, &from_proxies(FromProxies::OrNot));
    let table = builder.build();
    let Some(Port::Tls(port)) = table.port(at) else { panic!("it is HTTPS") };
    let tls = port.listener(Some("a.com")).cloned();
    let client = Client { address: site.udp, local: site.udp, at, tls };
    site.gate.gateway.routing.table.store(Arc::new(table));
    let refused = soon(site.dial("a.com")).await;
    assert!(matches!(refused, Err(quinn::ConnectionError::ConnectionClosed(_))), "{refused:?}");
    assert_eq!(site.gate.worker.http3.alternative(&site.gate.gateway.routing.table.load(), &client), None);
}

#[tokio::test]
async fn malformed_heads_reset_their_stream_only() {
    let site = Site::open(&[("a.com", to_address(echo().await))]);
    let mut visitor = site.visit("a.com").await;
    for (name, value) in
        [("connection", "close"), ("transfer-encoding", "chunked"), ("te", "gzip"), ("content-length", "x")]
    {
        let request = Request::post("https://a.com/").header(name, value).body(()).unwrap();
        let error = soon(visitor.ask(request, b"body")).await.unwrap_err();
        assert_eq!(code_of(&error), Some(Code::H3_MESSAGE_ERROR), "{name}: {error}");
    }
    assert_eq!(soon(visitor.get("a.com", "/")).await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_fit_its_head_is_malformed() {
    let site = Site::open(&[("a.com", to_address(echo().await))]);
    let mut visitor = site.visit("a.com").await;
    for length in ["3", "5"] {
        let request = Request::post("https://a.com/").header("content-length", length).body(()).unwrap();
        let error = soon(visitor.ask(request, b"body")).await.unwrap_err();
        assert_eq!(code_of(&error), Some(Code::H3_MESSAGE_ERROR), "{length}: {error}");
    }
    let request = Request::post("https://a.com/").header("content-length", "4").body(()).unwrap();
    let told = soon(visitor.ask(request, b"body")).await.unwrap();
    assert!(text(&told).ends_with("\n\nbody"), "{}", text(&told));
}

#[tokio::test]
async fn connect_to_anything_is_not_served() {
    let site = Site::open(&[("a.com", to_address(echo().await))]);
    let mut visitor = site.visit("a.com").await;
    let told = soon(visitor.ask(Request::connect("a.com:443").body(()).unwrap(), b"")).await.unwrap();
    assert_eq!((told.status, text(&told)), (501, "CONNECT is not served here\n"));
}

/// What a client that comes over TCP is told of other ways to `host`.
async fn alternative(site: &Site, host: &'static str) -> Option<String> {
    let connector = TlsConnector::from(Arc::new(site.client_config(&["h2"])));
    let name = rustls::pki_types::ServerName::try_from(host).unwrap();
    let stream = connector.connect(name, site.gate.connect().await).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("https://{host}/")).body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.headers().get("alt-svc").map(|value| value.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn clients_are_told_of_http3_while_it_is_served() {
    let site = Site::open(&[("a.com", to_address(echo().await))]);
    // It answers, so it is served.
    site.visit("a.com").await;
    assert!(soon(alternative(&site, "a.com")).await.is_some());
    let without = Gate::open_with(&[("a.com", to_address(echo().await))], Scheme::Https, &["127.0.0.0/8"]);
    without.gateway.tls.store(site.gate.gateway.tls.load_full());
    let without = Site { gate: without, ..site };
    assert_eq!(soon(alternative(&without, "a.com")).await, None);
}
