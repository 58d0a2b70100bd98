//! What the tunnel port says to strangers: peers that speak QUIC and HTTP/3 and have no certificate.

use bytes::{Buf, Bytes};
use http::{Method, Request, StatusCode, header};
use underpass_shared::{
    enrolment::{ENROL_PATH, EnrolRequest, EnrolmentToken, RENEW_PATH, Refusal, RefusalReason},
    quic::{
        endpoint,
        http3::{self, Requests},
        tls::{self, SERVER_NAME, Trust},
    },
};
use underpass_tests::{
    eventually::{PATIENCE, within},
    office::{HOST, Office, serves},
};

/// A connection without a certificate, and its requests.
struct Stranger {
    requests: Requests,
    _connection: quinn::Connection,
}

impl Stranger {
    async fn dial(office: &Office) -> Self {
        let token: EnrolmentToken = office.relay.cli().token("office").await.parse().unwrap();
        let config = endpoint::client_config(tls::client(Trust::Pinned(token.ca), None).unwrap()).unwrap();
        let relay = token.relays[0].parse().unwrap();
        let connection = endpoint::connect(&endpoint::dialler().unwrap(), config, relay).await.unwrap();
        let (mut driver, requests) = http3::connect(connection.clone()).await.unwrap();
        tokio::spawn(async move { driver.wait_idle().await });
        http3::extended_connect_offered(&requests).await.unwrap();
        Self { requests, _connection: connection }
    }

    async fn ask(&self, request: Request<()>, body: &str) -> (StatusCode, Vec<u8>) {
        let exchange = async {
            let mut stream = self.requests.clone().send_request(request).await.unwrap();
            // Whoever has heard enough reads no more; the answer says why.
            if stream.send_data(Bytes::from(body.to_owned())).await.is_ok() {
                let _ = stream.finish().await;
            }
            let status = stream.recv_response().await.unwrap().status();
            let mut said = Vec::new();
            while let Some(mut data) = stream.recv_data().await.unwrap() {
                said.extend_from_slice(&data.copy_to_bytes(data.remaining()));
            }
            (status, said)
        };
        within(PATIENCE, "the tunnel port answers", exchange).await
    }

    async fn refused(&self, request: Request<()>, body: &str) -> (StatusCode, RefusalReason) {
        let (status, said) = self.ask(request, body).await;
        let refusal: Refusal = serde_json::from_slice(&said).expect("a refusal says why");
        assert!(!refusal.message.is_empty());
        (status, refusal.reason)
    }
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("https://{SERVER_NAME}{path}")).body(()).unwrap()
}

fn wanted() -> String {
    let request = EnrolRequest {
        project: "default".parse().unwrap(),
        node: "office".parse().unwrap(),
        agent: "a-stranger".parse().unwrap(),
        csr: String::new(),
    };
    serde_json::to_string(&request).unwrap()
}

#[tokio::test]
async fn a_stranger_gets_no_session_no_certificate_and_no_way_through() {
    let office = Office::open().await;
    let stranger = Stranger::dial(&office).await;

    let session = stranger.refused(http3::connect_ip_request(), "").await;
    assert_eq!(session, (StatusCode::UNAUTHORIZED, RefusalReason::Unauthenticated));

    let renewal = stranger.refused(post(RENEW_PATH), &wanted()).await;
    assert_eq!(renewal, (StatusCode::UNAUTHORIZED, RefusalReason::Unauthenticated));

    let without_token = stranger.refused(post(ENROL_PATH), &wanted()).await;
    assert_eq!(without_token, (StatusCode::UNAUTHORIZED, RefusalReason::UnknownToken));

    let mut guessed = post(ENROL_PATH);
    guessed.headers_mut().insert(header::AUTHORIZATION, "Bearer guessed".parse().unwrap());
    assert_eq!(stranger.refused(guessed, &wanted()).await, (StatusCode::UNAUTHORIZED, RefusalReason::UnknownToken));

    let unreadable = stranger.refused(post(ENROL_PATH), "{\"node\": 1}").await;
    assert_eq!(unreadable, (StatusCode::BAD_REQUEST, RefusalReason::BadRequest));
    let endless = stranger.refused(post(ENROL_PATH), &"x".repeat(100_000)).await;
    assert_eq!(endless, (StatusCode::BAD_REQUEST, RefusalReason::BadRequest));

    // RFC 9110 §15.5.8: a proxy that wants to know who asks.
    let connect = Request::builder().method(Method::CONNECT).uri("example.com:443").body(()).unwrap();
    assert_eq!(stranger.ask(connect, "").await.0, StatusCode::PROXY_AUTHENTICATION_REQUIRED);
    let page = Request::get(format!("https://{SERVER_NAME}/")).body(()).unwrap();
    assert_eq!(stranger.ask(page, "").await.0, StatusCode::NOT_FOUND);

    serves(&office.relay, HOST, "office").await;
}
