//! Delete, of one object and of a whole collection.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};
use underpass_shared::resource::kind::Kind;

use super::{
    pipeline::{not_a_version, shown},
    require_stored,
};
use crate::{
    api::{
        exchange::{Call, Done},
        options::{Options, Propagation},
        path::Place,
        status::{Failure, deleted},
    },
    collector::plan::{FOREGROUND, ORPHAN},
    schema::{Cause, Problem},
    store::{
        TransactError,
        lifecycle::{self, Deleted},
        object::{Object, ObjectKey},
        state::{Fresh, State, WriteError},
    },
};

/// How many objects of a collection one transaction deletes.
const AT_ONCE_MAX: usize = 50;
/// The fields of `DeleteOptions`.
const FIELDS: &[&str] =
    &["apiVersion", "dryRun", "gracePeriodSeconds", "kind", "orphanDependents", "preconditions", "propagationPolicy"];

/// How something is to be deleted: `metav1.DeleteOptions`, from the body or the query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    /// Only this very object.
    uid: Option<String>,
    /// Only as of this revision.
    revision: Option<u64>,
    propagation: Option<Propagation>,
    dry_run: bool,
}

impl Wanted {
    /// The body goes before the query, as in Kubernetes.
    fn of(options: &Options, body: Option<Value>) -> Result<Self, Failure> {
        let mut wanted = Self { propagation: options.propagation, dry_run: options.dry_run, ..Self::default() };
        if options.grace_seconds.is_some_and(|seconds| seconds < 0) {
            let message = "must be a whole number that is not negative".to_owned();
            let problem = Problem { path: "gracePeriodSeconds".to_owned(), message, cause: Cause::Invalid };
            return Err(Failure::invalid("meta.k8s.io", "DeleteOptions", "", &[problem]));
        }
        let Some(body) = body else { return Ok(wanted) };
        let fields = body.as_object().ok_or_else(|| Failure::bad_request("DeleteOptions must be an object"))?;
        if let Some((field, _)) =
            fields.iter().find(|(name, value)| !FIELDS.contains(&name.as_str()) && !value.is_null())
        {
            return Err(unknown_option(&shown(field)));
        }
        let mut problems = Vec::new();
        wanted.read(fields, &mut problems)?;
        if problems.is_empty() {
            return Ok(wanted);
        }
        Err(Failure::invalid("meta.k8s.io", "DeleteOptions", "", &problems))
    }

    fn read(&mut self, fields: &Map<String, Value>, problems: &mut Vec<Problem>) -> Result<(), Failure> {
        let mut report = |path: &str, cause: Cause, message: &str| {
            problems.push(Problem { path: path.to_owned(), message: message.to_owned(), cause });
        };
        let said = |field: &str| fields.get(field).filter(|value| !value.is_null());
        match said("propagationPolicy").map(|value| value.as_str().and_then(Propagation::parse)) {
            None => {}
            Some(Some(policy)) => self.propagation = Some(policy),
            Some(None) => report(
                "propagationPolicy",
                Cause::NotSupported,
                "Unsupported value: supported values: \"Foreground\", \"Background\", \"Orphan\"",
            ),
        }
        match said("orphanDependents") {
            None => {}
            Some(_) if said("propagationPolicy").is_some() => report(
                "propagationPolicy",
                Cause::Invalid,
                "orphanDependents and deletionPropagation cannot be both set",
            ),
            Some(Value::Bool(true)) => self.propagation = Some(Propagation::Orphan),
            Some(Value::Bool(false)) => self.propagation = Some(Propagation::Background),
            Some(_) => report("orphanDependents", Cause::TypeInvalid, "must be a boolean"),
        }
        match said("gracePeriodSeconds") {
            None => {}
            // Nothing runs here that could end gracefully: it is checked, and objects go at once.
            Some(seconds) if seconds.as_i64().is_some_and(|seconds| seconds >= 0) => {}
            Some(_) => report("gracePeriodSeconds", Cause::Invalid, "must be a whole number that is not negative"),
        }
        match said("dryRun").map(|value| value.as_array().map(Vec::as_slice)) {
            None | Some(Some([])) => {}
            Some(Some([all])) if all == "All" => self.dry_run = true,
            Some(_) => report("dryRun", Cause::NotSupported, "Unsupported value: supported values: \"All\""),
        }
        match said("preconditions") {
            None => {}
            Some(Value::Object(preconditions)) => return self.demand(preconditions, problems),
            Some(_) => report("preconditions", Cause::TypeInvalid, "must be an object"),
        }
        Ok(())
    }

