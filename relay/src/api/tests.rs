mod writing;

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use underpass_shared::{
    enrolment::{EnrolRequest, EnrolmentToken},
    identity::ProjectName,
};

use super::*;
use crate::{
    access::{Guard, token::Signer},
    authority::{Authority, Certified, tls::api_config, tls::provider},
    clock,
};

const BACKENDS: &str = "/apis/core.apoxy.dev/v1alpha2/namespaces/default/backends";
const NODES: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes";
const PROJECTS: &str = "/apis/core.apoxy.dev/v1alpha2/projects";

struct Served {
    address: SocketAddr,
    authority: Authority,
    enrolment: Enrolment,
    store: Store,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

type Credential = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

struct Answer {
    code: StatusCode,
    headers: http::HeaderMap,
    body: Value,
}

impl Answer {
    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap()
    }
}

async fn served() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let authority = Authority::load_or_create(&store, clock::now()).await.unwrap();
    let enrolment = Enrolment::new(store.clone(), authority.clone(), vec!["127.0.0.1:7443".to_owned()]);
    let certified = authority.relay_certificate(&"r1".parse().unwrap(), &[], clock::now()).unwrap();
    let tls = Arc::new(api_config(&authority, &certified).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let guard = Guard::new(store.clone(), Signer::load_or_create(&store).await.unwrap(), None);
    let api = Arc::new(Api::new(store.clone(), enrolment.clone(), guard, CancellationToken::new()));
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, tls, api, shutdown.clone()));
    Served { address, authority, enrolment, store, shutdown, serving, _directory: directory }
}

fn credential(certified: Certified) -> Credential {
    (certified.chain, certified.key)
}

impl Served {
    fn admin(&self) -> Credential {
        credential(self.authority.admin_certificate(clock::now()).unwrap())
    }

    async fn connect(&self, who: Option<Credential>, alpn: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.ca_der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match who {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn ask(&self, who: Option<Credential>, request: Request<Full<Bytes>>) -> Answer {
        let stream = TokioIo::new(self.connect(who, "http/1.1").await);
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let answer = read(sender.send_request(request).await.unwrap()).await;
        drop(sender);
        let _ = connection.await.unwrap();
        answer
    }

    async fn admin_asks(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.ask(Some(self.admin()), request(method, path, body)).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.admin_asks(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.admin_asks(Method::POST, path, Some(body)).await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        self.admin_asks(Method::PUT, path, Some(body)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.admin_asks(Method::DELETE, path, None).await
    }
}

fn request(method: Method, path: &str, body: Option<Value>) -> Request<Full<Bytes>> {
    let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "api")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(bytes))
        .unwrap()
}

async fn read(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    Answer {
        code: parts.status,
        headers: parts.headers,
        body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
    }
}

fn backend(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend", "metadata": {"name": name},
        "spec": {"endpoints": [{"ip": ip}]},
    })
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "core.apoxy.dev/v1alpha", "kind": "TunnelNode", "metadata": {"name": name}})
}

fn project(name: &str) -> Value {
    json!({"apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Project", "metadata": {"name": name}})
}

