use proptest::prelude::*;
use serde_json::json;
use underpass_shared::identity::ProjectName;

use super::*;
use crate::store::object::Draft;

/// A state, and the collector that follows it; nothing is collected before [`World::settle`].
struct World {
    state: State,
    fresh: Fresh,
    pending: Pending,
}

fn world() -> World {
    let mut fresh = Fresh::new(time::OffsetDateTime::UNIX_EPOCH, [3; 32]);
    let mut state = State::default();
    lifecycle::bootstrap(&mut state, &mut fresh).unwrap();
    state.commit();
    World { state, fresh, pending: Pending::default() }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::namespaced(&ProjectName::default(), Kind::ConfigMap, "default", name)
}

impl World {
    fn transact<T>(&mut self, work: impl FnOnce(&mut State, &mut Fresh) -> Result<T, WriteError>) -> T {
        let mark = self.state.mark();
        let done = work(&mut self.state, &mut self.fresh).unwrap();
        self.state.end(mark);
        let events = self.state.changes().events;
        self.state.commit();
        self.pending.observe(self.state.objects(), events.iter().map(|event| &**event));
        done
    }

    /// Creates `at`, owned by `owners` as references are made by [`World::reference`].
    fn create(&mut self, at: &ObjectKey, owners: Vec<Value>, finalizers: &[&str]) {
        let mut draft = Draft::of_spec(at.clone(), json!({}));
        draft.meta.owner_references = owners;
        draft.meta.finalizers = finalizers.iter().map(|name| (*name).to_owned()).collect();
        self.transact(|state, fresh| lifecycle::create(state, draft, fresh));
    }

    fn own(&mut self, at: &ObjectKey, owners: Vec<Value>) {
        let mut draft = self.get(at).unwrap().draft();
        draft.meta.owner_references = owners;
        self.transact(|state, _| lifecycle::replace(state, draft, None));
    }

    fn reference(&self, owner: &ObjectKey, blocks: bool) -> Value {
        let info = owner.kind.info();
        let uid = self.get(owner).map_or("gone".to_owned(), |owner| owner.body.uid.clone());
        json!({
            "apiVersion": info.api_versions[0], "kind": info.name, "name": owner.name, "uid": uid,
            "blockOwnerDeletion": blocks,
        })
    }

    fn delete(&mut self, at: &ObjectKey, finalizers: &[&str]) {
        self.transact(|state, fresh| lifecycle::delete(state, at, None, finalizers, fresh));
    }

    fn release(&mut self, at: &ObjectKey) {
        let mut draft = self.get(at).unwrap().draft();
        draft.meta.finalizers.clear();
        self.transact(|state, _| lifecycle::replace(state, draft, None));
    }

    fn get(&self, at: &ObjectKey) -> Option<&Arc<Object>> {
        self.state.objects().get(at)
    }

    /// Collects, `max` objects at a time, until nothing is left to do; answers in how many rounds.
    fn settle(&mut self, max: usize) -> usize {
        for round in 0..10_000 {
            let keys = self.pending.take(max);
            if keys.is_empty() {
                let left = Pending::of_all(self.state.objects());
                assert!(left.is_empty(), "a look at everything finds nothing more: {left:?}");
                return round;
            }
            self.transact(|state, fresh| Ok(collect(state, fresh, &keys)));
        }
        panic!("the collector does not come to an end");
    }

    fn is(&self, at: &ObjectKey) -> &'static str {
        match self.get(at) {
            None => "gone",
            Some(object) if object.body.deletion.is_some() => "going",
            Some(_) => "there",
        }
    }
}

#[test]
fn dependents_go_with_their_last_owner_and_lose_the_others() {
    let mut world = world();
    let (a, b, both, grandchild) = (key("a"), key("b"), key("both"), key("grandchild"));
    world.create(&a, vec![], &[]);
    world.create(&b, vec![], &[]);
    let owners = vec![world.reference(&a, true), world.reference(&b, true)];
    world.create(&both, owners, &[]);
    let owner = world.reference(&both, false);
    world.create(&grandchild, vec![owner], &[]);

    world.delete(&a, &[]);
    world.settle(1);
    let kept = world.get(&both).unwrap().body.meta.owner_references.clone();
    assert_eq!(kept, [world.reference(&b, true)], "the dangling reference is gone");

    world.delete(&b, &[]);
    world.settle(1);
    assert_eq!([world.is(&both), world.is(&grandchild)], ["gone", "gone"]);
}

#[test]
fn a_dependent_made_after_its_owner_died_goes() {
    let mut world = world();
    let owner = world.reference(&key("never"), false);
    world.create(&key("late"), vec![owner], &[]);
    world.settle(50);
    assert_eq!(world.is(&key("late")), "gone");
}

#[test]
fn an_owner_of_the_same_name_made_anew_is_another() {
    let mut world = world();
    world.create(&key("a"), vec![], &[]);
    let owner = world.reference(&key("a"), false);
    world.create(&key("child"), vec![owner], &[]);
    let again = Draft::of_spec(key("a"), json!({}));
    world.transact(|state, fresh| {
        lifecycle::delete(state, &key("a"), None, &[], fresh)?;
        lifecycle::create(state, again, fresh)
    });
    world.settle(50);
    assert_eq!(world.is(&key("child")), "gone");
}

