//! `sessionPersistence`, as its user meets it: who was served stays where they were, behind agents too.

use http::{HeaderName, HeaderValue, Method, header};
use serde_json::json;
use underpass_tests::{
    agent::{Agent, Settings},
    client::{Answer, Connection, empty, whole},
    eventually::eventually,
    manifest::{self, Target},
    office::Office,
    relay::Relay,
    upstream::Upstream,
};

const HOST: &str = "sticky.example.com";

/// Requests in a row that would not all come to one of two by chance, but by 1 in 2^32.
const IN_A_ROW: usize = 32;

/// What a client sends to stay where it is.
type Token = (HeaderName, HeaderValue);

async fn get(relay: &Relay, token: Option<&Token>) -> Answer {
    let mut connection = Connection::http1(relay.addresses.http).await.unwrap();
    let mut request = connection.request(Method::GET, HOST, "/name", empty());
    request.headers_mut().extend(token.cloned());
    whole(connection.begin(request).await.unwrap()).await.unwrap()
}

/// The cookie that the answer sets, as a client sends it back.
fn cookie(answer: &Answer) -> Option<Token> {
    let set = answer.headers.get(header::SET_COOKIE)?.to_str().unwrap();
    Some((header::COOKIE, set.split(';').next().unwrap().parse().unwrap()))
}

/// A route to Backends of the office's node at these ports, with these weights.
fn route(persistence: &serde_json::Value, backends: &[(u16, u32)]) -> String {
    let reference = |(port, weight): &(u16, u32)| json!({"group": "core.apoxy.dev", "kind": "Backend", "name": "app", "port": port, "weight": weight});
    let backends: Vec<_> = backends.iter().map(reference).collect();
    let rule = json!({"sessionPersistence": persistence, "backendRefs": backends});
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "sticky", "namespace": "default"},
        "spec": {"parentRefs": [{"name": "default"}], "hostnames": [HOST], "rules": [rule]},
    });
    route.to_string()
}

/// Waits until `IN_A_ROW` clients that are new are all served by `name`.
async fn new_clients_come_to(relay: &Relay, name: &str) {
    eventually(&format!("new clients come to {name}"), async || {
        for _ in 0..IN_A_ROW {
            let answer = get(relay, None).await;
            if answer.text() != name {
                return Err(format!("{} {}", answer.status, answer.text()));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_client_stays_with_its_backend_whatever_the_weights_are_now_and_over_a_restart() {
    let mut office = Office::open().await;
    let branch = Upstream::start("branch").await;
    let [one, two] = [office.upstream.port(), branch.port()];
    let by_cookie = json!({"sessionName": "sticky"});
    office.relay.cli().apply(&route(&by_cookie, &[(one, 1), (two, 0)])).await;
    new_clients_come_to(&office.relay, "office").await;
    let first = get(&office.relay, None).await;
    let token = cookie(&first).unwrap();
    assert!(token.1.to_str().unwrap().starts_with("sticky="), "{token:?}");

    office.relay.cli().apply(&route(&by_cookie, &[(one, 0), (two, 1)])).await;
    new_clients_come_to(&office.relay, "branch").await;
    for _ in 0..IN_A_ROW {
        let answer = get(&office.relay, Some(&token)).await;
        assert_eq!((answer.text(), cookie(&answer)), ("office".to_owned(), None));
    }
    office.relay.stop().await;
    office.relay.start_again().await;
    office.serves(underpass_tests::office::HOST, "office").await;
    assert_eq!(get(&office.relay, Some(&token)).await.text(), "office");

    // Its backend is gone: the session goes on elsewhere.
    office.relay.cli().apply(&route(&by_cookie, &[(two, 1)])).await;
    let moved = eventually("the session is moved", async || {
        let answer = get(&office.relay, Some(&token)).await;
        cookie(&answer).filter(|_| answer.text() == "branch").ok_or_else(|| answer.text())
    })
    .await;
    assert_eq!(cookie(&get(&office.relay, Some(&moved)).await), None);
}

#[tokio::test]
async fn a_header_says_a_session_as_well_and_one_that_was_made_up_says_nothing() {
    let office = Office::open().await;
    let branch = Upstream::start("branch").await;
    let backends = [(office.upstream.port(), 1), (branch.port(), 1)];
    let by_header = json!({"sessionName": "X-Session", "type": "Header", "absoluteTimeout": "1h"});
    office.relay.cli().apply(&route(&by_header, &backends)).await;
    let name = HeaderName::from_static("x-session");
    let (first, token) = eventually("the route is there", async || {
        let answer = get(&office.relay, None).await;
        let token = answer.headers.get(&name).cloned();
        token.map(|token| (answer.text(), (name.clone(), token))).ok_or_else(|| answer.text())
    })
    .await;
    for _ in 0..IN_A_ROW {
        let answer = get(&office.relay, Some(&token)).await;
        assert_eq!((answer.text(), answer.headers.get(&name)), (first.clone(), None));
    }
    let made_up = (name.clone(), HeaderValue::from_static("b2ZmaWNlIDgwODA"));
    assert!(get(&office.relay, Some(&made_up)).await.headers.contains_key(&name), "a new session");
}

#[tokio::test]
async fn a_client_stays_with_the_agent_that_served_it() {
    let office = Office::open().await;
    let port = office.upstream.port();
    // The node's second agent does not offer the service, and so shows who came to it.
    let settings = Settings::node("office").flags(&["--publish", "1"]);
    let (mut other, _) = Agent::enrol(&office.relay, settings).await;
    office.relay.cli().apply(&route(&json!({}), &[(port, 1)])).await;
    let token = eventually("both agents are asked, and one answers", async || {
        let answers = futures_util::future::join_all((0..IN_A_ROW).map(|_| get(&office.relay, None))).await;
        let is_refused = answers.iter().any(|answer| answer.status == 502);
        answers.iter().find_map(cookie).filter(|_| is_refused).ok_or("one of the two")
    })
    .await;
    for _ in 0..IN_A_ROW {
        assert_eq!(get(&office.relay, Some(&token)).await.text(), "office");
    }
    // It goes, and with it what it served: the session is with one that is there.
    let mut agent = office.agent;
    agent.stop().await;
    eventually("the session is moved", async || {
        let answer = get(&office.relay, Some(&token)).await;
        if answer.status == 502 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
    })
    .await;
    other.stop().await;
}

#[tokio::test]
async fn sessions_of_one_route_are_not_those_of_another() {
    let office = Office::open().await;
    let target = Target { node: "office", port: office.upstream.port(), protocol: "" };
    office.relay.cli().apply(&manifest::service("plain", "plain.example.com", target)).await;
    office.relay.cli().apply(&route(&json!({"sessionName": "sticky"}), &[(target.port, 1)])).await;
    new_clients_come_to(&office.relay, "office").await;
    assert!(cookie(&get(&office.relay, None).await).is_some());
    office.serves("plain.example.com", "office").await;
    let plain = underpass_tests::client::get(office.relay.addresses.http, "plain.example.com", "/name").await.unwrap();
    assert_eq!(cookie(&plain), None, "a route without sessions makes none");
}
