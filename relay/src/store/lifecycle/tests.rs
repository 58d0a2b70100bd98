use super::*;

fn fresh() -> Fresh {
    Fresh::new(time::OffsetDateTime::UNIX_EPOCH, [7; 32])
}

fn started() -> State {
    let mut state = State::default();
    bootstrap(&mut state, &mut fresh()).unwrap();
    state
}

fn project(name: &str) -> ProjectName {
    name.parse().unwrap()
}

fn node(state: &mut State, of: &str, name: &str) -> Result<u16, WriteError> {
    let key = ObjectKey::cluster(&project(of), Kind::TunnelNode, name);
    create(state, Draft::of_spec(key, json!({})), &mut fresh())?;
    node_number(state, &project(of), &name.parse().unwrap()).map(|number| number.0)
}

fn agent(name: &str) -> AgentIdentity {
    AgentIdentity { project: project("default"), node: "office".parse().unwrap(), agent: name.parse().unwrap() }
}

#[test]
fn a_new_store_has_the_default_project_with_a_network_and_its_gateway() {
    let mut state = started();
    let objects = state.objects().clone();
    assert_eq!(objects.projects().collect::<Vec<_>>(), [project("default")]);
    assert_eq!(objects.len(), 5);
    assert!(project_prefix(&state, &project("default")).unwrap().to_string().starts_with("fd"));
    bootstrap(&mut state, &mut Fresh::new(time::OffsetDateTime::UNIX_EPOCH, [8; 32])).unwrap();
    assert_eq!(*state.objects(), objects, "a second start changes nothing");
}

#[test]
fn the_defaults_obey_the_schema_and_are_fully_defaulted() {
    for object in started().objects().iter() {
        let manifest = object.to_value();
        let mut defaulted = manifest.clone();
        let schema = crate::schema::of(object.key.kind);
        schema.default(&mut defaulted);
        assert_eq!(schema.validate(&manifest, None), []);
        assert_eq!(schema.unknown(&manifest), []);
        assert_eq!(defaulted, manifest);
    }
}

#[test]
fn what_every_project_has_cannot_be_deleted() {
    let mut state = started();
    let permanent: Vec<ObjectKey> = state.objects().iter().map(|object| (*object.key).clone()).collect();
    for key in permanent {
        assert_eq!(delete(&mut state, &key, None, &[], &fresh()), Err(WriteError::Permanent(key)));
    }
    assert_eq!(state.objects().len(), 5);
}

#[test]
fn a_project_goes_with_its_defaults_but_never_with_what_users_made() {
    let mut state = started();
    let before = state.clone();
    let key = ObjectKey::project(&project("shop"));
    create(
        &mut state,
        Draft::of_spec(key.clone(), json!({})),
        &mut Fresh::new(time::OffsetDateTime::UNIX_EPOCH, [9; 32]),
    )
    .unwrap();
    assert_ne!(project_prefix(&state, &project("shop")), project_prefix(&state, &project("default")));
    node(&mut state, "shop", "till").unwrap();

    let mark = state.mark();
    let refused = delete(&mut state, &key, None, &[], &fresh()).unwrap_err();
    state.roll_back(mark);
    assert_eq!(
        refused.to_string(),
        "project shop still holds 1 object(s), tunnelnodes \"till\" of project shop among them: delete them first"
    );

    delete(&mut state, &ObjectKey::cluster(&project("shop"), Kind::TunnelNode, "till"), None, &[], &fresh()).unwrap();
    delete(&mut state, &key, None, &[], &fresh()).unwrap();
    assert!(state.objects().iter().eq(before.objects().iter()));
    assert!(state.record_keys(RecordKey::Authority).eq(before.record_keys(RecordKey::Authority)));
}

#[test]
fn objects_of_a_project_that_is_not_there_are_refused() {
    let mut state = started();
    assert_eq!(node(&mut state, "nosuch", "n"), Err(WriteError::NotFound(ObjectKey::project(&project("nosuch")))));
}

#[test]
fn node_numbers_begin_at_one_and_come_back_only_when_all_were_used() {
    let mut state = started();
    assert_eq!(node(&mut state, "default", "a"), Ok(1));
    assert_eq!(node(&mut state, "default", "b"), Ok(2));
    delete(&mut state, &ObjectKey::cluster(&project("default"), Kind::TunnelNode, "a"), None, &[], &fresh()).unwrap();
    assert_eq!(node(&mut state, "default", "a"), Ok(3), "a new node is not the old one");

    let key = RecordKey::Project(project("default"));
    let record: ProjectRecord = state.record(&key).unwrap().unwrap();
    state.put_record(key, &ProjectRecord { next_node: 65535, ..record }).unwrap();
    assert_eq!(node(&mut state, "default", "c"), Ok(65535));
    assert_eq!(node(&mut state, "default", "d"), Ok(1));
    assert_eq!(node(&mut state, "default", "e"), Ok(4));
}

#[test]
fn a_node_shows_its_prefix_at_once() {
    let mut state = started();
    node(&mut state, "default", "office").unwrap();
    let key = ObjectKey::cluster(&project("default"), Kind::TunnelNode, "office");
    let object: underpass_shared::resource::tunnel_node::TunnelNode =
        state.objects().get(&key).unwrap().typed().unwrap();
    let prefix = project_prefix(&state, &project("default")).unwrap().node(NodeNumber(1));
    assert_eq!(object.status.unwrap().prefix, Some(prefix.to_string()));
}

