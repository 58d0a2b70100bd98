//! Every kind that is served, through every verb of kubectl: each call is for all of them at once.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::Value;
use underpass_shared::resource::kind::{KINDS, Kind, KindInfo, Scope};
use underpass_tests::{
    kubectl::{Kubectl, Version},
    manifest,
    relay::Relay,
};

/// The name of each object.
const NAME: &str = "it";

/// What stands below `metadata` in the least manifest of a kind that says something; `None` when none can be written.
fn body(kind: Kind) -> Option<&'static str> {
    const TARGET: &str = "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: default}]}";
    Some(match kind {
        // Made from what the relay serves.
        Kind::CustomResourceDefinition => return None,
        Kind::Project | Kind::Namespace | Kind::DomainZone | Kind::TunnelNode | Kind::Proxy => "spec: {}",
        Kind::ServiceAccount => "automountServiceAccountToken: false",
        Kind::ClusterRoleBinding => {
            "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}\n\
             subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ann}]"
        }
        Kind::Secret => "stringData: {password: open-sesame}",
        Kind::ConfigMap => "data: {colour: green}",
        Kind::Service => "spec: {selector: {app: it}, ports: [{port: 80}]}",
        Kind::EndpointSlice => "addressType: IPv4\nendpoints: [{addresses: [192.0.2.1]}]\nports: [{port: 80}]",
        Kind::Deployment => {
            "spec: {selector: {matchLabels: {app: it}}, template: {metadata: {labels: {app: it}}, \
             spec: {containers: [{name: it, image: it}]}}}"
        }
        Kind::Pod => "spec: {containers: [{name: it, image: it}]}",
        Kind::Lease => "spec: {holderIdentity: me, leaseDurationSeconds: 15}",
        Kind::DomainRecord => "spec: {name: it.example.com, target: {dns: {a: [192.0.2.1]}}}",
        Kind::CloudMonitoringIntegration => "spec: {datadogCredentials: {apiKey: k, site: datadoghq.eu}}",
        Kind::GatewayClass => "spec: {controllerName: example.com/other}",
        Kind::Gateway => "spec: {gatewayClassName: default, listeners: [{name: a, protocol: HTTP, port: 80}]}",
        Kind::ListenerSet => "spec: {parentRef: {name: default}, listeners: [{name: b, protocol: HTTP, port: 80}]}",
        Kind::ReferenceGrant => {
            "spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}], \
             to: [{group: '', kind: Service}]}"
        }
        Kind::Backend => "spec: {endpoints: [{fqdn: it.example.com}]}",
        Kind::BackendTlsPolicy => {
            "spec: {targetRefs: [{group: '', kind: Service, name: it}], \
             validation: {hostname: it.example.com, wellKnownCACertificates: System}}"
        }
        Kind::DirectResponse => "spec: {body: {type: Inline, inline: hello}}",
        Kind::HttpRouteFilter => "spec: {compressor: {algorithms: [gzip]}}",
        Kind::EdgeFunction => "spec: {template: {code: {wasmSource: {url: 'https://example.com/it.wasm'}}}}",
        Kind::EdgeFunctionRevision => "spec: {code: {wasmSource: {url: 'https://example.com/it.wasm'}}}",
        Kind::HttpRoute | Kind::GrpcRoute => "spec: {parentRefs: [{name: default}], hostnames: [it.example.com]}",
        Kind::TlsRoute => {
            "spec: {parentRefs: [{name: default}], hostnames: [it.example.com], \
             rules: [{backendRefs: [{name: it, port: 443}]}]}"
        }
        Kind::TcpRoute | Kind::UdpRoute => {
            "spec: {parentRefs: [{name: default}], rules: [{backendRefs: [{name: it, port: 53}]}]}"
        }
        Kind::RateLimit | Kind::BackendTrafficPolicy | Kind::ClientTrafficPolicy | Kind::SecurityPolicy => TARGET,
    })
}

/// The resource of a kind as kubectl takes and prints it, with its group.
fn resource(info: &KindInfo, word: &str) -> String {
    match info.api_versions[0].rsplit_once('/') {
        Some((group, _)) => format!("{word}.{group}"),
        None => word.to_owned(),
    }
}

fn writable() -> impl Iterator<Item = &'static KindInfo> {
    KINDS.iter().filter(|info| body(info.kind).is_some())
}

