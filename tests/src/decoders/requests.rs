//! The decoders of a request around its body: its path, query, headers, and the body that client-go writes.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use serde_json::json;
use time::OffsetDateTime;
use underpass_relay::{
    access::token::Signer,
    api::decoders::{self, Named},
    store::{
        object::{Draft, Object, ObjectKey, Objects},
        state::{Fresh, State},
    },
};
use underpass_shared::{
    identity::ProjectName,
    resource::kind::{KINDS, Kind, Scope},
};

use super::assert_readable;

/// The longest sentence that a client is told, whatever it sent: about four of its own texts, each cut at 64 characters
/// and escaped.
const REFUSAL_BYTES_MAX: usize = 2048;
const TOKEN_KEY: [u8; 32] = [7; 32];
/// When the tokens are looked at: 2026-11-21, 12:00 UTC.
const NOW_SECONDS: i64 = 1_795_262_400;

/// A store of one account: `default/a`, with the uid that [`Fresh`] gives it.
static ACCOUNTS: LazyLock<Arc<Objects>> = LazyLock::new(|| {
    let key = ObjectKey::namespaced(&ProjectName::default(), Kind::ServiceAccount, "default", "a");
    state_of(key, json!({})).objects().clone()
});
/// What the field selectors choose from.
static OBJECTS: LazyLock<Vec<Arc<Object>>> = LazyLock::new(|| {
    let spec =
        json!({"protocol": "h2c", "nodeName": "n", "type": "ClusterIP", "zone": 1, "name": null, "provider": {}});
    let objects = KINDS.iter().map(|info| {
        let project = (info.scope != Scope::Deployment).then(ProjectName::default);
        let namespace = (info.scope == Scope::Namespaced).then(|| "default".to_owned());
        let key = ObjectKey { kind: info.kind, project, namespace, name: "a".to_owned() };
        state_of(key.clone(), spec.clone()).objects().get(&key).cloned().expect("it was created")
    });
    objects.collect()
});

fn state_of(key: ObjectKey, spec: serde_json::Value) -> State {
    let mut state = State::default();
    let mut fresh = Fresh::new(OffsetDateTime::UNIX_EPOCH, [1; 32]);
    state.create(Draft::of_spec(key, spec), &mut fresh).expect("an empty store has room for it");
    state
}

/// Label selectors: a whole, or two on two lines, which together choose what both choose.
pub fn label_selector(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (first, second) = text.split_once('\n').unwrap_or((text, "a"));
    let both = decoders::label_selector(&format!("{first},{second}"));
    let (first, second) = (decoders::label_selector(first), decoders::label_selector(second));
    if let Err(refusal) = decoders::label_selector(text) {
        assert_fit_to_print(&refusal);
    }
    let (Ok(first), Ok(second), Ok(both)) = (first, second, both) else { return };
    for labels in [&[][..], &[("a", "b")], &[("a", ""), ("c", "d")], &[("x.y/z", "1"), ("a", "c")]] {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let is_empty = text.split('\n').any(|part| part.trim().is_empty());
        assert!(is_empty || both(&labels) == (first(&labels) && second(&labels)), "{labels:?}");
    }
}

/// Field selectors, of every kind.
pub fn field_selector(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for object in OBJECTS.iter() {
        match decoders::field_selector(text, object.key.kind) {
            Ok(chooses) => drop(chooses(object)),
            Err(refusal) => assert_fit_to_print(&refusal),
        }
    }
}

/// Request paths: no path leads out of its project, and names are parts of it.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let named = match decoders::path(text) {
        Ok(named) => named,
        Err(refusal) => return assert_fit_to_print(&refusal),
    };
    let parts: Vec<&str> = text.split('/').collect();
    let own = if parts.get(1) == Some(&"projects") { parts[2] } else { "default" };
    let (kind, project, namespace) = match &named {
        Named::Document => return,
        Named::Collection { kind, project, namespace } => (*kind, project, namespace),
        Named::Object { key, subresource } => {
            assert!(parts.contains(&key.name.as_str()) && subresource.is_none_or(|name| parts.contains(&name)));
            assert!(
                key.kind.info().scope != Scope::Namespaced || key.namespace.is_some(),
                "an object without its place"
            );
            (key.kind, &key.project, &key.namespace)
        }
    };
    assert!(namespace.as_ref().is_none_or(|name| parts.contains(&name.as_str())));
    assert_eq!(project.is_none(), kind.info().scope == Scope::Deployment);
    assert!(project.as_ref().is_none_or(|project| project.as_str() == own), "{project:?} is not in {text}");
    assert_eq!(decoders::path(text.strip_suffix('/').unwrap_or(text)), Ok(named));
}

/// Queries: what is not known is never passed over.
pub fn query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for kind in [Kind::Pod, Kind::DomainRecord] {
        match decoders::query(text, kind) {
            Ok(()) => assert!(decoders::query(&format!("{text}&shoeSize=4"), kind).is_err()),
            Err(refusal) => assert_fit_to_print(&refusal),
        }
    }
}

/// The token of a list's next page.
pub fn continue_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(written) = decoders::continue_token(text) {
        assert_eq!(decoders::continue_token(&written).as_ref(), Some(&written), "read as it was written");
    }
}

/// Bodies in Kubernetes' protocol buffers.
pub fn protobuf(bytes: &[u8]) {
    match decoders::protobuf(bytes) {
        Ok(object) => {
            assert!(object.get("kind").is_some_and(serde_json::Value::is_string));
            assert_readable(&object);
        }
        Err(refusal) => assert_fit_to_print(&refusal),
    }
}

/// `Accept` on the first line, `Content-Type` on the second.
pub fn accept(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(Ok(value)) = lines.next().map(HeaderValue::from_bytes) {
            headers.insert(name, value);
        }
    }
    if let Err(refusal) = decoders::negotiated(&headers) {
        assert_fit_to_print(&refusal);
    }
    headers.remove(header::CONTENT_TYPE);
    let rest = headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.extend(rest.map(|value| (header::ACCEPT, value)));
    assert_eq!(decoders::negotiated(&headers), Ok(()), "who takes JSON first is given it");
}

/// Bearer tokens: a text that is none, or the claims of one that is signed.
pub fn bearer_token(bytes: &[u8]) {
    let signer = Signer::new(&TOKEN_KEY);
    let now = OffsetDateTime::from_unix_timestamp(NOW_SECONDS).expect("a time of our century");
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(signer.verify(text, &ACCOUNTS, now).is_err(), "a token that nobody has signed");
    }
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(br#"{"typ":"JWT","alg":"HS256"}"#), encode(bytes));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &TOKEN_KEY), signed.as_bytes());
    if let Ok(account) = signer.verify(&format!("{signed}.{}", encode(signature.as_ref())), &ACCOUNTS, now) {
        let key = ObjectKey::namespaced(&account.project, Kind::ServiceAccount, &account.namespace, &account.name);
        assert_eq!(ACCOUNTS.get(&key).map(|object| &object.body.uid), Some(&account.uid), "an account that is there");
    }
}

/// Fit for an answer, a header and a log: short, and without control characters.
fn assert_fit_to_print(refusal: &str) {
    assert!(!refusal.is_empty() && refusal.len() <= REFUSAL_BYTES_MAX, "{} bytes", refusal.len());
    assert!(!refusal.chars().any(char::is_control), "{}", refusal.escape_debug());
}
