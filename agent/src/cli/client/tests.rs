use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use underpass_shared::resource::kind::Kind;

use super::*;
use crate::cli::{
    Outcome,
    kubeconfig::{self, Places},
    testing::{Authority, Relay},
};

async fn error(relay: &Relay) -> String {
    let run = relay.run("get tunnelnodes", "").await;
    assert_eq!((run.outcome, run.out.as_str()), (Outcome::Failed, ""));
    run.err
}

fn kubeconfig(relay: &Relay, server: &str) -> String {
    relay.write_kubeconfig(&relay.authority, &relay.authority, server).display().to_string()
}

#[tokio::test]
async fn nobody_listening_is_said_with_address_and_file() {
    let relay = Relay::start().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let file = kubeconfig(&relay, &format!("https://{free}"));
    assert_eq!(
        error(&relay).await,
        format!(
            "error: cannot reach the relay's API: connection refused (is the relay running? tried https://{free} from {file})\n"
        )
    );
}

#[tokio::test]
async fn a_relay_of_another_authority_is_not_trusted() {
    let relay = Relay::start().await;
    relay.write_kubeconfig(&Authority::new(), &relay.authority, &format!("https://{}", relay.address));
    assert!(error(&relay).await.contains("the relay's certificate is not of the CA in this kubeconfig"));
    assert_eq!(relay.requests(), [] as [String; 0]);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_with_its_names() {
    let relay = Relay::start_as(&["relay.example.com"]).await;
    let text = error(&relay).await;
    assert!(text.contains("the relay's certificate is not for 127.0.0.1, but for"), "{text}");
    assert!(text.contains("relay.example.com"), "{text}");
}

#[tokio::test]
async fn a_refused_client_certificate_is_said_to_be_so() {
    let relay = Relay::start().await;
    relay.write_kubeconfig(&relay.authority, &Authority::new(), &format!("https://{}", relay.address));
    let text = error(&relay).await;
    assert!(text.contains("the relay does not accept this kubeconfig's client certificate"), "{text}");
}

#[tokio::test]
async fn what_is_no_tls_or_no_api_is_named() {
    let relay = Relay::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    kubeconfig(&relay, &format!("https://{}", listener.local_addr().unwrap()));
    let web = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_buf(&mut Vec::with_capacity(16 << 10)).await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        listener.accept().await.unwrap();
    });
    assert!(error(&relay).await.contains("it does not speak TLS: is this the relay's API port?"));
    let text = error(&relay).await;
    assert!(text.contains("the connection ended during the TLS handshake"), "{text}");
    web.await.unwrap();

    kubeconfig(&relay, &format!("https://{}", relay.address));
    let list = "/apis/core.apoxy.dev/v1alpha/tunnelnodes";
    relay.refuse("GET", list, StatusCode::BAD_GATEWAY, &serde_json::json!("<html>\u{1b}[2J"));
    assert_eq!(
        error(&relay).await,
        format!(
            "error: https://{} answered 502 Bad Gateway with something that is not of the relay's API: \"<html>\\u001b[2J\"\n",
            relay.address
        )
    );
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_read_to_its_end() {
    let relay = Relay::start().await;
    let list = "/apis/core.apoxy.dev/v1alpha/tunnelnodes";
    relay.answer("GET", list, &Value::String("x".repeat(ANSWER_BYTES_MAX)));
    assert_eq!(error(&relay).await, "error: the relay's answer is longer than 64 MiB\n");
}

#[tokio::test]
async fn paths_carry_prefix_project_and_namespace() {
    let relay = Relay::start().await;
    kubeconfig(&relay, &format!("https://{}/behind/projects/acme", relay.address));
    relay.run("get projects", "").await;
    relay.run("get gateways", "").await;
    relay.run("get gateways -A --project other", "").await;
    relay.run("get tn a/../b?c#d", "").await;
    assert_eq!(
        relay.requests(),
        [
            "GET /behind/apis/core.apoxy.dev/v1alpha2/projects",
            "GET /behind/projects/acme/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways",
            "GET /behind/projects/other/apis/gateway.networking.k8s.io/v1/gateways",
            "GET /behind/projects/acme/apis/core.apoxy.dev/v1alpha/tunnelnodes/a%2F..%2Fb%3Fc%23d",
        ]
    );
}

fn client(relay: &Relay) -> (Client, String) {
    let file = kubeconfig(relay, &format!("https://{}", relay.address));
    let config = kubeconfig::load(&Places::new(Some(file.as_ref()))).unwrap();
    let client = Client::new(&config, None).unwrap();
    let info = Kind::TunnelNode.info();
    let path = client.path(info, info.api_versions[0], None, None);
    (client, path)
}

#[tokio::test]
async fn a_relay_that_does_not_answer_is_not_waited_for_forever() {
    let relay = Relay::start().await;
    let (mut silent, path) = client(&relay);
    silent.get(&path).await.unwrap();
    relay.fall_silent();
    tokio::time::pause();
    let text = silent.get(&path).await.unwrap_err().to_string();
    assert_eq!(text, format!("the relay at https://{} did not answer within 60 s", relay.address));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    kubeconfig(&relay, &format!("https://{}", listener.local_addr().unwrap()));
    assert!(error(&relay).await.contains("cannot reach the relay's API: no answer within 10 s"));
}

