//! HTTP/3 with clients that we did not write: aioquic, and curl where it has HTTP/3.

use std::process::Stdio;

use tokio::process::Command;
use underpass_tests::{
    client::Connection,
    eventually::{PATIENCE, within},
    office::{HOST, Office},
    python,
};

/// Exchanges that aioquic does, each of which it says went well.
const EXCHANGES: usize = 8;

#[tokio::test]
async fn aioquic_is_served_over_http3() {
    let office = Office::open().await;
    let https = office.relay.addresses.https;
    let arguments = [&https.ip().to_string(), &https.port().to_string(), HOST];
    let text = python::run("http3.py", "http3-requirements.txt", &arguments).await;
    assert_eq!(text.lines().filter(|line| line.ends_with(": well")).count(), EXCHANGES, "{text}");
    office.upstream.holds(0).await;
}

#[tokio::test]
async fn clients_over_tcp_are_told_of_http3() {
    let office = Office::open().await;
    let (mut connection, _) = Connection::tls(office.relay.addresses.https, HOST, &["h2"]).await.unwrap();
    let answer = connection.get(HOST, "/name").await.unwrap();
    assert_eq!(answer.headers["alt-svc"], "h3=\":443\"; ma=86400", "the port that clients know, wherever it is bound");
    let answer = office.get("/name").await;
    assert!(!answer.headers.contains_key("alt-svc"), "in the clear there is no HTTP/3");
}

#[tokio::test]
async fn curl_is_served_over_http3() {
    let version = Command::new("curl").arg("--version").output().await.unwrap();
    if !String::from_utf8_lossy(&version.stdout).contains("HTTP3") {
        println!("this curl has no HTTP/3: nothing is shown here");
        return;
    }
    let office = Office::open().await;
    let https = office.relay.addresses.https;
    let (url, to) =
        (format!("https://{HOST}:{}/name", https.port()), format!("{HOST}:{}:{}", https.port(), https.ip()));
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--insecure", "--http3-only", "--write-out", " %{http_version}"]);
    curl.args(["--resolve", &to, &url]).stdin(Stdio::null()).kill_on_drop(true);
    let output = within(PATIENCE, "curl ends", curl.output()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "office 3", "{}", String::from_utf8_lossy(&output.stderr));
}
