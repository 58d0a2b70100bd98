//! What holds of every object whatever its schema says: its version and kind, its name, its labels, its owners.
//!
//! The rules are those of Kubernetes' `ValidateObjectMeta`.

use serde_json::{Map, Value};
use underpass_shared::resource::kind::{Kind, KindInfo, Scope};

use super::{
    problem::{Cause, Findings, quoted},
    text,
};

/// The most bytes of all annotations together, keys included (Kubernetes' limit).
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// The longest name of a client in `managedFields`, in characters (Kubernetes' limit).
const MANAGER_LENGTH_MAX: usize = 128;

/// Finalizers that say how an object goes; one object cannot go both ways.
const OPPOSED_FINALIZERS: [&str; 2] = ["orphan", "foregroundDeletion"];

type Rule = fn(&str) -> Result<(), String>;

/// What names of `kind` look like.
fn name_rule(kind: Kind) -> Rule {
    match kind {
        // Their names are labels of DNS names and parts of identities.
        Kind::Project | Kind::TunnelNode | Kind::Namespace => text::dns_label,
        Kind::Service => text::dns_label_of_letters,
        Kind::ClusterRoleBinding => text::path_segment,
        _ => text::dns_subdomain,
    }
}

/// Checks `object` as one of `kind`. What has the wrong type is left to the schema.
pub(super) fn check(kind: Kind, object: &Value, findings: &mut Findings) {
    let info = kind.info();
    let Some(object) = object.as_object() else { return };
    identity(info, object, findings);
    let Some(metadata) = object.get("metadata").and_then(Value::as_object) else { return };
    findings.at_field("metadata", |findings| {
        name(kind, metadata, findings);
        namespace(info, metadata, findings);
        map(metadata, "labels", text::label_value, findings);
        map(metadata, "annotations", |_| Ok(()), findings);
        annotations_size(metadata, findings);
        finalizers(metadata, findings);
        owners(metadata, findings);
        managers(metadata, findings);
    });
}

fn identity(info: &KindInfo, object: &Map<String, Value>, findings: &mut Findings) {
    if let Some(version) = text_of(object, "apiVersion")
        && !info.api_versions.contains(&version)
    {
        let message = format!("`{}` has no {}; may be {}", quoted(version), info.name, info.api_versions.join(" or "));
        findings.at_field("apiVersion", |findings| findings.report(Cause::NotSupported, message));
    }
    if let Some(name) = text_of(object, "kind")
        && name != info.name
    {
        let message = format!("`{}` is not {}", quoted(name), info.name);
        findings.at_field("kind", |findings| findings.report(Cause::Invalid, message));
    }
}

fn name(kind: Kind, metadata: &Map<String, Value>, findings: &mut Findings) {
    let rule = name_rule(kind);
    let prefix = text_of(metadata, "generateName").filter(|prefix| !prefix.is_empty());
    if let Some(prefix) = prefix {
        // The server appends letters and digits: a `-` at the end will not be one.
        let begun = prefix.strip_suffix('-').map(|prefix| format!("{prefix}a"));
        if rule(begun.as_deref().unwrap_or(prefix)).is_err() {
            let message = format!("`{}` is no beginning of a name of this kind", quoted(prefix));
            findings.at_field("generateName", |findings| findings.report(Cause::Invalid, message));
        }
    }
    match metadata.get("name") {
        Some(Value::String(name)) if !name.is_empty() => {
            if let Err(message) = rule(name) {
                findings.at_field("name", |findings| findings.report(Cause::Invalid, message));
            }
        }
        None | Some(Value::Null | Value::String(_)) if prefix.is_none() => {
            findings.at_field("name", |findings| findings.report(Cause::Required, "required"));
        }
        _ => {}
    }
}

fn namespace(info: &KindInfo, metadata: &Map<String, Value>, findings: &mut Findings) {
    let Some(namespace) = text_of(metadata, "namespace").filter(|namespace| !namespace.is_empty()) else { return };
    let verdict = if info.scope == Scope::Namespaced {
        text::dns_label(namespace)
    } else {
        Err(format!("a {} belongs to no namespace: remove the field", info.name))
    };
    if let Err(message) = verdict {
        findings.at_field("namespace", |findings| findings.report(Cause::Invalid, message));
    }
}