#[test]
fn an_agent_keeps_its_number_until_its_node_is_deleted() {
    let mut state = started();
    assert!(matches!(number_agent(&mut state, &agent("a1")), Err(WriteError::NotFound(_))));
    node(&mut state, "default", "office").unwrap();
    assert_eq!(number_agent(&mut state, &agent("a1")).unwrap().value(), 1);
    assert_eq!(number_agent(&mut state, &agent("a2")).unwrap().value(), 2);
    assert_eq!(number_agent(&mut state, &agent("a1")).unwrap().value(), 1);

    delete(&mut state, &ObjectKey::cluster(&project("default"), Kind::TunnelNode, "office"), None, &[], &fresh())
        .unwrap();
    node(&mut state, "default", "office").unwrap();
    let AgentIdentity { project, node, agent } = agent("a1");
    assert_eq!(agent_number(&state, &project, &node, &agent), Ok(None), "an agent of the old node is unknown");
}

fn backend(namespace: &str, name: &str, finalizers: &[&str]) -> Draft {
    let key = ObjectKey::namespaced(&project("default"), Kind::Backend, namespace, name);
    let mut draft = Draft::of_spec(key, json!({}));
    draft.meta.finalizers = finalizers.iter().map(|name| (*name).to_owned()).collect();
    draft
}

fn exists(state: &State, key: &ObjectKey) -> bool {
    state.objects().get(key).is_some()
}

#[test]
fn a_finalizer_holds_an_object_until_it_is_taken_off() {
    let mut state = started();
    let held = backend("default", "a", &["example.com/hold"]);
    create(&mut state, held.clone(), &mut fresh()).unwrap();
    let Deleted::Marked(marked) = delete(&mut state, &held.key, None, &[], &fresh()).unwrap() else { panic!("gone") };
    assert_eq!(marked.body.generation, 2);
    assert!(marked.body.deletion.is_some());
    let again = delete(&mut state, &held.key, None, &[], &fresh()).unwrap();
    assert_eq!(again, Deleted::Marked(marked), "a second time changes nothing");

    let more = backend("default", "a", &["example.com/hold", "example.com/more"]);
    assert_eq!(replace(&mut state, more, None), Err(WriteError::Deleting(held.key.clone())));
    replace(&mut state, backend("default", "a", &[]), None).unwrap();
    assert!(!exists(&state, &held.key));
}

#[test]
fn a_namespace_comes_by_itself_and_goes_when_it_is_empty() {
    let mut state = started();
    let held = backend("shop", "a", &["example.com/hold"]);
    create(&mut state, held.clone(), &mut fresh()).unwrap();
    let namespace = ObjectKey::cluster(&project("default"), Kind::Namespace, "shop");
    let object = state.objects().get(&namespace).unwrap();
    assert_eq!(object.body.meta.labels["kubernetes.io/metadata.name"], "shop");

    let Deleted::Marked(marked) = delete(&mut state, &namespace, None, &[], &fresh()).unwrap() else { panic!("gone") };
    assert_eq!(marked.body.status, Some(json!({ "phase": "Terminating" })));
    let refused = create(&mut state, backend("shop", "b", &[]), &mut fresh());
    assert_eq!(refused, Err(WriteError::Terminating { namespace: "shop".to_owned() }));

    delete(&mut state, &held.key, None, &[], &fresh()).unwrap();
    assert!(exists(&state, &namespace), "its content is still held");
    replace(&mut state, backend("shop", "a", &[]), None).unwrap();
    assert!(!exists(&state, &namespace));

    create(&mut state, Draft::of_spec(namespace.clone(), json!({})), &mut fresh()).unwrap();
    assert!(
        matches!(delete(&mut state, &namespace, None, &[], &fresh()), Ok(Deleted::Gone(_))),
        "empty, it goes at once"
    );
}

#[test]
fn a_propagation_finalizer_is_added_by_the_deletion() {
    let mut state = started();
    let draft = backend("default", "a", &[]);
    create(&mut state, draft.clone(), &mut fresh()).unwrap();
    let Deleted::Marked(marked) = delete(&mut state, &draft.key, None, &["foregroundDeletion"], &fresh()).unwrap()
    else {
        panic!("gone")
    };
    assert_eq!(marked.body.meta.finalizers, ["foregroundDeletion"]);
}

#[test]
fn dependents_are_found_by_their_owner() {
    let mut state = started();
    let mut draft = backend("default", "a", &[]);
    draft.meta.owner_references = vec![json!({ "uid": "u1" }), json!({ "uid": "u2" })];
    create(&mut state, draft.clone(), &mut fresh()).unwrap();
    let owned = |state: &State, uid: &str| state.objects().owned_by(uid).count();
    assert_eq!((owned(&state, "u1"), owned(&state, "u2"), owned(&state, "u3")), (1, 1, 0));
    draft.meta.owner_references.pop();
    replace(&mut state, draft.clone(), None).unwrap();
    assert_eq!((owned(&state, "u1"), owned(&state, "u2")), (1, 0));
    delete(&mut state, &draft.key, None, &[], &fresh()).unwrap();
    assert_eq!(owned(&state, "u1"), 0);
}
