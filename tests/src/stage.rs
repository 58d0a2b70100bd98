//! An example of a seed, brought to life: its manifests as they are written, and every Service that they name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
};

use http::{HeaderName, HeaderValue, Method};
use serde_json::Value;

use crate::{
    client::{self, Answer, Connection, empty},
    eventually::eventually,
    relay::Relay,
    service::{Place, Says, Service},
};

/// The host that the seeds' requests are for where a route names none.
pub const LOCALHOST: &str = "localhost:8080";

/// A relay with the manifests and the Services.
#[derive(Debug)]
pub struct Stage {
    pub relay: Relay,
    services: BTreeMap<String, Service>,
}

/// The documents of a file of `tests/seeds` whose objects have one of `names`, as they are written.
///
/// # Panics
/// When one is not there.
#[must_use]
pub fn of_seed(file: &str, names: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut found, mut known) = (Vec::new(), BTreeSet::new());
    for document in text.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(document).expect("a seed is YAML");
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if names.contains(&name.as_str()) {
            found.push(document);
            known.insert(name);
        }
    }
    assert_eq!(known.len(), names.len(), "{file} has all of {names:?}");
    found.join("\n---\n")
}

impl Stage {
    /// Starts a relay and the Services that `manifests` refer to, applies all, and waits until every route is served.
    pub async fn open(manifests: &str, says: Says) -> Self {
        let stage = Self::prepare(manifests, says).await;
        stage.relay.cli().apply(manifests).await;
        stage.is_served(manifests).await;
        stage
    }

    /// The same without the manifests.
    pub async fn prepare(manifests: &str, says: Says) -> Self {
        let relay = Relay::start_with(&["--allow-backend", "127.0.0.0/8", "--port-map", "50051=0"]).await;
        let mut services = BTreeMap::new();
        for place in places(manifests) {
            let service = Service::start(place.clone(), says).await;
            relay.cli().apply(&service.manifest()).await;
            services.insert(place.name, service);
        }
        let classes = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/around/classes.yaml");
        relay.cli().apply(&fs::read_to_string(classes).expect("the classes are there")).await;
        Self { relay, services }
    }

    /// Waits until every route of `manifests` says that it is served and that all it refers to was found.
    pub async fn is_served(&self, manifests: &str) {
        for route in objects(manifests) {
            if let Some(path) = path_of(&route) {
                eventually(&format!("{path} is served"), async || {
                    let object = self.relay.api().get(&path).await;
                    let is_true = |kind: &str| condition(&object, kind).is_some_and(|one| one["status"] == "True");
                    if is_true("Accepted") && is_true("ResolvedRefs") { Ok(()) } else { Err(object["status"].clone()) }
                })
                .await;
            }
        }
    }

    /// Where the Gateways' port 80 is bound.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.relay.addresses.http
    }

    /// # Panics
    /// When no manifest named it.
    #[must_use]
    pub fn service(&self, name: &str) -> &Service {
        self.services.get(name).unwrap_or_else(|| panic!("no manifest names a Service {name}"))
    }

    /// GET of `http://localhost:8080PATH`: the status, and the body of a good answer.
    pub async fn get(&self, path: &str) -> (u16, String) {
        self.ask(Method::GET, LOCALHOST, path, &[]).await
    }

    /// One request with these header fields on a connection of its own.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn ask(&self, method: Method, host: &str, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
        let connection = Connection::http1(self.http()).await.expect("the gateway is there");
        told(&exchange(connection, (method, host, path), fields).await)
    }
}

/// The status, and the body of a good answer: others are worded by the relay.
#[must_use]
pub fn told(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), if answer.status.is_success() { answer.text() } else { String::new() })
}

/// One request without a body.
///
/// # Panics
/// When there is no answer.
pub async fn exchange(
    mut connection: Connection,
    (method, host, path): (Method, &str, &str),
    fields: &[(&str, &str)],
) -> Answer {
    let mut request = connection.request(method, host, path, empty());
    for (name, value) in fields {
        let name: HeaderName = name.parse().expect("a header's name");
        request.headers_mut().append(name, HeaderValue::from_str(value).expect("a header's value"));
    }
    let response = connection.begin(request).await.expect("the gateway answers");
    client::whole(response).await.expect("the answer ends well")
}

/// A condition of a route's first parent.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object.pointer("/status/parents/0/conditions")?.as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn objects(manifests: &str) -> Vec<Value> {
    manifests.split("\n---\n").map(|text| serde_saphyr::from_str(text).expect("a manifest is YAML")).collect()
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or("default")
}

/// The API path of a route; of other kinds, none.
fn path_of(object: &Value) -> Option<String> {
    let plural = match object["kind"].as_str()? {
        "HTTPRoute" => "httproutes",
        "GRPCRoute" => "grpcroutes",
        _ => return None,
    };
    let (version, name) = (object["apiVersion"].as_str()?, object["metadata"]["name"].as_str()?);
    Some(format!("/apis/{version}/namespaces/{}/{plural}/{name}", namespace(object)))
}

/// Every Service that the routes of `manifests` send requests or copies to.
fn places(manifests: &str) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    for object in objects(manifests) {
        let rules = object["spec"]["rules"].as_array().cloned().unwrap_or_default();
        for rule in &rules {
            let backends = rule["backendRefs"].as_array().into_iter().flatten();
            let filters = rule["filters"].as_array().into_iter().flatten();
            let mirrors = filters.map(|filter| &filter["requestMirror"]["backendRef"]);
            for reference in backends.chain(mirrors).filter(|one| one["kind"].is_null() && one["name"].is_string()) {
                places.insert(Place {
                    namespace: reference["namespace"].as_str().unwrap_or(namespace(&object)).to_owned(),
                    name: reference["name"].as_str().unwrap_or_default().to_owned(),
                    port: reference["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or_default(),
                });
            }
        }
    }
    places
}
