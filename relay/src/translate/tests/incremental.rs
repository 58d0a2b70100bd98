//! A translator that goes on from what it knows comes to the same as one that begins anew.

use super::*;
use crate::route::table::TlsServes;

#[derive(Debug, Clone)]
enum Change {
    Route(Route),
    Backend {
        name: u8,
        node: bool,
    },
    /// A policy for all backends of the Gateway.
    Policy,
    Grant,
    /// A Gateway, with a listener for one of the hostnames or without.
    Gateway {
        project: usize,
        narrow: Option<u8>,
    },
    Remove {
        project: usize,
        kind: Kind,
        name: u8,
    },
}

/// A route of one of three kinds to a backend, or one whose rule is broken.
#[derive(Debug, Clone)]
struct Route {
    project: usize,
    kind: Kind,
    name: u8,
    hosts: Vec<&'static str>,
    section: Option<&'static str>,
    path: &'static str,
    backend: u8,
}

const PROJECTS: [&str; 2] = ["default", "red"];
const HOSTS: [&str; 4] = ["h0.com", "h1.com", "h2.com", "*.com"];

fn route_change() -> impl Strategy<Value = Change> {
    let kind = prop_oneof![6 => Just(Kind::HttpRoute), 1 => Just(Kind::GrpcRoute), 1 => Just(Kind::TlsRoute)];
    let hosts = prop::collection::vec(prop::sample::select(&HOSTS[..]), 0..3);
    let section = prop_oneof![3 => Just(None), 1 => Just(Some("http")), 1 => Just(Some("narrow"))];
    let path = prop::sample::select(&["/x.*", "/y", "("][..]);
    let project = prop_oneof![3 => Just(0_usize), 1 => Just(1)];
    (project, kind, 0..4_u8, hosts, section, path, 0..3_u8).prop_map(
        |(project, kind, name, hosts, section, path, backend)| {
            Change::Route(Route { project, kind, name, hosts, section, path, backend })
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let kind = prop_oneof![
        4 => Just(Kind::HttpRoute), 1 => Just(Kind::GrpcRoute), 1 => Just(Kind::TlsRoute), 1 => Just(Kind::Backend),
        1 => Just(Kind::ReferenceGrant), 1 => Just(Kind::BackendTrafficPolicy),
    ];
    let narrow = prop_oneof![Just(None), (0..3_u8).prop_map(Some)];
    prop_oneof![
        12 => route_change(),
        2 => (0..3_u8, any::<bool>()).prop_map(|(name, node)| Change::Backend { name, node }),
        1 => Just(Change::Grant),
        1 => Just(Change::Policy),
        1 => (0..2_usize, narrow).prop_map(|(project, narrow)| Change::Gateway { project, narrow }),
        4 => (0..2_usize, kind, 0..4_u8).prop_map(|(project, kind, name)| Change::Remove { project, kind, name }),
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

impl Route {
    fn spec(&self) -> Value {
        let reference = json!({"kind": "Backend", "name": format!("b{}", self.backend), "port": 80});
        let rules = match self.kind {
            Kind::HttpRoute => {
                let matches = json!([{"path": {"type": "RegularExpression", "value": self.path}}]);
                json!([{"matches": matches, "backendRefs": [reference]}, {"backendRefs": [reference]}])
            }
            _ => json!([{"backendRefs": [reference]}]),
        };
        let section = if self.kind == Kind::TlsRoute { Some("tls") } else { self.section };
        let parent = json!({"name": "default", "sectionName": section});
        json!({"parentRefs": [parent], "hostnames": self.hosts, "rules": rules})
    }
}

fn gateway_spec(narrow: Option<u8>) -> Value {
    let mut listeners = vec![
        json!({"name": "http", "protocol": "HTTP", "port": 80}),
        json!({"name": "tls", "protocol": "TLS", "port": 8443, "tls": {"mode": "Passthrough"}}),
    ];
    let narrow = narrow
        .map(|host| json!({"name": "narrow", "protocol": "HTTP", "port": 80, "hostname": format!("h{host}.com")}));
    listeners.extend(narrow);
    json!({"gatewayClassName": "default", "listeners": listeners})
}

fn apply(snapshot: &mut Snapshot, change: &Change, generation: usize) {
    let project = match change {
        Change::Route(Route { project, .. }) | Change::Gateway { project, .. } | Change::Remove { project, .. } => {
            *project
        }
        Change::Backend { .. } | Change::Policy | Change::Grant => 0,
    };
    let objects = snapshot.projects.get_mut(&PROJECTS[project].parse().unwrap()).unwrap();
    let mut replace = |kind: Kind, name: &str, spec: &Value| {
        objects.remove(kind, Some("default"), name);
        objects.put(kind, object(kind, name, generation, spec));
    };
    match change {
        Change::Route(route) => replace(route.kind, &format!("r{}", route.name), &route.spec()),
        Change::Backend { name, node } => {
            let endpoint = if *node { json!({"fqdn": "office.tun.internal"}) } else { json!({"ip": "192.0.2.1"}) };
            replace(Kind::Backend, &format!("b{name}"), &json!({"endpoints": [endpoint]}));
        }
        Change::Policy => {
            let to = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "default"});
            let spec = json!({"targetRefs": [to], "loadBalancer": {"type": "Random"}});
            replace(Kind::BackendTrafficPolicy, "p0", &spec);
        }
        Change::Grant => replace(Kind::ReferenceGrant, "g0", &json!({"from": [], "to": []})),
        Change::Gateway { narrow, .. } => replace(Kind::Gateway, "default", &gateway_spec(*narrow)),
        Change::Remove { kind, name, .. } => {
            let first = match kind {
                Kind::Backend => 'b',
                Kind::ReferenceGrant => 'g',
                Kind::BackendTrafficPolicy => 'p',
                _ => 'r',
            };
            objects.remove(*kind, Some("default"), &format!("{first}{name}"));
        }
    }
}

/// Where everything goes, and what is asked about how it fares.
fn behaviour(translation: &Translation) -> (Vec<String>, usize) {
    let mut goes = Vec::new();
    for host in ["h0.com", "h1.com", "h2.com", "other.com", "a.org"] {
        for path in ["/", "/xy", "/y"] {
            goes.push(translation.goes(80, host, path));
        }
        goes.push(match translation.handshake(8443, host).map(|listener| (&listener.project, &listener.serves)) {
            Some((project, TlsServes::Stream { rules, .. })) => {
                format!("{project} {:?}", rules.covering(host).next().map(|rule| &rule.route))
            }
            other => format!("{:?}", other.map(|(project, _)| project)),
        });
    }
    (goes, translation.table.fleets().len())
}

fn two_projects() -> Snapshot {
    let mut snapshot = snapshot(PROJECTS.map(|name| (name, project())));
    for project in 0..PROJECTS.len() {
        apply(&mut snapshot, &Change::Gateway { project, narrow: None }, 0);
    }
    snapshot
}

#[test]
fn what_is_taken_out_is_gone_whatever_its_kind() {
    let empty = ProjectSnapshot::default();
    for &kind in KINDS_READ {
        let mut objects = ProjectSnapshot::default();
        objects.put(kind, object(kind, "x", 1, &json!({"hostnames": [], "sessionPersistence": {}})));
        let there = format!("{objects:?}");
        objects.remove(kind, Some("default"), "x");
        assert_ne!(there, format!("{empty:?}"), "{kind:?} is read");
        assert_eq!(format!("{objects:?}"), format!("{empty:?}"), "{kind:?}");
    }
}

#[test]
fn a_changed_route_leaves_what_is_known_of_others_as_it_is() {
    let mut snapshot = two_projects();
    let mut translator = Translator::default();
    let route = |name, host: &'static str, path| {
        let (hosts, kind) = (vec![host], Kind::HttpRoute);
        Change::Route(Route { project: 0, kind, name, hosts, section: Some("http"), path, backend: 0 })
    };
    let of_first = |translation: &Translation| {
        let is_it = |wanted: &&Arc<WantedStatus>| wanted.name == "r0" && wanted.status.kind() == Kind::HttpRoute;
        translation.wanted.iter().find(is_it).unwrap().clone()
    };
    apply(&mut snapshot, &route(0, "h0.com", "/y"), 1);
    apply(&mut snapshot, &route(1, "h1.com", "/y"), 1);
    let before = translator.translate(&snapshot, &settings());
    snapshot.owners = before.owners.clone();
    apply(&mut snapshot, &route(1, "h2.com", "/y"), 2);
    apply(&mut snapshot, &route(2, "h2.com", "/x.*"), 2);
    let after = translator.translate(&snapshot, &settings());
    snapshot.owners = after.owners.clone();
    assert!(Arc::ptr_eq(&of_first(&before), &of_first(&after)), "it was not looked at again");
    apply(&mut snapshot, &Change::Gateway { project: 1, narrow: Some(2) }, 3);
    let contested = translator.translate(&snapshot, &settings());
    assert!(!Arc::ptr_eq(&of_first(&before), &of_first(&contested)), "a Gateway has its say about every route");
}

proptest! {
    #[test]
    fn what_was_kept_is_what_would_be_made(changes in prop::collection::vec((change(), any::<bool>()), 1..24)) {
        let (mut snapshot, mut translator) = (two_projects(), Translator::default());
        for (generation, (change, more)) in changes.iter().enumerate() {
            apply(&mut snapshot, change, generation + 1);
            // Some changes come together.
            if *more && generation % 3 != 2 {
                continue;
            }
            let kept = translator.translate(&snapshot, &settings());
            let anew = translate(&snapshot, &settings());
            prop_assert_eq!(kept.wanted.len(), anew.wanted.len());
            for (kept, anew) in kept.wanted.iter().zip(&anew.wanted) {
                prop_assert_eq!(kept, anew);
            }
            prop_assert_eq!(&kept.owners, &anew.owners);
            prop_assert_eq!(behaviour(&kept), behaviour(&anew));
            snapshot.owners = kept.owners;
        }
    }
}
