//! `POST serviceaccounts/NAME/token`: a bearer token that speaks for the account (`authentication.k8s.io/v1`
//! `TokenRequest`).

use http::StatusCode;
use serde_json::{Value, json};
use time::Duration;
use underpass_shared::resource::kind::Kind;

use super::{
    exchange::{Call, Done},
    status::Failure,
};
use crate::{
    access::token::{Account, Bound},
    clock,
    store::{object::ObjectKey, state::timestamp},
};

/// How long a token lives unless its request says otherwise, in seconds.
const LIFE_SECONDS: i64 = 3600;
/// The shortest and the longest life, in seconds: ten minutes as in Kubernetes, a year.
const LIFE_SECONDS_RANGE: std::ops::RangeInclusive<i64> = 600..=365 * 86_400;

/// Signs a token for the account `name`.
///
/// # Errors
/// 404 when the account, or the Secret that the token is to be bound to, is not there; 422 for a request that asks for
/// what there is not.
pub(super) fn issue(call: &Call<'_>, name: &str, body: &Value) -> Result<Done, Failure> {
    let key = call.place.key(name);
    let account = call.api.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
    let spec = body.get("spec").cloned().unwrap_or_default();
    let seconds = match spec.get("expirationSeconds") {
        None | Some(Value::Null) => LIFE_SECONDS,
        Some(value) => value.as_i64().filter(|seconds| LIFE_SECONDS_RANGE.contains(seconds)).ok_or_else(|| {
            let (min, max) = (LIFE_SECONDS_RANGE.start(), LIFE_SECONDS_RANGE.end());
            Failure::bad_request(format!("spec.expirationSeconds must be a whole number from {min} to {max}"))
        })?,
    };
    let project = call.place.project.clone().unwrap_or_default();
    let namespace = call.place.namespace.clone().unwrap_or_default();
    let bound = bound(call, &spec)?;
    let account = Account { project, namespace, name: name.to_owned(), uid: account.body.uid.clone() };
    let (now, life) = (clock::now(), Duration::seconds(seconds));
    let token = call.api.guard.signer().issue(&account, bound, life, now).map_err(Failure::internal)?;
    let mut shown_spec = json!({ "expirationSeconds": seconds, "audiences": ["underpass"] });
    if let Some(bound) = spec.get("boundObjectRef").filter(|bound| bound.is_object()) {
        shown_spec["boundObjectRef"] = bound.clone();
    }
    if call.options.dry_run {
        return Err(Failure::bad_request("a token cannot be tried out: leave dryRun away"));
    }
    Ok(Done::shown(
        StatusCode::CREATED,
        json!({
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": { "name": name, "namespace": account.namespace, "creationTimestamp": timestamp(now) },
            "spec": shown_spec,
            "status": { "token": token, "expirationTimestamp": timestamp(now + life) },
        }),
    ))
}

/// The Secret that the token shall die with.
fn bound(call: &Call<'_>, spec: &Value) -> Result<Option<Bound>, Failure> {
    let Some(wanted) = spec.get("boundObjectRef").filter(|wanted| wanted.is_object()) else { return Ok(None) };
    let text = |field: &str| wanted.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("kind") != "Secret" {
        return Err(Failure::bad_request(
            "spec.boundObjectRef.kind must be Secret: a token is bound to nothing else here",
        ));
    }
    let key = ObjectKey { kind: Kind::Secret, ..call.place.key(text("name")) };
    let secret = call.api.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
    let uid = secret.body.uid.clone();
    if !text("uid").is_empty() && text("uid") != uid {
        return Err(Failure::conflict(&key, "its uid is not the one in spec.boundObjectRef.uid"));
    }
    Ok(Some(Bound { name: key.name, uid }))
}