#[tokio::test]
async fn an_object_is_created_read_replaced_listed_and_deleted() {
    let api = served().await;
    let created = api.post(BACKENDS, backend("b", "192.0.2.1")).await;
    assert_eq!(created.code, StatusCode::CREATED);
    let path = format!("{BACKENDS}/b");
    let read = api.get(&path).await;
    assert_eq!((read.code, &read.body), (StatusCode::OK, &created.body));
    assert_eq!(read.body["metadata"]["generation"], 1);
    assert_eq!(read.body["metadata"]["namespace"], "default");

    let mut changed = read.body.clone();
    changed["spec"]["endpoints"][0]["ip"] = json!("192.0.2.2");
    let replaced = api.put(&path, changed.clone()).await;
    assert_eq!(replaced.code, StatusCode::OK);
    assert_eq!(replaced.body["metadata"]["generation"], 2);
    assert_ne!(replaced.body["metadata"]["resourceVersion"], read.body["metadata"]["resourceVersion"]);
    let same = api.put(&path, replaced.body.clone()).await;
    assert_eq!(same.body, replaced.body, "a put of the same content changes nothing");

    let list = api.get(BACKENDS).await;
    assert_eq!(list.body["kind"], "BackendList");
    assert_eq!(list.body["items"], json!([replaced.body]));
    assert_eq!(api.get("/apis/core.apoxy.dev/v1alpha2/backends").await.body["items"].as_array().unwrap().len(), 1);
    let elsewhere = api.get("/apis/core.apoxy.dev/v1alpha2/namespaces/other/backends").await;
    assert_eq!(elsewhere.body["items"], json!([]));

    let deleted = api.delete(&path).await;
    assert_eq!((deleted.code, &deleted.body["status"]), (StatusCode::OK, &json!("Success")));
    let missing = api.get(&path).await;
    assert_eq!(missing.code, StatusCode::NOT_FOUND);
    assert_eq!(missing.body["reason"], "NotFound");
    assert_eq!(missing.message(), "backends.core.apoxy.dev \"b\" not found");
    assert_eq!(api.delete(&path).await.code, StatusCode::NOT_FOUND);
    assert_eq!(api.put(&path, backend("b", "192.0.2.1")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn conflicts_are_told_apart() {
    let api = served().await;
    let first = api.post(BACKENDS, backend("b", "192.0.2.1")).await.body;
    let again = api.post(BACKENDS, backend("b", "192.0.2.1")).await;
    assert_eq!((again.code, &again.body["reason"]), (StatusCode::CONFLICT, &json!("AlreadyExists")));

    let path = format!("{BACKENDS}/b");
    let mut second = first.clone();
    second["spec"]["endpoints"][0]["ip"] = json!("192.0.2.2");
    api.put(&path, second).await;
    let stale = api.put(&path, first.clone()).await;
    assert_eq!((stale.code, &stale.body["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
    assert!(stale.message().contains("the object has been modified"), "{}", stale.message());

    let mut other = backend("b", "192.0.2.3");
    other["metadata"]["uid"] = json!("00000000-0000-4000-8000-000000000000");
    assert_eq!(api.put(&path, other).await.code, StatusCode::CONFLICT);
    let stale = json!({"preconditions": {"resourceVersion": first["metadata"]["resourceVersion"]}});
    assert_eq!(api.admin_asks(Method::DELETE, &path, Some(stale)).await.code, StatusCode::CONFLICT);
    assert_eq!(api.get(&path).await.body["spec"]["endpoints"][0]["ip"], "192.0.2.2");
}

#[tokio::test]
async fn both_groups_show_one_object() {
    let api = served().await;
    let route = json!({
        "apiVersion": "gateway.apoxy.dev/v1", "kind": "HTTPRoute", "metadata": {"name": "web"},
        "spec": {
            "parentRefs": [{"name": "default"}],
            "rules": [{"backendRefs": [{"kind": "Backend", "name": "b", "port": 80}]}],
        },
    });
    let alias = "/apis/gateway.apoxy.dev/v1/namespaces/default/httproutes";
    let upstream = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";
    let created = api.post(alias, route).await;
    assert_eq!((created.code, &created.body["apiVersion"]), (StatusCode::CREATED, &json!("gateway.apoxy.dev/v1")));
    let seen = api.get(&format!("{upstream}/web")).await.body;
    assert_eq!(seen["apiVersion"], "gateway.networking.k8s.io/v1");
    assert_eq!(seen["metadata"], created.body["metadata"]);
    assert_eq!(seen["spec"]["rules"][0]["backendRefs"][0]["group"], "core.apoxy.dev");
    assert_eq!(api.put(&format!("{alias}/web"), seen).await.code, StatusCode::OK);
}

#[tokio::test]
async fn every_problem_of_an_object_is_in_one_answer_and_nothing_is_stored() {
    let api = served().await;
    let before = api.store.snapshot().revision();
    let mut bad = backend("b", "nonsense");
    bad["spec"]["endpoints"][0]["fqdn"] = json!("-");
    bad["metadata"]["labels"] = json!({"a b": "c"});
    let refused = api.post(BACKENDS, bad).await;
    assert_eq!((refused.code, &refused.body["reason"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("Invalid")));
    let causes = refused.body["details"]["causes"].as_array().unwrap();
    let fields: Vec<_> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    for field in ["spec.endpoints[0].ip", "spec.endpoints[0].fqdn", "metadata.labels[a b]"] {
        assert!(fields.contains(&field), "{field}: {fields:?}");
        assert!(refused.message().contains(&format!("{field}: ")), "{}", refused.message());
    }
    assert_eq!(
        (&refused.body["details"]["group"], &refused.body["details"]["kind"]),
        (&json!("core.apoxy.dev"), &json!("Backend"))
    );
    assert_eq!(api.store.snapshot().revision(), before);
}

#[tokio::test]
async fn a_status_that_a_client_sends_is_ignored() {
    let api = served().await;
    let mut object = node("office");
    object["status"] = json!({"prefix": "fd00::/64", "agents": 7});
    let created = api.post(NODES, object).await;
    assert_eq!(created.code, StatusCode::CREATED, "{}", created.body);
    assert_ne!(created.body["status"]["prefix"], "fd00::/64");
    assert_eq!(created.body["status"]["agents"], json!([]));
}

#[tokio::test]
async fn what_is_stored_but_not_served_comes_with_a_warning() {
    let api = served().await;
    let mut object = node("office");
    object["spec"] = json!({"routes": ["10.0.0.0/8"]});
    let created = api.post(NODES, object.clone()).await;
    assert_eq!(created.code, StatusCode::CREATED);
    let warning = created.headers[header::WARNING].to_str().unwrap();
    assert!(warning.starts_with("299 - \"spec.routes"), "{warning}");
    assert_eq!(created.body["spec"], object["spec"]);
    assert!(!api.post(NODES, node("lab")).await.headers.contains_key(header::WARNING));
}

#[tokio::test]
async fn only_the_admin_may_do_anything_and_anybody_may_see_version_and_health() {
    let api = served().await;
    for path in ["/version", "/healthz"] {
        let answer = api.ask(None, request(Method::GET, path, None)).await;
        assert_eq!(answer.code, StatusCode::OK, "{path}");
    }
    let anonymous = api.ask(None, request(Method::GET, NODES, None)).await;
    assert_eq!((anonymous.code, &anonymous.body["reason"]), (StatusCode::UNAUTHORIZED, &json!("Unauthorized")));
    assert!(anonymous.message().contains("admin.kubeconfig"), "{}", anonymous.message());
    let nowhere = api.ask(None, request(Method::GET, "/nowhere", None)).await;
    assert_eq!(nowhere.code, StatusCode::UNAUTHORIZED, "what is there is not told to strangers");

    let gateway = credential(api.authority.gateway_certificate(&[], clock::now()).unwrap());
    let stream = api.connect(Some(gateway), "http/1.1").await;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let refused = sender.send_request(request(Method::GET, "/version", None)).await;
    assert!(refused.is_err(), "a server's certificate is no client's");
    let _ = connection.await;
}

#[tokio::test]
async fn an_agents_certificate_reads_its_own_node_and_nothing_else() {
    let api = served().await;
    api.post(NODES, node("office")).await;
    let token = api.post(&format!("{NODES}/office/token"), json!({})).await.body;
    let token: EnrolmentToken = token["status"]["token"].as_str().unwrap().parse().unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let (project, node, agent) = (ProjectName::default(), "office".parse().unwrap(), "a1".parse().unwrap());
    let request_ = EnrolRequest { project, node, agent, csr };
    let issued = api.enrolment.redeem(&token.secret, &request_, clock::now()).await.unwrap();
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let agent: Credential = (vec![certificate], PrivatePkcs8KeyDer::from(key.serialize_der()).into());

    let own = format!("{NODES}/office");
    let shown = api.ask(Some((agent.0.clone(), agent.1.clone_key())), request(Method::GET, &own, None)).await;
    assert_eq!((shown.code, &shown.body["metadata"]["name"]), (StatusCode::OK, &json!("office")));
    let token = format!("{own}/token");
    for (method, path) in [
        (Method::GET, NODES),
        (Method::POST, BACKENDS),
        (Method::DELETE, own.as_str()),
        (Method::POST, token.as_str()),
        (Method::GET, "/apis/core.apoxy.dev/v1alpha/tunnelnodes/other"),
    ] {
        let answer = api.ask(Some((agent.0.clone(), agent.1.clone_key())), request(method, path, None)).await;
        assert_eq!((answer.code, &answer.body["reason"]), (StatusCode::FORBIDDEN, &json!("Forbidden")), "{path}");
        assert!(answer.message().contains("system:agent:office:a1"), "{}", answer.message());
    }
}

#[tokio::test]
async fn a_token_is_issued_for_a_node_within_bounds() {
    let api = served().await;
    let path = format!("{NODES}/office/token");
    let missing = api.post(&path, json!({})).await;
    assert_eq!(
        (missing.code, missing.message()),
        (StatusCode::NOT_FOUND, "tunnelnodes.core.apoxy.dev \"office\" not found")
    );
    api.post(NODES, node("office")).await;
    let issued = api.post(&path, json!({"spec": {"expirationSeconds": 60, "uses": 3}})).await;
    assert_eq!(issued.code, StatusCode::CREATED);
    assert_eq!(issued.body["kind"], "TunnelNodeToken");
    assert_eq!(issued.body["spec"], json!({"expirationSeconds": 60, "uses": 3}));
    let token: EnrolmentToken = issued.body["status"]["token"].as_str().unwrap().parse().unwrap();
    assert_eq!((token.node.as_str(), token.relays), ("office", vec!["127.0.0.1:7443".to_owned()]));

    let bad = json!({"spec": {"expirationSeconds": 0, "uses": "1", "use": 1}});
    let refused = api.post(&path, bad).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.body["details"]["causes"].as_array().unwrap().len(), 3);
    assert_eq!(api.get(&path).await.code, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn projects_are_apart_and_leave_only_when_empty() {
    let api = served().await;
    let inside = format!("/projects/shop{BACKENDS}");
    let missing = api.post(&inside, backend("b", "192.0.2.1")).await;
    assert_eq!(
        (missing.code, missing.message()),
        (StatusCode::NOT_FOUND, "projects.core.apoxy.dev \"shop\" not found")
    );
    assert_eq!(api.get(&inside).await.code, StatusCode::NOT_FOUND);

    assert_eq!(api.post(PROJECTS, project("shop")).await.code, StatusCode::CREATED);
    assert_eq!(api.post(&inside, backend("b", "192.0.2.1")).await.code, StatusCode::CREATED);
    assert_eq!(api.get(BACKENDS).await.body["items"], json!([]), "another project does not see it");
    let gateway = "/projects/shop/apis/gateway.apoxy.dev/v1/namespaces/default/gateways/default";
    assert_eq!(api.get(gateway).await.code, StatusCode::OK);

    let full = api.delete(&format!("{PROJECTS}/shop")).await;
    assert_eq!((full.code, &full.body["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
    assert!(full.message().contains("backends \"b\""), "{}", full.message());
    for permanent in [gateway, &format!("{PROJECTS}/default")] {
        assert_eq!(api.delete(permanent).await.code, StatusCode::FORBIDDEN, "{permanent}");
    }
    assert_eq!(api.delete(&format!("{inside}/b")).await.code, StatusCode::OK);
    assert_eq!(api.delete(&format!("{PROJECTS}/shop")).await.code, StatusCode::OK);
    assert_eq!(api.get(&inside).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_cannot_be_done_says_so() {
    let api = served().await;
    let path = format!("{BACKENDS}/b");
    for (method, path, code, word) in [
        (Method::POST, path.as_str(), StatusCode::METHOD_NOT_ALLOWED, "POST to its collection"),
        (Method::GET, &format!("{BACKENDS}?shoeSize=4"), StatusCode::BAD_REQUEST, "shoeSize"),
        (Method::POST, "/apis/core.apoxy.dev/v1alpha2/backends", StatusCode::METHOD_NOT_ALLOWED, "namespace"),
        (Method::GET, "/nowhere", StatusCode::NOT_FOUND, "nothing at this path"),
        (Method::GET, "/apis/core.apoxy.dev/v1alpha/tunnelnodes/a/log", StatusCode::NOT_FOUND, "no such subresource"),
    ] {
        let answer = api.admin_asks(method, path, Some(json!({}))).await;
        assert_eq!(answer.code, code, "{path}");
        assert_eq!(answer.body["kind"], "Status", "{path}");
        assert!(answer.message().contains(word), "{path}: {}", answer.message());
    }
    let list = api.get(&format!("{BACKENDS}?limit=500&resourceVersion=0&watch=false")).await;
    assert_eq!(list.code, StatusCode::OK);
}

#[tokio::test]
async fn bodies_and_answers_are_of_the_forms_that_are_spoken() {
    let api = served().await;
    let with = |name: header::HeaderName, value: &'static str, body: &'static str| {
        let mut request = request(Method::POST, BACKENDS, None);
        request.headers_mut().insert(name, value.parse().unwrap());
        *request.body_mut() = Full::new(Bytes::from_static(body.as_bytes()));
        request
    };
    for (request, code, word) in [
        (with(header::CONTENT_TYPE, "text/plain", "{}"), 415, "application/json"),
        (with(header::CONTENT_ENCODING, "gzip", "{}"), 415, "compressed"),
        (with(header::ACCEPT, "application/vnd.kubernetes.protobuf", "{}"), 406, "application/json"),
        (with(header::ACCEPT, "*/*", ""), 400, "no body"),
        (with(header::ACCEPT, "*/*", "{\"a\":1"), 400, "EOF"),
        (with(header::ACCEPT, "*/*", "{\"a\":1,\"a\":2}"), 400, "duplicate field \"a\""),
        (with(header::ACCEPT, "*/*", "[]"), 400, "must be a Backend"),
    ] {
        let answer = api.ask(Some(api.admin()), request).await;
        assert_eq!(answer.code.as_u16(), code, "{}", answer.body);
        assert!(answer.message().contains(word), "{}", answer.message());
    }
    let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut list = request(Method::GET, BACKENDS, None);
    list.headers_mut().insert(header::ACCEPT, kubectl.parse().unwrap());
    assert_eq!(api.ask(Some(api.admin()), list).await.code, StatusCode::OK);
}

#[tokio::test]
async fn names_of_body_and_path_must_agree() {
    let api = served().await;
    api.post(BACKENDS, backend("b", "192.0.2.1")).await;
    let renamed = api.put(&format!("{BACKENDS}/b"), backend("c", "192.0.2.1")).await;
    assert_eq!(renamed.code, StatusCode::BAD_REQUEST);
    assert_eq!(renamed.message(), "the name of the object (c) does not match the name on the URL (b)");
    let mut moved = backend("d", "192.0.2.1");
    moved["metadata"]["namespace"] = json!("other");
    assert_eq!(api.post(BACKENDS, moved).await.code, StatusCode::BAD_REQUEST);
    let mut stamped = backend("d", "192.0.2.1");
    stamped["metadata"]["resourceVersion"] = json!("5");
    assert_eq!(api.post(BACKENDS, stamped).await.code, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_body_of_three_mebibytes_is_read_and_a_longer_one_refused() {
    let api = served().await;
    let padded = |length: usize| {
        let mut bytes = backend("b", "192.0.2.1").to_string().into_bytes();
        bytes.resize(length, b' ');
        let mut request = request(Method::POST, BACKENDS, None);
        *request.body_mut() = Full::new(bytes.into());
        request
    };
    let answer = api.ask(Some(api.admin()), padded(exchange::BODY_BYTES_MAX + 1)).await;
    assert_eq!(answer.code, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(api.ask(Some(api.admin()), padded(exchange::BODY_BYTES_MAX)).await.code, StatusCode::CREATED);
}

fn chunked_head() -> String {
    format!(
        "POST {BACKENDS} HTTP/1.1\r\nhost: api\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
}

fn chunk() -> String {
    format!("10000\r\n{}\r\n", " ".repeat(0x10000))
}

#[tokio::test]
async fn a_long_body_of_unknown_length_is_refused_with_an_answer() {
    let api = served().await;
    let mut stream = api.connect(Some(api.admin()), "http/1.1").await;
    stream.write_all(chunked_head().as_bytes()).await.unwrap();
    for _ in 0..80 {
        stream.write_all(chunk().as_bytes()).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let api = served().await;
    let mut stream = api.connect(Some(api.admin()), "http/1.1").await;
    stream.write_all(chunked_head().as_bytes()).await.unwrap();
    let mut sent = 0;
    while stream.write_all(chunk().as_bytes()).await.is_ok() {
        sent += 0x10000;
        assert!(sent < 64 << 20, "still reading");
    }
    assert_eq!(api.get(BACKENDS).await.code, StatusCode::OK, "others notice nothing");
}

#[tokio::test]
async fn path_tricks_reach_nothing() {
    let api = served().await;
    api.post(BACKENDS, backend("b", "192.0.2.1")).await;
    for path in [
        format!("/{BACKENDS}/b"),
        format!("{BACKENDS}/./b"),
        format!("{BACKENDS}/x/../b"),
        format!("{BACKENDS}/%62"),
        format!("{BACKENDS}%2fb"),
        format!("{BACKENDS}/b;x"),
        format!("{BACKENDS}/B"),
    ] {
        let answer = api.get(&path).await;
        assert_eq!((answer.code, &answer.body["reason"]), (StatusCode::NOT_FOUND, &json!("NotFound")), "{path}");
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_are_told_to_come_back() {
    let api = served().await;
    let (mut senders, mut connections) = (Vec::new(), JoinSet::new());
    for _ in 0..=IN_FLIGHT_MAX / STREAMS_MAX as usize {
        let stream = TokioIo::new(api.connect(Some(api.admin()), "h2").await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        connections.spawn(connection);
        senders.push(sender);
    }
    let (mut bodies, mut answers) = (Vec::new(), JoinSet::new());
    for n in 0..=IN_FLIGHT_MAX {
        let (body, stalled) = stalled_body();
        bodies.push(body);
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://api{BACKENDS}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(stalled)
            .unwrap();
        let mut sender = senders[n / STREAMS_MAX as usize].clone();
        sender.ready().await.unwrap();
        answers.spawn(async move { read(sender.send_request(request).await.unwrap()).await });
    }
    let turned_away = answers.join_next().await.unwrap().unwrap();
    assert_eq!(turned_away.code, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(turned_away.headers[header::RETRY_AFTER], "1");
    drop(bodies);
    while let Some(answer) = answers.join_next().await {
        assert_eq!(answer.unwrap().code, StatusCode::BAD_REQUEST, "its body ended early");
    }
    drop(senders);
    while let Some(ended) = connections.join_next().await {
        let _ = ended.unwrap();
    }
}

/// A body that says nothing until its other end is dropped.
fn stalled_body() -> (tokio::sync::mpsc::Sender<Bytes>, Stalled) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    (sender, Stalled(receiver))
}

struct Stalled(tokio::sync::mpsc::Receiver<Bytes>);

impl hyper::body::Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}

#[tokio::test]
async fn discovery_leads_to_every_list() {
    let api = served().await;
    let groups = api.get("/apis").await.body;
    let mut lists = 0;
    for group in groups["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            let api_version = version["groupVersion"].as_str().unwrap();
            let resources = api.get(&format!("/apis/{api_version}")).await.body;
            for resource in resources["resources"].as_array().unwrap() {
                let name = resource["name"].as_str().unwrap();
                if !resource["verbs"].as_array().unwrap().contains(&json!("list")) {
                    continue;
                }
                let list = api.get(&format!("/apis/{api_version}/{name}")).await;
                assert_eq!(list.code, StatusCode::OK, "{api_version} {name}");
                assert_eq!(list.body["apiVersion"], api_version);
                lists += 1;
            }
        }
    }
    let kinds = underpass_shared::resource::kind::KINDS.iter();
    let served = kinds.flat_map(|info| info.api_versions).filter(|version| version.contains('/'));
    assert_eq!(lists, served.count());
    assert_eq!(api.get("/api").await.body["kind"], "APIVersions");
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight_and_takes_nothing_new() {
    let api = served().await;
    let mut stream = api.connect(Some(api.admin()), "http/1.1").await;
    let body = backend("late", "192.0.2.1").to_string();
    let head = format!(
        "POST {BACKENDS} HTTP/1.1\r\nhost: api\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");

    api.shutdown.cancel();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
    api.serving.await.unwrap();
    assert!(TcpStream::connect(api.address).await.is_err());
}