#[test]
fn owners_are_looked_for_where_the_dependent_may_have_them() {
    let mut world = world();
    let project = ProjectName::default();
    let elsewhere = ObjectKey::namespaced(&project, Kind::ConfigMap, "other", "a");
    let node = ObjectKey::cluster(&project, Kind::TunnelNode, "office");
    world.create(&elsewhere, vec![], &[]);
    world.create(&node, vec![], &[]);
    let with = |world: &World, owner: &ObjectKey, field: &str, value: &str| {
        let mut reference = world.reference(owner, false);
        reference[field] = json!(value);
        reference
    };
    let cases = [
        ("another-namespace", world.reference(&elsewhere, false), "gone"),
        ("cluster-wide", world.reference(&node, false), "there"),
        ("other-version", with(&world, &node, "apiVersion", "core.apoxy.dev/v9"), "there"),
        ("other-name", with(&world, &node, "name", "lab"), "gone"),
        ("other-uid", with(&world, &node, "uid", "x"), "gone"),
        ("unknown-kind", with(&world, &node, "kind", "ReplicaSet"), "there"),
        ("no-fields", json!({"uid": "x"}), "there"),
    ];
    for (name, reference, want) in cases {
        world.create(&key(name), vec![reference], &[]);
        world.settle(50);
        assert_eq!(world.is(&key(name)), want, "{name}");
    }
    // What has no namespace cannot be owned by what has one: that cannot be resolved, so that it stays.
    let owner = world.reference(&elsewhere, false);
    let proxy = ObjectKey::cluster(&project, Kind::Proxy, "p");
    world.create(&proxy, vec![owner], &[]);
    world.settle(50);
    assert_eq!(world.is(&proxy), "there");
}

#[test]
fn in_the_foreground_the_owner_waits_for_what_blocks_it() {
    let mut world = world();
    let (owner, blocking, other) = (key("owner"), key("blocking"), key("other"));
    world.create(&owner, vec![], &[]);
    let references = [world.reference(&owner, true), world.reference(&owner, false)];
    world.create(&blocking, vec![references[0].clone()], &["example.com/hold"]);
    world.create(&other, vec![references[1].clone()], &["example.com/hold"]);
    world.delete(&owner, &[FOREGROUND]);
    world.settle(50);
    assert_eq!([world.is(&owner), world.is(&blocking), world.is(&other)], ["going"; 3]);
    world.release(&blocking);
    world.settle(50);
    assert_eq!([world.is(&owner), world.is(&blocking), world.is(&other)], ["gone", "gone", "going"]);
}

#[test]
fn in_the_foreground_grandchildren_go_first() {
    let mut world = world();
    let (owner, child, grandchild) = (key("owner"), key("child"), key("grandchild"));
    world.create(&owner, vec![], &[]);
    let reference = world.reference(&owner, true);
    world.create(&child, vec![reference], &[]);
    let reference = world.reference(&child, true);
    world.create(&grandchild, vec![reference], &["example.com/hold"]);
    world.delete(&owner, &[FOREGROUND]);
    world.settle(50);
    assert_eq!([world.is(&owner), world.is(&child), world.is(&grandchild)], ["going"; 3]);
    world.release(&grandchild);
    world.settle(50);
    assert_eq!([world.is(&owner), world.is(&child), world.is(&grandchild)], ["gone"; 3]);
}

#[test]
fn circles_are_undone_in_the_foreground() {
    let mut world = world();
    let (a, b) = (key("a"), key("b"));
    world.create(&a, vec![], &[]);
    let owner = world.reference(&a, true);
    world.create(&b, vec![owner], &[]);
    let owners = vec![world.reference(&b, true), world.reference(&a, true)];
    world.own(&a, owners);
    world.settle(50);
    assert_eq!([world.is(&a), world.is(&b)], ["there"; 2]);
    world.delete(&a, &[FOREGROUND]);
    world.settle(50);
    assert_eq!([world.is(&a), world.is(&b)], ["gone"; 2]);
}

#[test]
fn orphans_lose_their_owner_and_stay() {
    let mut world = world();
    world.create(&key("owner"), vec![], &[]);
    let owner = world.reference(&key("owner"), true);
    for name in ["x", "y"] {
        world.create(&key(name), vec![owner.clone()], &[]);
    }
    world.delete(&key("owner"), &[ORPHAN]);
    assert_eq!(world.is(&key("owner")), "going");
    world.settle(1);
    assert_eq!([world.is(&key("owner")), world.is(&key("x")), world.is(&key("y"))], ["gone", "there", "there"]);
    assert_eq!(world.get(&key("x")).unwrap().body.meta.owner_references, Vec::<Value>::new());
}

