use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use underpass_shared::{identity::ProjectName, resource::kind::Kind};

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Create { name: u8, spec: u8 },
    Replace { name: u8, spec: u8, label: u8, expected: Option<u8> },
    Status { name: u8, status: u8, expected: Option<u8> },
    Delete { name: u8, expected: Option<u8> },
    PutRecord { name: u8, value: u8 },
    RemoveRecord { name: u8 },
    RollBack,
    Commit,
}

fn op() -> impl Strategy<Value = Op> {
    let name = || 0u8..4;
    let expected = || proptest::option::weighted(0.3, 0u8..20);
    prop_oneof![
        (name(), 0u8..3).prop_map(|(name, spec)| Op::Create { name, spec }),
        (name(), 0u8..3, 0u8..3, expected()).prop_map(|(name, spec, label, expected)| Op::Replace {
            name,
            spec,
            label,
            expected
        }),
        (name(), 0u8..3, expected()).prop_map(|(name, status, expected)| Op::Status { name, status, expected }),
        (name(), expected()).prop_map(|(name, expected)| Op::Delete { name, expected }),
        (name(), 0u8..3).prop_map(|(name, value)| Op::PutRecord { name, value }),
        name().prop_map(|name| Op::RemoveRecord { name }),
        Just(Op::RollBack),
        Just(Op::Commit),
    ]
}

/// The obvious store: whole copies instead of a journal.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    revision: u64,
    objects: BTreeMap<u8, ModelObject>,
    records: BTreeMap<u8, u8>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct ModelObject {
    revision: u64,
    generation: i64,
    spec: u8,
    label: u8,
    status: Option<u8>,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Done,
    Exists,
    Missing,
    Conflict,
}

impl Model {
    fn checked(&self, name: u8, expected: Option<u8>) -> Result<ModelObject, Verdict> {
        let object = self.objects.get(&name).copied().ok_or(Verdict::Missing)?;
        match expected {
            Some(expected) if u64::from(expected) != object.revision => Err(Verdict::Conflict),
            _ => Ok(object),
        }
    }

