//! `tunnelnodes/NAME/token`: the one way to an enrolment token.

use http::StatusCode;
use serde_json::{Map, Value, json};
use time::Duration;
use underpass_shared::{identity::NodeName, resource::kind::Kind};

use crate::{
    api::{
        exchange::{Call, Done},
        status::Failure,
    },
    clock,
    schema::{Cause, Problem},
    store::state::timestamp,
};

/// How long a token lives unless its request says otherwise, in seconds.
const TOKEN_SECONDS: i64 = 3600;
/// The longest life of a token, in seconds: 30 days.
const TOKEN_SECONDS_MAX: i64 = 30 * 86_400;
/// The most agents that one token enrols.
const TOKEN_USES_MAX: i64 = 10_000;

/// `POST tunnelnodes/NAME/token`.
pub(in crate::api) async fn token(call: &Call<'_>, name: &str, body: Value) -> Result<Done, Failure> {
    let place = call.place;
    if place.kind != Kind::TunnelNode {
        return Err(Failure::not_allowed("tokens of service accounts are not issued yet"));
    }
    let wanted = token_spec(name, &body)?;
    let node: NodeName = name.parse().map_err(|_| Failure::not_found(&place.key(name)))?;
    let project = place.project.clone().unwrap_or_default();
    let now = clock::now();
    let life = Duration::seconds(wanted.seconds);
    let token = call.api.enrolment.issue_token(&project, &node, life, wanted.uses, now).await?;
    Ok(Done::shown(
        StatusCode::CREATED,
        json!({
            "kind": "TunnelNodeToken",
            "apiVersion": place.api_version,
            "metadata": { "name": name },
            "spec": { "expirationSeconds": wanted.seconds, "uses": wanted.uses },
            "status": { "token": token.to_string(), "expirationTimestamp": timestamp(now + life) },
        }),
    ))
}

struct TokenSpec {
    seconds: i64,
    uses: u32,
}

fn token_spec(name: &str, body: &Value) -> Result<TokenSpec, Failure> {
    let mut problems = Vec::new();
    let mut report = |path: &str, message: String| {
        problems.push(Problem { path: path.to_owned(), message, cause: Cause::Invalid });
    };
    let empty = Map::new();
    let object = body.as_object().unwrap_or_else(|| {
        report("", "must be an object".to_owned());
        &empty
    });
    for field in object.keys() {
        if !["kind", "apiVersion", "metadata", "spec", "status"].contains(&field.as_str()) {
            report(&field.escape_debug().to_string(), "unknown field".to_owned());
        }
    }
    let spec = match object.get("spec") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(spec)) => spec,
        Some(_) => {
            report("spec", "must be an object".to_owned());
            &empty
        }
    };
    for field in spec.keys() {
        if !["expirationSeconds", "uses"].contains(&field.as_str()) {
            report(&format!("spec.{}", field.escape_debug()), "unknown field".to_owned());
        }
    }
    let mut number = |field: &str, default: i64, max: i64| match spec.get(field) {
        None | Some(Value::Null) => default,
        Some(value) => value.as_i64().filter(|n| (1..=max).contains(n)).unwrap_or_else(|| {
            report(&format!("spec.{field}"), format!("must be a whole number from 1 to {max}"));
            default
        }),
    };
    let seconds = number("expirationSeconds", TOKEN_SECONDS, TOKEN_SECONDS_MAX);
    let uses = number("uses", 1, TOKEN_USES_MAX);
    if !problems.is_empty() {
        return Err(Failure::invalid("core.apoxy.dev", "TunnelNodeToken", name, &problems));
    }
    Ok(TokenSpec { seconds, uses: u32::try_from(uses).expect("uses is from 1 to 10000") })
}
