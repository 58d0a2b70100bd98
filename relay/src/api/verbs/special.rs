//! What single kinds have beyond what their schemas say. Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use underpass_shared::resource::kind::Kind;

/// Folds what may only be written into what is stored: a Secret's `stringData` into its `data`.
///
/// What has the wrong type is left for validation to report.
pub(super) fn fold(kind: Kind, object: &mut Value) {
    let Some(fields) = object.as_object_mut().filter(|_| kind == Kind::Secret) else { return };
    let Some(Value::Object(texts)) = fields.get("stringData") else {
        if fields.get("stringData") == Some(&Value::Null) {
            fields.remove("stringData");
        }
        return;
    };
    let encoded: Option<Vec<(String, Value)>> =
        texts.iter().map(|(key, text)| Some((key.clone(), json!(STANDARD.encode(text.as_str()?))))).collect();
    let Some(encoded) = encoded else { return };
    let data = fields.entry("data").or_insert(Value::Null);
    if data.is_null() {
        *data = Value::Object(Map::new());
    }
    if let Some(data) = data.as_object_mut() {
        data.extend(encoded);
        fields.remove("stringData");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_data_is_folded_over_data_and_never_shown() {
        let mut secret = json!({"data": {"a": "MQ==", "b": "Mg=="}, "stringData": {"b": "x", "c": ""}});
        fold(Kind::Secret, &mut secret);
        assert_eq!(secret, json!({"data": {"a": "MQ==", "b": "eA==", "c": ""}}));
        let mut wrong = json!({"stringData": {"a": 1}});
        fold(Kind::Secret, &mut wrong);
        assert_eq!(wrong, json!({"stringData": {"a": 1}}), "validation reports it");
        let mut other = json!({"stringData": {"a": "1"}});
        fold(Kind::ConfigMap, &mut other);
        assert_eq!(other, json!({"stringData": {"a": "1"}}));
    }
}