/// A manifest with one object of each kind.
fn all() -> String {
    all_but(|_| false)
}

fn all_but(is_left_out: impl Fn(&KindInfo) -> bool) -> String {
    let documents: Vec<_> = writable()
        .filter(|info| !is_left_out(info))
        .map(|info| {
            let mut text = format!("apiVersion: {}\nkind: {}\n", info.api_versions[0], info.name);
            write!(text, "metadata: {{name: {NAME}}}\n{}\n", body(info.kind).unwrap()).unwrap();
            text
        })
        .collect();
    manifest::documents(&documents)
}

/// `WORD.GROUP/it` of every kind, as `-o name` and messages say it.
fn names() -> BTreeSet<String> {
    writable().map(|info| format!("{}/{NAME}", resource(info, info.singular))).collect()
}

/// The objects that the lines of `text` begin with, and `word` ends.
fn told(text: &str, word: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.strip_suffix(word)).map(|name| name.trim_end().to_owned()).collect()
}

/// A file with one object of each kind, for one kubectl.
struct All {
    kubectl: Kubectl,
    file: String,
}

impl All {
    /// What a command prints that is given the file.
    async fn run(&self, words: &[&str]) -> String {
        self.kubectl.prints(&[words, &["-f", self.file.as_str()]].concat()).await
    }

    async fn applies(&self) {
        assert_eq!(told(&self.run(&["apply", "--dry-run=server"]).await, " created (server dry run)"), names());
        assert_eq!(told(&self.run(&["apply"]).await, " created"), names());
        let specs = r#"jsonpath={range .items[*]}{.kind} {.metadata.generation} {.spec}{"\n"}{end}"#;
        let before = self.run(&["get", "-o", specs]).await;
        let again = self.run(&["apply"]).await.replace(" unchanged", " configured");
        assert_eq!(told(&again, " configured"), names(), "defaults in lists look to kubectl like changes");
        assert_eq!(self.run(&["get", "-o", specs]).await, before, "applying again changes nothing");
        let applied = self.run(&["apply", "--server-side", "--force-conflicts"]).await;
        assert_eq!(told(&applied, " serverside-applied"), names());
    }

    async fn changes(&self) {
        assert_eq!(told(&self.run(&["label", "seen=yes"]).await, " labeled"), names());
        assert_eq!(told(&self.run(&["annotate", "note=kept"]).await, " annotated"), names());
        let merge = r#"{"metadata":{"annotations":{"merged":"yes"}}}"#;
        assert_eq!(told(&self.run(&["patch", "--type=merge", "-p", merge]).await, " patched"), names());
        let json = r#"[{"op":"test","path":"/metadata/labels/seen","value":"yes"},
            {"op":"add","path":"/metadata/annotations/operated","value":"yes"}]"#;
        assert_eq!(told(&self.run(&["patch", "--type=json", "-p", json]).await, " patched"), names());
    }

    async fn shows(&self) {
        shows_all(&serde_json::from_str(&self.run(&["get", "-o", "json"]).await).unwrap());
        shows_all(&serde_saphyr::from_str(&self.run(&["get", "-o", "yaml"]).await).unwrap());
        assert_eq!(told(&self.run(&["get", "-o", "name"]).await, ""), names());
        let jsonpath = r#"jsonpath={range .items[*]}{.kind}={.metadata.annotations.operated}{"\n"}{end}"#;
        let kinds: BTreeSet<_> = writable().map(|info| info.name.to_owned()).collect();
        assert_eq!(told(&self.run(&["get", "-o", jsonpath]).await, "=yes"), kinds);
        shows_tables(&self.run(&["get"]).await);
        shows_tables(&self.run(&["get", "-o", "wide"]).await);
    }

    async fn describes(&self) {
        // Debian's asks for EndpointSlices in v1beta1, which Kubernetes ended with 1.25.
        let is_old = |info: &KindInfo| self.kubectl.version == Version::Debian && info.kind == Kind::EndpointSlice;
        let described = self.kubectl.file("described.yaml", &all_but(is_old));
        let pages = self.kubectl.prints(&["describe", "-f", &described]).await;
        for info in writable() {
            // The core kinds have pages of their own in kubectl, the others one that goes by their fields.
            let generic = pages.contains(&format!("\nKind:         {}\n", info.name));
            assert!(generic || is_core(info), "{} is described: {pages}", info.name);
        }
        let described = pages.lines().filter(|line| line.starts_with("Name:") && line.ends_with(" it"));
        assert_eq!(described.count(), writable().filter(|info| !is_old(info)).count());
    }

    async fn edits_and_compares(&self) {
        let same = self.kubectl.run(&["diff", "-f", &self.file]).await;
        assert_eq!((same.code, same.stdout.as_str()), (Some(0), ""), "nothing differs: {same:?}");
        let editing = self.kubectl.clone().with_editor("s/note: kept/note: edited/");
        assert_eq!(told(&editing.prints(&["edit", "-f", &self.file]).await, " edited"), names());
        let labelled = all().replace("{name: it}", "{name: it, labels: {seen: differently}}");
        let labelled = self.kubectl.file("labelled.yaml", &labelled);
        let differs = self.kubectl.run(&["diff", "-f", &labelled]).await;
        let changes = differs.stdout.lines().filter(|line| line.trim() == "+    seen: differently");
        assert_eq!((differs.code, changes.count()), (Some(1), names().len()), "{differs:?}");
    }

    async fn watches(&self) {
        for info in writable() {
            let word = resource(info, info.plural);
            let mut watch = self.kubectl.start(&["get", &word, "-l", "seen=yes", "-w", "-o", "name"]);
            let name = format!("{}/{NAME}", resource(info, info.singular));
            watch.line(&name, |line| (line == name).then_some(())).await;
            watch.kill().await;
        }
    }

    async fn deletes(&self) {
        let deleted = self.run(&["delete"]).await;
        let deleted = deleted.lines().filter(|line| line.contains(" \"it\" deleted"));
        assert_eq!(deleted.count(), names().len());
        // They are gone when it ends: it has waited for that.
        assert_eq!(self.run(&["get", "--ignore-not-found"]).await, "");
        let gone = self.kubectl.run(&["wait", "--for=delete", "-f", &self.file, "--timeout=30s"]).await;
        let none = ["NotFound", "not found", "no matching resources"].iter().any(|word| gone.stderr.contains(word));
        assert!(gone.code == Some(0) || none, "{gone:?}");
    }
}