    /// A precondition that is passed over would delete what was not meant.
    fn demand(&mut self, preconditions: &Map<String, Value>, problems: &mut Vec<Problem>) -> Result<(), Failure> {
        for (field, value) in preconditions.iter().filter(|(_, value)| !value.is_null()) {
            match (field.as_str(), value) {
                ("uid", Value::String(uid)) => self.uid = Some(uid.clone()),
                ("resourceVersion", Value::String(version)) => {
                    self.revision = Some(version.parse().map_err(|_| not_a_version(version))?);
                }
                ("uid" | "resourceVersion", _) => problems.push(Problem {
                    path: format!("preconditions.{field}"),
                    message: "must be a string".to_owned(),
                    cause: Cause::TypeInvalid,
                }),
                (other, _) => return Err(unknown_option(&format!("preconditions.{}", shown(other)))),
            }
        }
        Ok(())
    }
}

fn unknown_option(field: &str) -> Failure {
    Failure::bad_request(format!(
        "DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: strict decoding error: unknown field \
         \"{field}\""
    ))
}

/// `DELETE` of an object; `body` is a `DeleteOptions`, or nothing.
pub(in crate::api) async fn delete(call: &Call<'_>, name: &str, body: Option<Value>) -> Result<Done, Failure> {
    require_stored(call.place)?;
    let wanted = Wanted::of(call.options, body)?;
    let key = call.place.key(name);
    let done = call.api.store.transact({
        let (key, wanted) = (key.clone(), wanted.clone());
        move |state, fresh| delete_one(state, fresh, &key, &wanted)
    });
    let done = done.await.map_err(|error| refused(&key, &wanted, error))?;
    forget_log(call, &done, &wanted);
    Ok(match done {
        Deleted::Gone(object) => Done::shown(StatusCode::OK, deleted(&object)),
        Deleted::Marked(object) => Done::shown(StatusCode::OK, object.to_value_as(call.place.api_version)),
    })
}

/// `DELETE` of everything that the selectors choose; answers the list of what was there.
pub(in crate::api) async fn delete_collection(call: &Call<'_>, body: Option<Value>) -> Result<Done, Failure> {
    require_stored(call.place)?;
    let wanted = Wanted::of(call.options, body)?;
    let objects = call.api.store.snapshot();
    let chosen: Vec<Arc<Object>> = match &call.place.namespace {
        Some(namespace) => {
            objects.in_namespace(call.place.project.as_ref(), call.place.kind, namespace).cloned().collect()
        }
        None => objects.of(call.place.project.as_ref(), call.place.kind).cloned().collect(),
    };
    let chosen = chosen.into_iter().filter(|object| {
        call.options.label_selector.matches(&object.body.meta.labels) && call.options.field_selector.matches(object)
    });
    // Without what is gone the next objects are the first: the caller asks again, and needs no token for that.
    let most = if call.options.limit == 0 { usize::MAX } else { call.options.limit };
    let chosen: Vec<Arc<Object>> = chosen.take(most).collect();
    let mut first_failure = None;
    for some in chosen.chunks(AT_ONCE_MAX) {
        let failure = delete_some(call, some, &wanted).await?;
        first_failure = first_failure.or(failure);
    }
    if let Some(failure) = first_failure {
        return Err(failure);
    }
    let items: Vec<Value> = chosen.iter().map(|object| object.to_value_as(call.place.api_version)).collect();
    Ok(Done::shown(StatusCode::OK, list(call.place, call.api.store.snapshot().revision(), &items)))
}

