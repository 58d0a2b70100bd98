//! Clients that we did not write: curl and nghttp, so that a mistake our two ends share still shows.

use std::process::Stdio;

use tokio::process::Command;
use underpass_tests::{
    eventually::{PATIENCE, within},
    office::{HOST, Office},
};

/// Runs a program of a Debian package to its end; gives what it printed, on both outputs.
async fn run(program: &str, package: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = within(PATIENCE, &format!("{program} ends"), command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: install the package {package}"));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{program} {arguments:?} works: {text}");
    text
}

#[tokio::test]
async fn curl_fetches_in_every_version_it_knows() {
    let office = Office::open_with("h2c", &[]).await;
    let (http, https) = (office.relay.addresses.http.port(), office.relay.addresses.https.port());
    let (plain, tls) = (format!("http://{HOST}:{http}/head"), format!("https://{HOST}:{https}/head"));
    let here = [format!("{HOST}:{http}:127.0.0.1"), format!("{HOST}:{https}:127.0.0.1")];
    for (version, url, shown) in [
        ("--http1.1", &plain, "1.1"),
        ("--http2-prior-knowledge", &plain, "2"),
        ("--http1.1", &tls, "1.1"),
        ("--http2", &tls, "2"),
    ] {
        let resolve = ["--resolve", &here[0], "--resolve", &here[1]];
        let arguments = [version, "-sS", "--insecure", "-w", "\nversion %{http_version}", url];
        let text = run("curl", "curl", &[&resolve[..], &arguments].concat()).await;
        assert!(text.starts_with("GET ") && text.ends_with(&format!("version {shown}")), "{version} {url}: {text}");
    }
}

#[tokio::test]
async fn nghttp_sees_the_trailers() {
    let office = Office::open_with("h2c", &[]).await;
    let url = format!("http://127.0.0.1:{}/trailers", office.relay.addresses.http.port());
    let text = run("nghttp", "nghttp2-client", &["-v", "--no-dep", "-H", &format!(":authority: {HOST}"), &url]).await;
    assert!(text.contains("a body") && text.contains("grpc-status: 0"), "{text}");
}

#[tokio::test]
async fn h2load_sees_every_request_of_many_connections_answered() {
    let office = Office::open_with("h2c", &[]).await;
    for (scheme, address) in [("http", office.relay.addresses.http), ("https", office.relay.addresses.https)] {
        let (url, to) = (format!("{scheme}://{HOST}:{}/name", address.port()), format!("--connect-to={address}"));
        let text = run("h2load", "nghttp2-client", &["-n", "2000", "-c", "4", "-m", "50", &to, &url]).await;
        let all = "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(text.contains(all) && text.contains("2000 2xx"), "{text}");
    }
}