#[tokio::test]
async fn a_closed_connection_is_made_anew() {
    let relay = Relay::start().await;
    let (mut client, path) = client(&relay);
    client.get(&path).await.unwrap();
    client.connection.as_ref().unwrap().driver.abort();
    while !client.connection.as_ref().unwrap().driver.is_finished() {
        tokio::task::yield_now().await;
    }
    client.get(&path).await.unwrap();
    assert_eq!(relay.requests().len(), 2);
}

#[test]
fn warnings_are_unquoted() {
    for (header, want) in [
        ("299 - \"a \\\"b\\\"\"", Some("a \"b\"")),
        ("299 relay \"text\" \"date\"", Some("text\" \"date")),
        ("299 - \"cut", Some("cut")),
        ("nothing quoted", None),
    ] {
        assert_eq!(warning_text(&HeaderValue::from_static(header)).as_deref(), want);
    }
}

proptest! {
    #[test]
    fn escaped_names_are_one_segment(name in "\\PC{0,20}") {
        let path = format!("/apis/{}", escape(&name));
        let uri: http::Uri = path.parse().unwrap();
        prop_assert_eq!(uri.path(), path.as_str());
        prop_assert_eq!(uri.path().matches('/').count(), 2);
        prop_assert!(!uri.path().ends_with("/.."), "{}", path);
    }
}

#[tokio::test]
async fn a_token_is_sent_with_every_request() {
    let relay = Relay::start().await;
    let file = kubeconfig(&relay, &format!("https://{}", relay.address));
    let text = std::fs::read_to_string(&file).unwrap().replace("\"user\":{", "\"user\":{\"token\":\"t.o-k\",");
    std::fs::write(&file, text).unwrap();
    let config = kubeconfig::load(&Places::new(Some(file.as_ref()))).unwrap();
    let mut client = Client::new(&config, None).unwrap();
    client.get("/version").await.unwrap_err();
    assert_eq!(relay.authorization().as_deref(), Some("Bearer t.o-k"));
    assert!(!format!("{client:?}").contains("t.o-k"));
}

#[tokio::test]
async fn the_core_group_has_its_own_root() {
    let relay = Relay::start().await;
    let (client, _) = client(&relay);
    assert_eq!(client.path(Kind::Secret.info(), "v1", Some("shop"), Some("x")), "/api/v1/namespaces/shop/secrets/x");
    assert_eq!(client.path(Kind::Namespace.info(), "v1", Some("shop"), None), "/api/v1/namespaces");
}

#[tokio::test]
async fn a_relay_that_asks_to_come_back_later_is_asked_again_a_few_times() {
    let relay = Relay::start().await;
    let (mut client, path) = client(&relay);
    let busy = serde_json::json!({"kind": "Status", "reason": "TooManyRequests", "message": "too many requests"});
    relay.refuse_times(2, "GET", &path, StatusCode::TOO_MANY_REQUESTS, &busy);
    client.get(&path).await.unwrap();
    assert_eq!(relay.requests().len(), 3);
    relay.refuse("GET", &path, StatusCode::TOO_MANY_REQUESTS, &busy);
    assert_eq!(client.get(&path).await.unwrap_err().to_string(), "too many requests");
    assert_eq!(relay.requests().len(), 3 + 1 + 5);
}

#[test]
fn waits_that_the_relay_asks_for_are_bounded() {
    let pause = |status: u16, value: Option<&'static str>| {
        let mut response = http::Response::builder().status(status);
        if let Some(value) = value {
            response = response.header("retry-after", value);
        }
        retry_after(&response.body(()).unwrap().into_parts().0).map(|pause| pause.as_secs())
    };
    assert_eq!(pause(429, Some("7")), Some(7));
    assert_eq!(pause(429, None), Some(1));
    assert_eq!(pause(429, Some("Fri, 31 Dec 1999 23:59:59 GMT")), Some(1));
    assert_eq!(pause(429, Some("99999999")), Some(30));
    assert_eq!(pause(503, Some("2")), Some(2));
    assert_eq!(pause(503, None), None);
    assert_eq!(pause(500, Some("2")), None);
}

#[tokio::test]
async fn each_warning_is_shown_once() {
    let relay = Relay::start().await;
    let (mut client, path) = client(&relay);
    relay.warn("old");
    client.get(&path).await.unwrap();
    client.get(&path).await.unwrap();
    assert_eq!(client.take_warnings(), ["old"]);
    client.get(&path).await.unwrap();
    assert_eq!(client.take_warnings(), [] as [String; 0]);
    client.get(&path).await.unwrap();
    assert_eq!(client.take_warnings_about("a"), ["a: old"]);
}

fn node(name: &str) -> Value {
    serde_json::json!({"kind": "TunnelNode", "metadata": {"name": name}})
}