fn list(place: &Place, revision: u64, items: &[Value]) -> Value {
    json!({
        "kind": format!("{}List", place.kind.info().name),
        "apiVersion": place.api_version,
        "metadata": { "resourceVersion": revision.to_string() },
        "items": items,
    })
}

/// Deletes `objects` in one transaction, each by itself; the first failure that is not its absence.
async fn delete_some(call: &Call<'_>, objects: &[Arc<Object>], wanted: &Wanted) -> Result<Option<Failure>, Failure> {
    let work = (objects.iter().map(|object| object.key.clone()).collect::<Vec<_>>(), wanted.clone());
    let done = call.api.store.transact(move |state, fresh| {
        let (keys, wanted) = &work;
        Ok::<_, WriteError>(keys.iter().map(|key| delete_one(state, fresh, key, wanted)).collect::<Vec<_>>())
    });
    let mut failure = None;
    for (object, result) in objects.iter().zip(done.await?) {
        match result {
            Ok(done) => forget_log(call, &done, wanted),
            Err(Refused::Write(WriteError::NotFound(_))) => {}
            Err(error) => {
                failure.get_or_insert_with(|| refused(&object.key, wanted, TransactError::Refused(error)));
            }
        }
    }
    Ok(failure)
}

/// Why an object is not deleted.
#[derive(Debug)]
enum Refused {
    Write(WriteError),
    /// Another object has this name now, with this uid.
    Uid(String),
}

impl From<WriteError> for Refused {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

fn refused(key: &ObjectKey, wanted: &Wanted, error: TransactError<Refused>) -> Failure {
    match error {
        TransactError::Refused(Refused::Write(error)) => TransactError::Refused(error).into(),
        TransactError::Refused(Refused::Uid(current)) => {
            Failure::other_uid(key, wanted.uid.as_deref().unwrap_or_default(), &current)
        }
        TransactError::Unavailable(error) => TransactError::<WriteError>::Unavailable(error).into(),
        TransactError::Stopped => TransactError::<WriteError>::Stopped.into(),
    }
}

/// Deletes one object if it is the one that is meant; what fails, or is a rehearsal, leaves nothing behind.
fn delete_one(state: &mut State, fresh: &mut Fresh, key: &ObjectKey, wanted: &Wanted) -> Result<Deleted, Refused> {
    let mark = state.mark();
    let done = try_delete(state, fresh, key, wanted);
    if wanted.dry_run || done.is_err() {
        state.roll_back(mark);
    }
    done
}

fn try_delete(state: &mut State, fresh: &Fresh, key: &ObjectKey, wanted: &Wanted) -> Result<Deleted, Refused> {
    let object = state.objects().get(key).cloned().ok_or_else(|| WriteError::NotFound(key.clone()))?;
    if wanted.uid.as_ref().is_some_and(|uid| *uid != object.body.uid) {
        return Err(Refused::Uid(object.body.uid.clone()));
    }
    let current = object.body.revision;
    if let Some(expected) = wanted.revision.filter(|expected| *expected != current) {
        return Err(WriteError::Conflict { key: key.clone(), current, expected }.into());
    }
    // One that was deleted before may be asked to go another way.
    let mut draft = object.draft();
    draft.meta.finalizers = finalizers(&object.body.meta.finalizers, wanted.propagation);
    state.replace(draft, None)?;
    Ok(lifecycle::delete(state, key, None, &[], fresh)?)
}

/// The finalizers of an object that is deleted in this way; others' stay, and so do earlier wishes if none is told.
fn finalizers(held: &[String], propagation: Option<Propagation>) -> Vec<String> {
    let Some(propagation) = propagation else { return held.to_vec() };
    let mut finalizers: Vec<String> =
        held.iter().filter(|name| ![FOREGROUND, ORPHAN].contains(&name.as_str())).cloned().collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
        Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
    }
    finalizers
}

