//! A route that keeps `/admin` to itself, and every spelling that is known to get past such a rule: each is denied, is
//! refused, or reaches the backend as a path that no server reads as one below `/admin`.

use underpass_tests::{
    client,
    front::{Front, HOST},
    h2_wire::{End, Peer, get},
    recorder::{Recorder, Request, Seen},
};

/// What comes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// The rule for `/admin` took it.
    Denied,
    /// No rule was asked.
    Refused,
    /// It reached the backend, spelt so.
    Through(&'static str),
}
use Comes::{Denied, Refused, Through};

const PATHS: &[(&str, Comes)] = &[
    ("/admin", Denied),
    ("/admin/", Denied),
    ("/admin/users?x=/public", Denied),
    ("/./admin", Denied),
    ("/public/../admin", Denied),
    ("/../../admin", Denied),
    ("//admin", Denied),
    ("///./admin//users", Denied),
    ("/%61dmin", Denied),
    ("/%61%64%6D%69%6e/users", Denied),
    ("/%2e/admin", Denied),
    ("/public/%2e%2e/admin", Denied),
    ("/public/.%2E/admin", Denied),
    ("/public/%2E./admin", Denied),
    ("/public/./.././admin", Denied),
    ("/public%2F..%2Fadmin", Refused),
    ("/public/..%2fadmin", Refused),
    ("/public%2f%2e%2e%2fadmin", Refused),
    ("/public/..;/admin", Refused),
    ("/public/..;x=1/admin", Refused),
    ("/public/.;/admin", Refused),
    ("/;/admin", Refused),
    ("/;x=1/admin", Refused),
    ("/public/%2e%2e;/admin", Refused),
    ("/\\admin", Refused),
    ("/public\\..\\admin", Refused),
    ("/public/..%5cadmin", Refused),
    ("/%5Cadmin", Refused),
    ("/admin%00", Refused),
    ("/public/%00/../admin", Refused),
    ("/admin%0a", Refused),
    ("/admin%09", Refused),
    ("/%252e%252e/admin", Refused),
    ("/public/%252e%252e%252fadmin", Refused),
    ("/public/%%32%65%%32%65/admin", Refused),
    ("/public/%u002e%u002e/admin", Refused),
    ("/public/%c0%ae%c0%ae/admin", Refused),
    ("/public%c0%afadmin", Refused),
    ("/%c1%a1dmin", Refused),
    ("/public/%e0%80%ae%e0%80%ae/admin", Refused),
    ("/public/%f0%80%80%ae%f0%80%80%ae/admin", Refused),
    ("/admin%", Refused),
    ("/admin%2", Refused),
    ("/admin%zz", Refused),
    // Other paths, by every reading but of a server that decodes what it must not or minds no case.
    ("/ADMIN", Through("/ADMIN")),
    ("/administrators", Through("/administrators")),
    ("/admin;x", Through("/admin;x")),
    ("/%2fadmin", Through("/%2Fadmin")),
    ("/public%2Fadmin", Through("/public%2Fadmin")),
    ("/admin%20", Through("/admin%20")),
    ("/admin.", Through("/admin.")),
    ("/.admin", Through("/.admin")),
    ("/public/...", Through("/public/...")),
    ("/public?x=../admin", Through("/public?x=../admin")),
    ("/public?x=%2e%2e%2f%00", Through("/public?x=%2e%2e%2f%00")),
];

async fn scene() -> (Recorder, Front) {
    let recorder = Recorder::start().await;
    let front = Front::prepare(recorder.address()).await;
    let port = recorder.address().port();
    let manifest = format!(
        "apiVersion: extensions.apoxy.dev/v1alpha2\nkind: DirectResponse\nmetadata: {{name: denied}}\n\
         spec: {{statusCode: 403, body: {{type: Inline, inline: denied}}}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: front}}\n\
         spec:\n  parentRefs: [{{name: default}}]\n  hostnames: [{HOST}]\n  rules:\n  \
         - matches: [{{path: {{type: PathPrefix, value: /admin}}}}]\n    filters: [{{type: ExtensionRef, extensionRef: \
         {{group: extensions.apoxy.dev, kind: DirectResponse, name: denied}}}}]\n  \
         - backendRefs: [{{group: core.apoxy.dev, kind: Backend, name: front, port: {port}}}]\n"
    );
    front.relay.cli().apply(&manifest).await;
    front.serves().await;
    drop(recorder.take());
    (recorder, front)
}

fn judge(path: &str, status: u16, recorder: &Recorder) -> Comes {
    let seen = recorder.take();
    match (status, &seen[..]) {
        (403, []) => Denied,
        (400, []) => Refused,
        (200, [Seen::Request(Request { line, .. })]) => {
            let target = line.strip_prefix("GET ").unwrap_or_default();
            let known = PATHS.iter().find_map(|(_, comes)| match comes {
                Through(known) if *known == target => Some(*comes),
                Denied | Refused | Through(_) => None,
            });
            known.unwrap_or_else(|| panic!("{path} reached the backend as {target}"))
        }
        _ => panic!("{path}: {status}, and the backend saw {seen:?}"),
    }
}

#[tokio::test]
async fn no_spelling_gets_past_a_rule_over_http1() {
    let (recorder, front) = scene().await;
    for (path, wanted) in PATHS {
        let text = format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        let answer = client::raw(front.addresses().http, text.as_bytes()).await;
        let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
        assert_eq!(judge(path, status, &recorder), *wanted, "{path}: {answer}");
    }
}

#[tokio::test]
async fn no_spelling_gets_past_a_rule_over_http2() {
    let (recorder, front) = scene().await;
    for (path, wanted) in PATHS {
        let mut peer = Peer::open_tls(front.addresses().https, HOST).await;
        peer.ask(1, &get(HOST, path)).await;
        let status = match peer.end_of(1).await {
            End::Status(status) => status,
            // What is no path at all, to the library.
            End::Stream(_) => 400,
            end => panic!("{path}: {end:?}"),
        };
        assert_eq!(judge(path, status, &recorder), *wanted, "{path}");
    }
}
