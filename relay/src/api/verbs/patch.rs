//! `PATCH`: the three forms of a patch, and server-side apply.

use http::StatusCode;
use serde_json::Value;

use super::{
    manager::Writer,
    pipeline::{self, Ready},
    require_stored,
    write::{ATTEMPTS_MAX, Signature, created, replace, unknown_format},
};
use crate::{
    api::{
        exchange::{Call, Done},
        negotiate::Media,
        path::Place,
        status::Failure,
    },
    patch::{self, PatchError},
    schema::{self, Cause, Problem},
    store::{TransactError, object::Object, state::WriteError},
};

/// What is told to who sends something else.
const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
/// The same, for the kinds that know strategic merge patches.
const ACCEPTED_BUILT_IN: &str = "application/json-patch+json, application/merge-patch+json, \
                                 application/apply-patch+yaml, application/strategic-merge-patch+json";

/// `PATCH` of an object, or of its status.
pub(in crate::api) async fn patch(call: &Call<'_>, name: &str, body: Value) -> Result<Done, Failure> {
    require_stored(call.place)?;
    if call.media == Media::ApplyPatch {
        return apply(call, name, body).await;
    }
    if call.options.force {
        return Err(options(Cause::Forbidden, "force", "may not be specified for non-apply patch"));
    }
    let form = Form::of(call.place, call.media)?;
    let signature = Signature::of(call);
    replace(call, name, |current| form.write(call.place, &signature.writer(call), &body, current)).await
}

/// What a patch is written in.
#[derive(Debug, Clone, Copy)]
enum Form {
    Json,
    Merge,
    Strategic,
}

impl Form {
    fn of(place: &Place, media: Media) -> Result<Self, Failure> {
        let is_built_in = pipeline::is_built_in(place.kind);
        match media {
            Media::JsonPatch => Ok(Self::Json),
            Media::MergePatch => Ok(Self::Merge),
            Media::StrategicMergePatch if is_built_in => Ok(Self::Strategic),
            Media::StrategicMergePatch
            | Media::Json
            | Media::Yaml
            | Media::Protobuf
            | Media::Text
            | Media::ApplyPatch => Err(unknown_format(if is_built_in { ACCEPTED_BUILT_IN } else { ACCEPTED })),
        }
    }

    fn write(self, place: &Place, writer: &Writer<'_>, body: &Value, current: &Object) -> Result<Ready, Failure> {
        let live = current.to_value_as(place.api_version);
        let patched = self.patched(place, &live, body).map_err(|error| Failure::patch(&error))?;
        pipeline::update(place, writer, patched, current)
    }

    fn patched(self, place: &Place, live: &Value, body: &Value) -> Result<Value, PatchError> {
        match self {
            Self::Json => patch::json(live, body),
            Self::Merge if !body.is_object() => {
                Err(PatchError::Malformed("a merge patch of an object is an object".to_owned()))
            }
            Self::Merge => Ok(patch::merge(live, body)),
            Self::Strategic => patch::strategic(schema::of(place.kind).root(), live, body),
        }
    }
}

async fn apply(call: &Call<'_>, name: &str, body: Value) -> Result<Done, Failure> {
    if call.options.field_manager.is_none() {
        return Err(options(Cause::Required, "fieldManager", "is required for apply patch"));
    }
    let signature = Signature::of(call);
    let writer = signature.writer(call);
    let key = call.place.key(name);
    let mut attempt = 1;
    loop {
        if call.api.store.get(&key).is_some() {
            let applied = |current: &Object| pipeline::applied(call.place, name, &writer, body.clone(), Some(current));
            match replace(call, name, applied).await {
                // It went between the two looks.
                Err(failure) if failure.code == StatusCode::NOT_FOUND && attempt < ATTEMPTS_MAX => attempt += 1,
                done => return done,
            }
        } else {
            let ready = pipeline::applied(call.place, name, &writer, body.clone(), None)?;
            match created(call, ready).await {
                Err(TransactError::Refused(WriteError::AlreadyExists(_))) if attempt < ATTEMPTS_MAX => attempt += 1,
                done => return done.map_err(Failure::from),
            }
        }
    }
}

/// A query that does not fit the body.
fn options(cause: Cause, field: &str, message: &str) -> Failure {
    let problem = Problem { path: field.to_owned(), message: message.to_owned(), cause };
    Failure::invalid("meta.k8s.io", "PatchOptions", "", &[problem])
}