/// A pod's log goes with it.
fn forget_log(call: &Call<'_>, done: &Deleted, wanted: &Wanted) {
    if let Deleted::Gone(object) = done
        && object.key.kind == Kind::Pod
        && !wanted.dry_run
    {
        call.api.logs.forget(&object.body.uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<Wanted, String> {
        Wanted::of(&Options::default(), Some(body)).map_err(|failure| failure.message)
    }

    #[test]
    fn delete_options_are_read_from_the_body_before_the_query() {
        let query = Options { propagation: Some(Propagation::Orphan), ..Options::default() };
        assert_eq!(Wanted::of(&query, None).unwrap().propagation, Some(Propagation::Orphan));
        let body = json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground", "gracePeriodSeconds": 30,
            "dryRun": ["All"], "preconditions": {"uid": "u", "resourceVersion": "7"},
        });
        let wanted = Wanted {
            uid: Some("u".to_owned()),
            revision: Some(7),
            propagation: Some(Propagation::Foreground),
            dry_run: true,
        };
        assert_eq!(Wanted::of(&query, Some(body)), Ok(wanted));
        assert_eq!(read(json!({"orphanDependents": true})).unwrap().propagation, Some(Propagation::Orphan));
        assert_eq!(read(json!({"orphanDependents": false})).unwrap().propagation, Some(Propagation::Background));
        assert_eq!(read(json!({"orphanDependents": null, "x": null})), Ok(Wanted::default()));
    }

    #[test]
    fn delete_options_that_cannot_be_are_refused() {
        for (body, want) in [
            (json!([]), "DeleteOptions must be an object"),
            (json!({"shoes": 1}), "unknown field \"shoes\""),
            (json!({"propagationPolicy": "Sideways"}), "supported values"),
            (json!({"propagationPolicy": "Orphan", "orphanDependents": true}), "cannot be both set"),
            (json!({"gracePeriodSeconds": -1}), "gracePeriodSeconds"),
            (json!({"dryRun": ["Some"]}), "dryRun"),
            (json!({"preconditions": 1}), "preconditions"),
            (json!({"preconditions": {"resourceVersion": "x"}}), "is not one that this server gave"),
            (json!({"preconditions": {"uid": 5}}), "preconditions.uid: must be a string"),
            (json!({"preconditions": {"name": "a"}}), "unknown field \"preconditions.name\""),
        ] {
            let message = read(body.clone()).unwrap_err();
            assert!(message.contains(want), "{body}: {message}");
        }
        let query = |text: &str| {
            let options = Options::parse(text, None).map_err(|failure| failure.message)?;
            Wanted::of(&options, None).map_err(|failure| failure.message)
        };
        assert!(query("gracePeriodSeconds=-1").unwrap_err().contains("gracePeriodSeconds"));
        assert!(query("propagationPolicy=Orphan&orphanDependents=true").unwrap_err().contains("cannot be both set"));
        assert_eq!(query("gracePeriodSeconds=0"), Ok(Wanted::default()));
    }

    #[test]
    fn the_way_of_deleting_is_noted_as_a_finalizer_in_place_of_the_other() {
        let held = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let check = |names: &[&str], propagation, want: &[&str]| {
            assert_eq!(finalizers(&held(names), propagation), held(want), "{names:?} {propagation:?}");
        };
        check(&["x", ORPHAN], None, &["x", ORPHAN]);
        check(&["x", ORPHAN], Some(Propagation::Foreground), &["x", FOREGROUND]);
        check(&[FOREGROUND, "x"], Some(Propagation::Background), &["x"]);
        check(&[], Some(Propagation::Orphan), &[ORPHAN]);
    }
}