/// Labels or annotations: keys are qualified names, values as `rule` says.
fn map(metadata: &Map<String, Value>, field: &str, rule: Rule, findings: &mut Findings) {
    let Some(entries) = metadata.get(field).and_then(Value::as_object) else { return };
    findings.at_field(field, |findings| {
        for (key, value) in entries {
            let key_verdict = text::qualified_name(key);
            let value_verdict = value.as_str().map_or(Ok(()), rule);
            for message in [key_verdict, value_verdict].into_iter().filter_map(Result::err) {
                findings.at_key(key, |findings| findings.report(Cause::Invalid, message));
            }
        }
    });
}

fn annotations_size(metadata: &Map<String, Value>, findings: &mut Findings) {
    let Some(annotations) = metadata.get("annotations").and_then(Value::as_object) else { return };
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        let message = format!("must be at most {ANNOTATIONS_BYTES_MAX} bytes together, not {bytes}");
        findings.at_field("annotations", |findings| findings.report(Cause::TooLong, message));
    }
}

fn finalizers(metadata: &Map<String, Value>, findings: &mut Findings) {
    let Some(finalizers) = metadata.get("finalizers").and_then(Value::as_array) else { return };
    findings.at_field("finalizers", |findings| {
        for (index, finalizer) in finalizers.iter().enumerate() {
            if let Some(Err(message)) = finalizer.as_str().map(text::qualified_name) {
                findings.at_item(index, |findings| findings.report(Cause::Invalid, message));
            }
        }
        if OPPOSED_FINALIZERS.iter().all(|opposed| finalizers.iter().any(|finalizer| finalizer == opposed)) {
            let message = format!("`{}` exclude each other", OPPOSED_FINALIZERS.join("` and `"));
            findings.report(Cause::Invalid, message);
        }
    });
}

fn owners(metadata: &Map<String, Value>, findings: &mut Findings) {
    let Some(owners) = metadata.get("ownerReferences").and_then(Value::as_array) else { return };
    findings.at_field("ownerReferences", |findings| {
        let mut controller = None;
        for (index, owner) in owners.iter().enumerate() {
            let Some(owner) = owner.as_object() else { continue };
            findings.at_item(index, |findings| {
                for field in ["apiVersion", "kind", "name", "uid"] {
                    if text_of(owner, field) == Some("") {
                        findings.at_field(field, |findings| findings.report(Cause::Required, "must not be empty"));
                    }
                }
                if text_of(owner, "apiVersion").is_some_and(|version| version.matches('/').count() > 1) {
                    let message = "must be `version` or `group/version`";
                    findings.at_field("apiVersion", |findings| findings.report(Cause::Invalid, message));
                }
                if owner.get("controller") == Some(&Value::Bool(true)) {
                    if let Some(first) = controller {
                        let message = format!("item {first} is the controller already; there is at most one");
                        findings.at_field("controller", |findings| findings.report(Cause::Invalid, message));
                    }
                    controller.get_or_insert(index);
                }
            });
        }
    });
}

fn managers(metadata: &Map<String, Value>, findings: &mut Findings) {
    let Some(entries) = metadata.get("managedFields").and_then(Value::as_array) else { return };
    findings.at_field("managedFields", |findings| {
        for (index, entry) in entries.iter().enumerate() {
            let Some(entry) = entry.as_object() else { continue };
            let name = text_of(entry, "manager").unwrap_or_default();
            let too_long = name.chars().count() > MANAGER_LENGTH_MAX;
            let form = text_of(entry, "fieldsType").filter(|form| *form != "FieldsV1");
            findings.at_item(index, |findings| {
                if too_long || name.chars().any(char::is_control) {
                    let message = format!("must be at most {MANAGER_LENGTH_MAX} printable characters");
                    findings.at_field("manager", |findings| findings.report(Cause::Invalid, message));
                }
                if let Some(form) = form {
                    let message = format!("`{}`: unknown value; may be `FieldsV1`", quoted(form));
                    findings.at_field("fieldsType", |findings| findings.report(Cause::NotSupported, message));
                }
            });
        }
    });
}

fn text_of<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object.get(field).and_then(Value::as_str)
}