    fn put(&mut self, name: u8, object: ModelObject) {
        if self.objects.get(&name) != Some(&object) {
            self.revision += 1;
            self.objects.insert(name, ModelObject { revision: self.revision, ..object });
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), Verdict> {
        match *op {
            Op::Create { name, .. } if self.objects.contains_key(&name) => return Err(Verdict::Exists),
            Op::Create { name, spec } => {
                self.put(name, ModelObject { revision: 0, generation: 1, spec, label: 0, status: None });
            }
            Op::Replace { name, spec, label, expected } => {
                let old = self.checked(name, expected)?;
                let generation = old.generation + i64::from(old.spec != spec);
                self.put(name, ModelObject { generation, spec, label, ..old });
            }
            Op::Status { name, status, expected } => {
                let old = self.checked(name, expected)?;
                self.put(name, ModelObject { status: Some(status), ..old });
            }
            Op::Delete { name, expected } => {
                self.checked(name, expected)?;
                self.objects.remove(&name);
                self.revision += 1;
            }
            Op::PutRecord { name, value } => {
                self.records.insert(name, value);
            }
            Op::RemoveRecord { name } => {
                self.records.remove(&name);
            }
            Op::RollBack | Op::Commit => {}
        }
        Ok(())
    }
}

fn key(name: u8) -> ObjectKey {
    ObjectKey::namespaced(&ProjectName::default(), Kind::Backend, "default", &format!("o{name}"))
}

fn record_key(name: u8) -> RecordKey {
    RecordKey::Token(name.to_string())
}

fn draft(name: u8, spec: u8, label: u8) -> Draft {
    let mut draft = Draft::of_spec(key(name), json!(spec));
    draft.meta.labels.insert("l".to_owned(), label.to_string());
    draft
}

fn apply(state: &mut State, op: &Op, fresh: &mut Fresh) -> Verdict {
    let expect = |expected: Option<u8>| expected.map(u64::from);
    let done = match *op {
        Op::Create { name, spec } => state.create(draft(name, spec, 0), fresh).map(drop),
        Op::Replace { name, spec, label, expected } => {
            let status = state.objects().get(&key(name)).and_then(|object| object.body.status.clone());
            state.replace(Draft { status, ..draft(name, spec, label) }, expect(expected)).map(drop)
        }
        Op::Status { name, status, expected } => {
            state.replace_status(&key(name), json!(status), expect(expected)).map(drop)
        }
        Op::Delete { name, expected } => state.delete(&key(name), expect(expected)).map(drop),
        Op::PutRecord { name, value } => state.put_record(record_key(name), &value),
        Op::RemoveRecord { name } => {
            state.remove_record(&record_key(name));
            Ok(())
        }
        Op::RollBack | Op::Commit => Ok(()),
    };
    match done {
        Ok(()) => Verdict::Done,
        Err(WriteError::AlreadyExists(_)) => Verdict::Exists,
        Err(WriteError::NotFound(_)) => Verdict::Missing,
        Err(WriteError::Conflict { .. }) => Verdict::Conflict,
        Err(other) => panic!("{other}"),
    }
}

/// The state, as far as the model knows it.
fn seen(state: &State) -> Model {
    let number = |value: &Value| u8::try_from(value.as_u64().unwrap()).unwrap();
    let objects = state.objects().iter().map(|object| {
        let body = &object.body;
        let seen = ModelObject {
            revision: body.revision,
            generation: body.generation,
            spec: number(&body.content["spec"]),
            label: body.meta.labels["l"].parse().unwrap(),
            status: body.status.as_ref().map(number),
        };
        (object.key.name[1..].parse().unwrap(), seen)
    });
    Model {
        revision: state.objects().revision(),
        objects: objects.collect(),
        records: (0..4).filter_map(|n| state.record(&record_key(n)).unwrap().map(|value| (n, value))).collect(),
    }
}

proptest! {
    #[test]
    fn any_interleaving_of_operations_equals_the_naive_model(ops in proptest::collection::vec(op(), 1..60)) {
        let mut fresh = Fresh::new(OffsetDateTime::UNIX_EPOCH, [1; 32]);
        let (mut state, mut model) = (State::default(), Model::default());
        let mut committed = model.clone();
        let mut disk = Model::default();
        let (mut views, mut log) = (Vec::new(), Vec::new());
        for op in ops {
            let want = model.apply(&op).err().unwrap_or(Verdict::Done);
            let mark = state.mark();
            prop_assert_eq!(apply(&mut state, &op, &mut fresh), want);
            state.end(mark);
            match op {
                Op::RollBack => {
                    state.roll_back_all();
                    model = committed.clone();
                }
                Op::Commit => {
                    let events = state.changes().events;
                    prop_assert!(events.is_sorted_by_key(|event| event.revision));
                    log.extend(events);
                    write(&mut disk, &state.changes());
                    state.commit();
                    committed = model.clone();
                    prop_assert_eq!(&disk, &model, "the changes carry everything to the disk");
                }
                _ => {}
            }
            prop_assert_eq!(seen(&state), model.clone());
            views.push((state.objects().clone(), seen(&state).objects));
        }
        let mut replayed: BTreeMap<Arc<ObjectKey>, Arc<Object>> = BTreeMap::new();
        for event in log {
            prop_assert_eq!(replayed.get(event.key()), event.before.as_ref(), "events follow from each other");
            match &event.after {
                Some(after) => drop(replayed.insert(event.key().clone(), after.clone())),
                None => drop(replayed.remove(event.key())),
            }
        }
        prop_assert!(committed.objects.len() == replayed.len(), "the events lead to what was committed");
        for (view, then) in views {
            let now = seen(&State { objects: view, ..State::default() }).objects;
            prop_assert_eq!(now, then, "a view never changes");
        }
    }
}

/// What a disk that knows nothing but the changes would hold.
fn write(disk: &mut Model, changes: &Changes) {
    let number = |value: &Value| u8::try_from(value.as_u64().unwrap()).unwrap();
    disk.revision = changes.revision;
    for (key, object) in changes.objects() {
        let name: u8 = key.name[1..].parse().unwrap();
        match object {
            None => drop(disk.objects.remove(&name)),
            Some(object) => {
                let body = &object.body;
                let written = ModelObject {
                    revision: body.revision,
                    generation: body.generation,
                    spec: number(&body.content["spec"]),
                    label: body.meta.labels["l"].parse().unwrap(),
                    status: body.status.as_ref().map(number),
                };
                disk.objects.insert(name, written);
            }
        }
    }
    for (key, value) in &changes.records {
        let RecordKey::Token(name) = key else { panic!("{key}") };
        let name = name.parse().unwrap();
        match value {
            None => drop(disk.records.remove(&name)),
            Some(bytes) => drop(disk.records.insert(name, serde_json::from_slice(bytes).unwrap())),
        }
    }
}

#[test]
fn lists_are_one_project_and_one_kind() {
    let mut state = State::default();
    let mut fresh = Fresh::new(OffsetDateTime::UNIX_EPOCH, [1; 32]);
    let (shop, office): (ProjectName, ProjectName) = ("shop".parse().unwrap(), "office".parse().unwrap());
    for key in [
        ObjectKey::namespaced(&shop, Kind::Backend, "b", "x"),
        ObjectKey::namespaced(&shop, Kind::Backend, "a", "y"),
        ObjectKey::namespaced(&office, Kind::Backend, "a", "z"),
        ObjectKey::namespaced(&shop, Kind::HttpRoute, "a", "x"),
        ObjectKey::cluster(&shop, Kind::TunnelNode, "x"),
    ] {
        state.create(Draft::of_spec(key, json!({})), &mut fresh).unwrap();
    }
    let names = |objects: Vec<&Arc<Object>>| objects.iter().map(|o| o.key.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(state.objects().of(Some(&shop), Kind::Backend).collect()), ["y", "x"]);
    assert_eq!(names(state.objects().in_namespace(Some(&shop), Kind::Backend, "b").collect()), ["x"]);
    assert_eq!(names(state.objects().of(Some(&shop), Kind::TunnelNode).collect()), ["x"]);
    assert_eq!(names(state.objects().of(Some(&office), Kind::HttpRoute).collect()), [""; 0]);
}

#[test]
fn timestamps_are_whole_seconds_of_utc() {
    let at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_789).unwrap();
    assert_eq!(timestamp(at.to_offset(time::macros::offset!(+2))), "2023-11-14T22:13:20Z");
}
