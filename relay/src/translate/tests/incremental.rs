//! A translator that goes on from what it knows comes to the same as one that begins anew.

use super::*;

#[derive(Debug, Clone)]
enum Change {
    /// A route to a backend, or one whose rule is broken.
    Route {
        name: u8,
        host: u8,
        backend: u8,
        broken: bool,
    },
    Backend {
        name: u8,
        node: bool,
    },
    Grant,
    Remove {
        kind: Kind,
        name: u8,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let kind = prop_oneof![Just(Kind::HttpRoute), Just(Kind::Backend), Just(Kind::ReferenceGrant)];
    prop_oneof![
        4 => (0..4_u8, 0..3_u8, 0..3_u8, any::<bool>())
            .prop_map(|(name, host, backend, broken)| Change::Route { name, host, backend, broken: broken && host == 0 }),
        2 => (0..3_u8, any::<bool>()).prop_map(|(name, node)| Change::Backend { name, node }),
        1 => Just(Change::Grant),
        2 => (kind, 0..4_u8).prop_map(|(kind, name)| Change::Remove { kind, name }),
    ]
}

fn object(kind: Kind, name: &str, generation: usize, spec: &Value) -> Value {
    let (version, kind) = (kind.info().api_versions[0], kind.info().name);
    let metadata = json!({
        "name": name, "namespace": "default", "generation": generation, "uid": format!("{kind}{name}"),
        "creationTimestamp": "2030-01-01T00:00:00Z",
    });
    json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
}

fn apply(objects: &mut ProjectSnapshot, change: &Change, generation: usize) {
    let mut replace = |kind: Kind, name: &str, spec: &Value| {
        objects.remove(kind, Some("default"), name);
        objects.put(kind, object(kind, name, generation, spec));
    };
    match change {
        Change::Route { name, host, backend, broken } => {
            let reference = json!({"kind": "Backend", "name": format!("b{backend}"), "port": 80});
            let path = if *broken { "(" } else { "/x.*" };
            let matches = json!([{"path": {"type": "RegularExpression", "value": path}}]);
            let spec = json!({
                "parentRefs": [{"name": "default"}], "hostnames": [format!("h{host}.com")],
                "rules": [{"matches": matches, "backendRefs": [reference]}, {"backendRefs": [reference]}],
            });
            replace(Kind::HttpRoute, &format!("r{name}"), &spec);
        }
        Change::Backend { name, node } => {
            let endpoint = if *node { json!({"fqdn": "office.tun.internal"}) } else { json!({"ip": "192.0.2.1"}) };
            replace(Kind::Backend, &format!("b{name}"), &json!({"endpoints": [endpoint]}));
        }
        Change::Grant => replace(Kind::ReferenceGrant, "g0", &json!({"from": [], "to": []})),
        Change::Remove { kind, name } => {
            let first = match kind {
                Kind::HttpRoute => 'r',
                Kind::Backend => 'b',
                _ => 'g',
            };
            objects.remove(*kind, Some("default"), &format!("{first}{name}"));
        }
    }
}

#[test]
fn what_is_taken_out_is_gone_whatever_its_kind() {
    let empty = ProjectSnapshot::default();
    for &kind in KINDS_READ {
        let mut objects = ProjectSnapshot::default();
        objects.put(kind, object(kind, "x", 1, &json!({"hostnames": [], "sessionPersistence": {}})));
        let there = format!("{objects:?}");
        objects.remove(kind, Some("default"), "x");
        objects.targets_version = 0;
        assert_ne!(there, format!("{empty:?}"), "{kind:?} is read");
        assert_eq!(format!("{objects:?}"), format!("{empty:?}"), "{kind:?}");
    }
}

proptest! {
    #[test]
    fn what_was_kept_is_what_would_be_made(changes in prop::collection::vec(change(), 1..24)) {
        let mut snapshot = snapshot([("default", project())]);
        let (mut translator, name) = (Translator::default(), "default".parse().unwrap());
        for (generation, change) in changes.iter().enumerate() {
            apply(snapshot.projects.get_mut(&name).unwrap(), change, generation);
            let kept = translator.translate(&snapshot, &settings());
            let anew = translate(&snapshot, &settings());
            prop_assert_eq!(&kept.wanted, &anew.wanted);
            prop_assert_eq!(&kept.owners, &anew.owners);
            for host in ["h0.com", "h1.com", "h2.com"] {
                for path in ["/", "/xy"] {
                    prop_assert_eq!(kept.goes(80, host, path), anew.goes(80, host, path));
                }
            }
            snapshot.owners = kept.owners;
        }
    }
}
