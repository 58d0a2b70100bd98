//! Bodies as client-go writes them, and what is none.

use proptest::prelude::*;
use serde_json::json;
use underpass_shared::resource::kind::KINDS;

use super::*;
use crate::{
    api::verbs::is_built_in,
    schema::{self, Form as SchemaForm, Node},
};

/// A varint.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version), bytes(2, kind)].concat();
    [MAGIC.to_vec(), bytes(1, type_meta), bytes(2, raw), bytes(3, ""), bytes(4, "")].concat()
}

/// Metadata as Go writes it: every text, however empty.
fn metadata(name: &str) -> Vec<u8> {
    let label = [bytes(1, "app"), bytes(2, "it")].concat();
    [bytes(1, name), bytes(2, ""), bytes(3, ""), number(7, 0), bytes(8, ""), bytes(11, label)].concat()
}

#[test]
fn a_secret_is_read() {
    let pair = [bytes(1, "code"), bytes(2, [0, 0xff])].concat();
    let secret = [bytes(1, metadata("door")), bytes(2, pair), bytes(3, "Opaque")].concat();
    let want = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "door", "labels": {"app": "it"}},
        "data": {"code": "AP8="},
        "type": "Opaque",
    });
    assert_eq!(decode(&envelope("v1", "Secret", &secret)), Ok(want));
}

#[test]
fn zeros_that_pointers_point_to_stay_and_others_go() {
    let port = [bytes(2, "TCP"), number(3, 80), bytes(4, [number(1, 1), bytes(3, "http")].concat()), number(5, 0)];
    let spec = [bytes(1, port.concat()), bytes(10, ""), number(20, 0)].concat();
    let read = decode(&envelope("v1", "Service", &bytes(2, spec))).unwrap();
    let ports = json!([{"protocol": "TCP", "port": 80, "targetPort": "http"}]);
    assert_eq!(read["spec"], json!({"ports": ports, "allocateLoadBalancerNodePorts": false}));
    let replicas = decode(&envelope("apps/v1", "Deployment", &bytes(2, number(1, 0)))).unwrap();
    assert_eq!(replicas["spec"], json!({"replicas": 0}));
}

#[test]
fn times_are_text_and_an_empty_one_is_none() {
    let time = [number(1, 1_900_000_000), number(2, 123_456_000)].concat();
    let spec = [bytes(1, "me"), number(2, 15), bytes(4, time), bytes(3, "")].concat();
    let read = decode(&envelope("coordination.k8s.io/v1", "Lease", &bytes(2, spec))).unwrap();
    let renewed = &read["spec"]["renewTime"];
    assert_eq!((renewed, &read["spec"]["leaseDurationSeconds"]), (&json!("2030-03-17T17:46:40.123456Z"), &json!(15)));
}

#[test]
fn a_volume_has_the_fields_of_its_source() {
    let source = bytes(19, bytes(1, bytes(1, "settings")));
    let volume = [bytes(1, "v"), bytes(2, source)].concat();
    let read = decode(&envelope("v1", "Pod", &bytes(2, bytes(1, volume)))).unwrap();
    assert_eq!(read["spec"]["volumes"], json!([{"name": "v", "configMap": {"name": "settings"}}]));
}

#[test]
fn options_of_a_delete_are_of_any_group() {
    let body = envelope("apps/v1", "DeleteOptions", &bytes(4, "Foreground"));
    assert_eq!(decode(&body).unwrap()["propagationPolicy"], "Foreground");
}

#[test]
fn what_is_not_of_this_form_is_refused() {
    let secret = |raw: &[u8]| decode(&envelope("v1", "Secret", raw)).unwrap_err();
    assert_eq!(decode(b"{}"), Err(Fault::NoMagic));
    assert_eq!(secret(&[0x0a, 0x05, 0x00]), Fault::Cut);
    assert_eq!(secret(&number(1, 1)), Fault::Wire(1, "core.Secret"));
    assert_eq!(secret(&bytes(77, "")), Fault::Unknown(77, "core.Secret"));
    assert_eq!(secret(&[bytes(3, "a"), bytes(3, "b")].concat()), Fault::Twice(3, "core.Secret"));
    assert_eq!(secret(&bytes(3, [0xff])), Fault::Value("core.Secret"));
    let route = decode(&envelope("gateway.networking.k8s.io/v1", "HTTPRoute", b""));
    assert_eq!(route, Err(Fault::Kind("HTTPRoute of gateway.networking.k8s.io/v1".to_owned())));
    // JSON in a managed field's `fieldsV1`, which may be nested as deeply as JSON may.
    let managed = bytes(17, bytes(7, bytes(1, "[".repeat(1_000))));
    assert!(matches!(secret(&bytes(1, managed)), Fault::Value(_)));
}

/// Every field that a client may set has a number, however deep.
#[test]
fn every_field_of_the_schemas_has_a_number() {
    let mut unnumbered = Vec::new();
    for info in KINDS.iter().filter(|info| is_built_in(info.kind)) {
        let group = info.api_versions[0].split_once('/').map_or("core", |(group, _)| group);
        let name = format!("{}.{}", group.split('.').next().unwrap(), info.name);
        unnumbered.extend(missing(schema::of(info.kind).root(), &name, info.name));
    }
    assert_eq!(unnumbered, [""; 0]);
}

fn missing(node: &Node, message: &str, path: &str) -> Vec<String> {
    let SchemaForm::Object { properties, .. } = &node.form else { return Vec::new() };
    let mut found = Vec::new();
    for (name, inner) in properties {
        let below = format!("{path}.{name}");
        if ["apiVersion", "kind", "status"].contains(&name.as_str()) && !path.contains('.') {
            continue;
        }
        match form_of(message, name) {
            None => found.push(below),
            Some(Form::Message(message)) => found.extend(missing(inner, message, &below)),
            Some(Form::List(item)) => {
                if let (Form::Message(message), SchemaForm::List { items, .. }) = (&**item, &inner.form) {
                    found.extend(missing(items, message, &below));
                }
            }
            Some(_) => {}
        }
    }
    found
}

fn form_of(message: &str, name: &str) -> Option<&'static Form> {
    let fields = MESSAGES.get(message)?;
    let own = fields.iter().find(|field| field.name == name).map(|field| &field.form);
    own.or_else(|| {
        let inner = fields.iter().filter(|field| field.name == "_");
        inner.filter_map(|field| if let Form::Message(inner) = field.form { form_of(inner, name) } else { None }).next()
    })
}

#[test]
fn the_table_is_whole() {
    assert!(MESSAGES.len() > 150, "{}", MESSAGES.len());
    for (name, fields) in &*MESSAGES {
        for field in fields {
            assert!(field.number > 0 && !field.name.is_empty(), "{name}: {field:?}");
            let mut form = &field.form;
            while let Form::List(inner) | Form::Map(inner) = form {
                form = inner;
            }
            assert!(!matches!(form, Form::Message(other) if !MESSAGES.contains_key(other)), "{name}: {field:?}");
        }
    }
}

proptest! {
    #[test]
    fn never_panics(at in 0..KINDS.len(), body: Vec<u8>) {
        let info = &KINDS[at];
        let _ = decode(&body);
        let _ = decode(&envelope(info.api_versions[0], info.name, &body));
    }
}