#[test]
fn a_terminating_namespace_is_emptied_in_steps_and_goes() {
    let mut world = world();
    let project = ProjectName::default();
    let namespace = ObjectKey::cluster(&project, Kind::Namespace, "shop");
    for n in 0..120 {
        world.create(&ObjectKey::namespaced(&project, Kind::ConfigMap, "shop", &format!("c{n}")), vec![], &[]);
    }
    let held = ObjectKey::namespaced(&project, Kind::Secret, "shop", "held");
    world.create(&held, vec![], &["example.com/hold"]);
    world.delete(&namespace, &[]);
    assert_eq!(world.settle(50), 3);
    assert_eq!([world.is(&namespace), world.is(&held)], ["going"; 2]);
    assert_eq!(lifecycle::contents(world.state.objects(), &project, "shop").count(), 1);
    world.release(&held);
    world.settle(50);
    assert_eq!([world.is(&namespace), world.is(&held)], ["gone"; 2]);
}

#[test]
fn what_cannot_be_deleted_stays_and_holds_up_nothing() {
    let mut world = world();
    let project = ProjectName::default();
    let class = ObjectKey::cluster(&project, Kind::GatewayClass, "default");
    let owner = world.reference(&key("never"), false);
    let before = world.get(&class).unwrap().body.uid.clone();
    let node = ObjectKey::cluster(&project, Kind::TunnelNode, "never");
    let absent = world.reference(&node, false);
    world.own(&class, vec![absent]);
    world.create(&key("child"), vec![owner], &[]);
    let keys = world.pending.take(50);
    assert_eq!(keys.len(), 2);
    let done = world.transact(|state, fresh| Ok(collect(state, fresh, &keys)));
    assert_eq!(done, 1);
    assert_eq!(world.get(&class).unwrap().body.uid, before);
    assert_eq!(world.is(&key("child")), "gone");
}

/// What happens in a random history; objects are numbered.
#[derive(Debug, Clone)]
enum Act {
    Own { object: usize, owners: Vec<(usize, bool)> },
    Delete { object: usize, finalizer: Option<&'static str> },
}

const OBJECTS: usize = 6;

fn act() -> impl Strategy<Value = Act> {
    let object = 0..OBJECTS;
    let finalizer = prop_oneof![Just(None), Just(Some(FOREGROUND)), Just(Some(ORPHAN))];
    prop_oneof![
        3 => (object.clone(), proptest::collection::vec((0..OBJECTS, any::<bool>()), 0..3))
            .prop_map(|(object, owners)| Act::Own { object, owners }),
        1 => (object, finalizer).prop_map(|(object, finalizer)| Act::Delete { object, finalizer }),
    ]
}

/// The naive model: who is there and who owns whom; an absent owner's number is kept until it is swept.
#[derive(Debug, PartialEq)]
struct Model {
    owners: Vec<Option<Vec<usize>>>,
}

impl Model {
    fn act(&mut self, act: &Act) {
        match act {
            Act::Own { object, owners } => {
                if let Some(held) = &mut self.owners[*object] {
                    *held = owners.iter().map(|(owner, _)| *owner).collect();
                }
            }
            Act::Delete { object, finalizer } => {
                self.owners[*object] = None;
                if *finalizer == Some(ORPHAN) {
                    self.owners.iter_mut().flatten().for_each(|owners| owners.retain(|owner| owner != object));
                }
            }
        }
        self.sweep();
    }

    fn sweep(&mut self) {
        let alive = |model: &Self, owner: usize| model.owners[owner].is_some();
        while let Some(dead) = (0..OBJECTS).find(|&object| {
            let owners = self.owners[object].as_ref();
            owners.is_some_and(|owners| !owners.is_empty() && !owners.iter().any(|&owner| alive(self, owner)))
        }) {
            self.owners[dead] = None;
        }
        let there: Vec<bool> = (0..OBJECTS).map(|owner| alive(self, owner)).collect();
        self.owners.iter_mut().flatten().for_each(|owners| owners.retain(|&owner| there[owner]));
    }
}

proptest! {
    #[test]
    fn any_history_ends_as_the_naive_model_says(
        acts in proptest::collection::vec(act(), 1..25),
        at_once in 1..5_usize,
    ) {
        let mut world = world();
        let named = |object: usize| key(&format!("o{object}"));
        for object in 0..OBJECTS {
            world.create(&named(object), vec![], &[]);
        }
        let mut model = Model { owners: vec![Some(Vec::new()); OBJECTS] };
        for act in &acts {
            match act {
                Act::Own { object, owners } if world.get(&named(*object)).is_some() => {
                    let owners = owners.iter().map(|(owner, blocks)| world.reference(&named(*owner), *blocks)).collect();
                    world.own(&named(*object), owners);
                }
                Act::Delete { object, finalizer } if world.get(&named(*object)).is_some() => {
                    world.delete(&named(*object), finalizer.as_slice());
                }
                Act::Own { .. } | Act::Delete { .. } => continue,
            }
            model.act(act);
            world.settle(at_once);
            let owners = (0..OBJECTS).map(|object| {
                let object = world.get(&named(object))?;
                let names = object.body.meta.owner_references.iter().map(|owner| owner["name"].as_str().unwrap());
                Some(names.map(|name| name[1..].parse().unwrap()).collect())
            });
            prop_assert_eq!(&model, &Model { owners: owners.collect() });
        }
    }
}