/// Whether kubectl has the kind built in.
fn is_core(info: &KindInfo) -> bool {
    !info.api_versions[0].contains("apoxy.dev/") && !info.api_versions[0].starts_with("gateway.")
}

async fn every_kind(version: Version) {
    let relay = Relay::start().await;
    let kubectl = Kubectl::new(version, relay.kubeconfig());
    let file = kubectl.file("all.yaml", &all());
    let all = All { kubectl, file };
    all.applies().await;
    all.changes().await;
    all.shows().await;
    all.describes().await;
    all.edits_and_compares().await;
    all.watches().await;
    all.deletes().await;
}

/// Each kind is in the list, with what each write left.
fn shows_all(list: &Value) {
    let items = list["items"].as_array().unwrap();
    for info in writable() {
        let item = items.iter().find(|item| item["kind"] == info.name && item["apiVersion"] == info.api_versions[0]);
        let item = item.unwrap_or_else(|| panic!("{} is in the list: {list}", info.name));
        let metadata = &item["metadata"];
        assert_eq!(metadata["labels"]["seen"], "yes", "{item}");
        for annotation in ["merged", "operated"] {
            assert_eq!(metadata["annotations"][annotation], "yes", "{item}");
        }
        assert_eq!(metadata["annotations"]["note"], "kept", "{item}");
        assert_eq!(metadata["namespace"].is_string(), info.scope == Scope::Namespaced, "{item}");
    }
}

/// Each kind has a row in a table with a name and an age.
fn shows_tables(text: &str) {
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    for info in writable() {
        let name = format!("{}/{NAME}", resource(info, info.singular));
        let at = lines.iter().position(|line| line.split_whitespace().next() == Some(&name));
        let at = at.unwrap_or_else(|| panic!("{name} has a row: {text}"));
        let header: Vec<_> = lines[at - 1].split_whitespace().collect();
        assert!(header[0] == "NAME" && header.contains(&"AGE"), "{name}: {header:?}");
    }
}

#[tokio::test]
async fn every_kind_takes_every_verb_of_debians_kubectl() {
    every_kind(Version::Debian).await;
}

#[tokio::test]
async fn every_kind_takes_every_verb_of_a_current_kubectl() {
    every_kind(Version::Current).await;
}
