//! A browser: Chromium without a screen, over HTTP/2 and over HTTP/3.

use std::process::Stdio;

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::process::Command;
use underpass_tests::{
    client::tls_stream,
    eventually::{PATIENCE, within},
    front::{Front, HOST},
    service::{Place, Service},
};

/// What the backend says: a page that fetches others and shows how it was itself fetched.
fn says(_: &str, path: &str) -> String {
    let script = "let got = 0; for (let at = 0; at < 5; at++) { const ask = new XMLHttpRequest(); \
         ask.open('GET', '/other/' + at, false); ask.send(); got += ask.responseText === 'other' ? 1 : 0; } \
         document.body.textContent = 'over ' + performance.getEntriesByType('navigation')[0].nextHopProtocol + ', ' + \
         got + ' more';";
    if path == "/page" { format!("<html><body></body><script>{script}</script></html>") } else { "other".to_owned() }
}

/// The SHA-256 of a certificate's key, as Chromium takes it: of its SubjectPublicKeyInfo (RFC 5280 §4.1).
fn key_hash(certificate: &[u8]) -> String {
    /// Cuts one DER element off: what it holds, the whole of it, and the rest.
    fn element(der: &[u8]) -> (&[u8], &[u8], &[u8]) {
        let (head, length) = match der[1] {
            short @ ..0x80 => (2, usize::from(short)),
            long => {
                let bytes = usize::from(long & 0x7f);
                (2 + bytes, der[2..2 + bytes].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
            }
        };
        (&der[head..head + length], &der[..head + length], &der[head + length..])
    }
    let mut rest = element(element(certificate).0).0;
    // Version, serial number, algorithm, issuer, validity and subject come before it.
    for _ in 0..6 {
        rest = element(rest).2;
    }
    BASE64_STANDARD.encode(digest::digest(&digest::SHA256, element(rest).1))
}

#[tokio::test]
async fn chromium_shows_a_page_over_http2_and_http3() {
    let place = Place { namespace: "default".to_owned(), name: "page".to_owned(), port: 80 };
    let service = Service::start(place, says).await;
    let front = Front::open(service.address()).await;
    let https = front.addresses().https;
    let tls = tls_stream(https, HOST, &["h2"]).await.unwrap();
    let hash = key_hash(&tls.get_ref().1.peer_certificates().unwrap()[0]);
    let origin = format!("{HOST}:{}", https.port());
    let quic = format!("--origin-to-force-quic-on={origin}");
    for (version, further) in [("h2", "--disable-quic"), ("h3", quic.as_str())] {
        let profile = tempfile::tempdir().unwrap();
        let mut chromium = Command::new("chromium");
        // The sandbox is not for root, who the tests may run as.
        chromium.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        chromium.args(["--disable-background-networking", "--disable-component-update", further]);
        chromium.arg(format!("--user-data-dir={}", profile.path().display())).env("HOME", profile.path());
        chromium.arg(format!("--ignore-certificate-errors-spki-list={hash}"));
        chromium.arg(format!("--host-resolver-rules=MAP {HOST} {}, MAP * ~NOTFOUND", https.ip()));
        chromium.args(["--dump-dom", &format!("https://{origin}/page")]).stdin(Stdio::null()).kill_on_drop(true);
        let output = within(PATIENCE, "chromium ends", chromium.output()).await;
        let output = output.unwrap_or_else(|error| panic!("chromium: {error}: install the package chromium"));
        let page = String::from_utf8_lossy(&output.stdout);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(page.contains(&format!("over {version}, 5 more")), "{page}\n{log}");
    }
}
