//! Create and update, and how what was worked out reaches the store.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    manager::{self, Writer},
    pipeline::{self, Ready},
    require_stored,
};
use crate::{
    api::{
        exchange::{Call, Done},
        negotiate::Media,
        path::Place,
        status::Failure,
    },
    clock,
    store::{
        StoreError, TransactError, lifecycle,
        object::{Draft, Object},
        state::{WriteError, timestamp},
    },
};

/// How often a write is worked out anew because somebody else's came first; then it is a conflict.
pub(super) const ATTEMPTS_MAX: usize = 8;

/// The characters of generated names: without vowels and what is mistaken for another (Kubernetes' alphabet).
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many characters a generated name ends with.
const SUFFIX_CHARACTERS: usize = 5;
/// The longest beginning of a generated name in bytes: the whole is a DNS label.
const PREFIX_BYTES_MAX: usize = 63 - SUFFIX_CHARACTERS;

/// What of a request its writer is made of.
pub(super) struct Signature {
    name: String,
    time: String,
}

impl Signature {
    pub(super) fn of(call: &Call<'_>) -> Self {
        let name = call.options.field_manager.clone().unwrap_or_else(|| manager::name_of(call.user_agent));
        Self { name, time: timestamp(clock::now()) }
    }

    pub(super) fn writer(&self, call: &Call<'_>) -> Writer<'_> {
        Writer {
            name: &self.name,
            time: &self.time,
            validation: call.options.field_validation,
            force: call.options.force,
        }
    }
}

/// `POST` to a collection.
pub(in crate::api) async fn create(call: &Call<'_>, body: Value) -> Result<Done, Failure> {
    require_stored(call.place)?;
    require_whole(call.media)?;
    let signature = Signature::of(call);
    let Some(prefix) = generated(&body) else {
        let ready = pipeline::create(call.place, &signature.writer(call), body)?;
        return created(call, ready).await.map_err(Failure::from);
    };
    let mut attempt = 1;
    loop {
        let named = with_name(body.clone(), &prefix, rand::random());
        let ready = pipeline::create(call.place, &signature.writer(call), named)?;
        match created(call, ready).await {
            Err(TransactError::Refused(WriteError::AlreadyExists(_))) if attempt < ATTEMPTS_MAX => attempt += 1,
            done => return done.map_err(Failure::from),
        }
    }
}

/// Stores a new object, or shows what would be stored.
pub(super) async fn created(call: &Call<'_>, ready: Ready) -> Result<Done, StoreError> {
    let Ready { draft, warnings } = ready;
    let dry_run = call.options.dry_run;
    let object = call.api.store.transact(move |state, fresh| {
        let mark = state.mark();
        let created = lifecycle::create(state, draft.clone(), fresh);
        if dry_run {
            state.roll_back(mark);
        }
        created
    });
    let object = object.await?;
    if !dry_run {
        let revision = object.body.revision;
        return Ok(Done::object(StatusCode::CREATED, call.place, object, revision).warning(warnings));
    }
    let mut shown = object.to_value_as(call.place.api_version);
    if let Some(metadata) = shown["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    Ok(Done::shown(StatusCode::CREATED, shown).warning(warnings))
}

/// `PUT` of an object, or of its status.
pub(in crate::api) async fn update(call: &Call<'_>, name: &str, body: Value) -> Result<Done, Failure> {
    require_stored(call.place)?;
    require_whole(call.media)?;
    let signature = Signature::of(call);
    replace(call, name, |current| pipeline::update(call.place, &signature.writer(call), body.clone(), current)).await
}

/// Works out what is to stand in place of an object, and stores it, until nobody else's write comes between.
pub(super) async fn replace(
    call: &Call<'_>,
    name: &str,
    work_out: impl Fn(&Object) -> Result<Ready, Failure>,
) -> Result<Done, Failure> {
    let key = call.place.key(name);
    let mut attempt = 1;
    loop {
        let current = call.api.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
        let Ready { draft, warnings } = work_out(&current)?;
        match store(call, draft, &current).await {
            Err(TransactError::Refused(WriteError::Conflict { .. })) if attempt < ATTEMPTS_MAX => attempt += 1,
            stored => return Ok(shown(call.place, &current, stored?, call.options.dry_run).warning(warnings)),
        }
    }
}

async fn store(call: &Call<'_>, draft: Draft, current: &Object) -> Result<Arc<Object>, StoreError> {
    let (dry_run, expected) = (call.options.dry_run, Some(current.body.revision));
    // Revisions are never used twice: an object of this revision is the one that was looked at.
    let written = call.api.store.transact(move |state, _| {
        let mark = state.mark();
        let replaced = lifecycle::replace(state, draft.clone(), expected);
        if dry_run {
            state.roll_back(mark);
        }
        replaced
    });
    written.await
}

/// What a write made of `current`; one that was not meant to last keeps its revision.
fn shown(place: &Place, current: &Object, stored: Arc<Object>, dry_run: bool) -> Done {
    let revision = if dry_run { current.body.revision } else { stored.body.revision };
    Done::object(StatusCode::OK, place, stored, revision)
}

/// Objects are written whole as JSON or YAML.
fn require_whole(media: Media) -> Result<(), Failure> {
    match media {
        Media::Json | Media::Yaml | Media::Protobuf => Ok(()),
        Media::Text | Media::JsonPatch | Media::MergePatch | Media::StrategicMergePatch | Media::ApplyPatch => {
            Err(unknown_format("application/json, application/yaml"))
        }
    }
}

/// 415, with what is accepted.
pub(super) fn unknown_format(accepted: &str) -> Failure {
    let message =
        format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    Failure::unsupported_media_type(message)
}

/// The beginning of the name that the server is to complete, if it is to.
fn generated(body: &Value) -> Option<String> {
    match pipeline::text(body, "name") {
        Some(_) => None,
        None => pipeline::text(body, "generateName").map(str::to_owned),
    }
}

fn with_name(mut body: Value, prefix: &str, chance: u64) -> Value {
    body["metadata"]["name"] = json!(name(prefix, chance));
    body
}

/// `prefix`, shortened if need be, and five characters drawn with `chance`.
fn name(prefix: &str, chance: u64) -> String {
    let mut end = prefix.len().min(PREFIX_BYTES_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    let mut rest = chance;
    for _ in 0..SUFFIX_CHARACTERS {
        name.push(char::from(ALPHABET[(rest % ALPHABET.len() as u64) as usize]));
        rest /= ALPHABET.len() as u64;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_short_and_of_the_alphabet() {
        assert_eq!(name("web-", 0), "web-bbbbb");
        assert_eq!(name("web-", 27 * 27 * 26 + 1), "web-cb9bb");
        let long = name(&"x".repeat(80), u64::MAX);
        assert_eq!(long.len(), 63);
        assert!(long[58..].bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_eq!(name(&"é".repeat(40), 7).chars().filter(|character| *character == 'é').count(), 29);
    }
}