fn names(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let relay = Relay::start().await;
    let (mut client, path) = client(&relay);
    (0..1_001).for_each(|number| relay.put(&format!("{path}/n{number:04}"), &node(&format!("n{number:04}"))));
    let list = client.list(&path, &[("labelSelector", "")]).await.unwrap();
    assert_eq!((list.items.len(), names(&list.items)[1_000], list.revision.as_str()), (1_001, "n1000", "1001"));
    let queries: Vec<String> =
        relay.targets().iter().map(|target| target.split_once('?').unwrap().1.to_owned()).collect();
    let page = "labelSelector=&limit=500";
    assert_eq!(queries, [page.to_owned(), format!("{page}&continue=500"), format!("{page}&continue=1000")]);

    relay.forget();
    assert_eq!(client.list(&path, &[]).await.unwrap().items.len(), 1_001, "no page is missing or twice");
    assert_eq!(relay.targets().last().unwrap(), &format!("GET {path}"));
}

#[tokio::test]
async fn a_follower_hears_of_every_change_through_ended_and_forgotten_watches() {
    let relay = Relay::start().await;
    let (mut client, path) = client(&relay);
    let at = |name: &str| format!("{path}/{name}");
    relay.put(&at("a"), &node("a"));
    let mut follow = client.follow(&path, &[("fieldSelector", "metadata.name=a")]);
    let News::Listed(items) = follow.next().await.unwrap() else { panic!("the list comes first") };
    assert_eq!(names(&items), ["a"]);
    relay.put(&at("b"), &node("b"));
    relay.put(&at("a"), &node("a"));
    assert!(
        matches!(follow.next().await.unwrap(), News::Modified(object) if object["metadata"]["resourceVersion"] == "3")
    );

    relay.tell(r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"4"}}}"#);
    let (news, ()) = tokio::join!(follow.next(), async {
        relay.end_watches();
        relay.watched(2).await;
        relay.remove(&at("a"));
    });
    assert!(matches!(news.unwrap(), News::Deleted(_)));
    assert!(relay.targets().iter().any(|target| target.contains("watch=true") && target.contains("resourceVersion=4")));

    relay.put(&at("a"), &node("a"));
    relay.forget();
    relay.end_watches();
    let News::Listed(items) = follow.next().await.unwrap() else { panic!("a forgotten revision is listed anew") };
    assert_eq!(names(&items), ["a"]);
}

#[tokio::test]
async fn a_watch_that_fails_is_made_anew_and_a_refused_one_is_reported() {
    let relay = Relay::start().await;
    let (mut client, path) = client(&relay);
    let mut follow = client.follow(&path, &[]);
    follow.next().await.unwrap();
    let status = |code: u16| serde_json::json!({"kind": "Status", "code": code, "message": "no"});
    relay.refuse_times(1, "GET", &path, StatusCode::INTERNAL_SERVER_ERROR, &status(500));
    relay.put(&format!("{path}/a"), &node("a"));
    assert!(matches!(follow.next().await.unwrap(), News::Added(_)));
    relay.tell(r#"{"type":"ERROR","object":{"kind":"Status","code":403,"message":"not yours"}}"#);
    assert!(follow.next().await.unwrap_err().to_string().starts_with("not yours"));
}

#[tokio::test]
async fn watches_are_bounded_and_checked() {
    let relay = Relay::start().await;
    let (mut client, path) = client(&relay);
    relay.tell("what is this");
    let mut watch = client.watch(&path, &[], "0").await.unwrap();
    assert!(watch.next().await.unwrap_err().to_string().contains("not of the relay's API: what is this"));
    relay.tell(&"x".repeat(watch::LINE_BYTES_MAX + 1));
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.to_string(), "a line of the relay's watch is longer than 4 MiB");
    let mut ended = client.watch(&path, &[], "99").await.unwrap();
    relay.end_watches();
    assert_eq!(ended.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_follower_is_a_stream() {
    use futures_util::StreamExt as _;
    let relay = Relay::start().await;
    let (mut client, path) = client(&relay);
    let mut news = std::pin::pin!(client.follow(&path, &[]).into_stream());
    assert_eq!(news.next().await.unwrap().unwrap(), News::Listed(Vec::new()));
    relay.tell(r#"{"type":"ERROR","object":{"kind":"Status","code":401,"message":"who are you"}}"#);
    assert!(news.next().await.unwrap().is_err());
    assert!(news.next().await.is_none());
}

proptest! {
    #[test]
    fn lines_do_not_depend_on_how_bytes_arrive(
        text in "[a-c \n]{0,60}",
        cuts in prop::collection::vec(0_usize..60, 0..8),
    ) {
        let want: Vec<&str> = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
            .filter(|line| !line.trim().is_empty()).collect();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let (mut lines, mut found) = (watch::Lines::default(), Vec::new());
        for pair in cuts.windows(2) {
            lines.push(&text.as_bytes()[pair[0]..pair[1]]);
            while let Some(line) = lines.next().unwrap() {
                found.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        prop_assert_eq!(found, want);
    }
}
