//! A document → a manifest: a resource of a known kind with a name, and where each part of it was written.
//!
//! Pure. Checks only what decides where the object is sent; whether its fields make sense is for the relay to say.

use std::{fmt, sync::Arc};

use serde_json::Value;
use underpass_shared::resource::kind::{KINDS, Kind, KindInfo};

use super::documents::{self, Content, Document, Node};

/// Where something was written, as people look it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) file: Arc<str>,
    /// Counts from 1.
    pub(crate) document: usize,
    /// Counts from 1.
    pub(crate) line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}, line {}", self.file, self.document, self.line)
    }
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub(crate) struct Problem {
    pub(crate) origin: Origin,
    pub(crate) problem: String,
}

/// A resource as somebody wrote it.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) origin: Origin,
    pub(crate) info: &'static KindInfo,
    /// As written: one of the kind's `api_versions`.
    pub(crate) api_version: &'static str,
    pub(crate) name: String,
    /// As written; `None` means the namespace of the command line.
    pub(crate) namespace: Option<String>,
    root: Node,
}

impl Manifest {
    /// The object, as JSON.
    pub(crate) fn object(&self) -> Value {
        self.root.to_value()
    }

    /// Where `field` (such as `spec.rules[0].name`) was written, or the nearest part of it that was.
    pub(crate) fn origin_of(&self, field: &str) -> Origin {
        let line = self.root.line_of(field).unwrap_or(self.origin.line);
        Origin { line, ..self.origin.clone() }
    }

    /// Its place in [`KINDS`]: what a directory of manifests is sorted by.
    pub(crate) fn rank(&self) -> usize {
        KINDS.iter().position(|info| info.kind == self.info.kind).unwrap_or(KINDS.len())
    }
}

/// Reads every manifest of a file's text; `file` is the name that messages show.
pub(crate) fn read(file: &str, text: &str) -> (Vec<Manifest>, Vec<Problem>) {
    let file: Arc<str> = file.into();
    let (documents, errors) = documents::parse(text);
    let mut problems: Vec<Problem> = errors
        .into_iter()
        .map(|error| Problem {
            origin: Origin { file: Arc::clone(&file), document: error.document, line: error.line },
            problem: error.problem,
        })
        .collect();
    let mut manifests = Vec::new();
    for Document { number, root } in documents {
        let origin = Origin { file: Arc::clone(&file), document: number, line: root.line };
        collect(origin, root, &mut manifests, &mut problems);
    }
    problems.sort_by_key(|problem| problem.origin.line);
    (manifests, problems)
}

fn collect(origin: Origin, root: Node, manifests: &mut Vec<Manifest>, problems: &mut Vec<Problem>) {
    if !root.text("kind").is_some_and(|kind| kind.ends_with("List")) {
        match check(origin, root) {
            Ok(manifest) => manifests.push(manifest),
            Err(found) => problems.extend(found),
        }
        return;
    }
    let Content::Map(fields) = root.content else { return };
    let items = fields.into_iter().find(|field| field.name == "items").map(|field| field.value.content);
    match items {
        Some(Content::List(items)) => {
            for item in items {
                collect(Origin { line: item.line, ..origin.clone() }, item, manifests, problems);
            }
        }
        Some(Content::Null) => {}
        _ => problems.push(Problem { origin, problem: "a list needs `items`, a list of objects".to_owned() }),
    }
}

fn check(origin: Origin, root: Node) -> Result<Manifest, Vec<Problem>> {
    if !matches!(root.content, Content::Map(_)) {
        let problem = "a manifest is a map with `apiVersion`, `kind` and `metadata`; this is not a map".to_owned();
        return Err(vec![Problem { origin, problem }]);
    }
    let mut problems = Vec::new();
    let mut refuse = |field: &str, problem: String| {
        let line = root.line_of(field).unwrap_or(origin.line);
        problems.push(Problem { origin: Origin { line, ..origin.clone() }, problem });
    };

    let mut text = |path: &[&str]| {
        let joined = path.join(".");
        let value = path.iter().try_fold(&root, |node, name| node.field(name).map(|field| &field.value));
        match value.map(|node| &node.content) {
            Some(Content::Text(text)) if !text.is_empty() => Some(text.clone()),
            None | Some(Content::Null | Content::Text(_)) => {
                refuse(&joined, format!("`{joined}` is missing"));
                None
            }
            Some(_) => {
                refuse(&joined, format!("`{joined}` must be text: put it in quotes"));
                None
            }
        }
    };
    let api_version = text(&["apiVersion"]);
    let kind = text(&["kind"]);
    let name = text(&["metadata", "name"]);
    let namespace = match root.field("metadata").and_then(|metadata| metadata.value.field("namespace")) {
        Some(field) if !matches!(field.value.content, Content::Null) => text(&["metadata", "namespace"]),
        _ => None,
    };
    let known = match (&api_version, &kind) {
        (Some(api_version), Some(kind)) => match resolve(api_version, kind) {
            Ok(known) => Some(known),
            Err((field, problem)) => {
                refuse(field, problem);
                None
            }
        },
        _ => None,
    };
    match (known, name) {
        (Some((info, api_version)), Some(name)) if problems.is_empty() => {
            Ok(Manifest { origin, info, api_version, name, namespace, root })
        }
        _ => Err(problems),
    }
}

fn resolve(api_version: &str, kind: &str) -> Result<(&'static KindInfo, &'static str), (&'static str, String)> {
    if let Some(info) = Kind::of_manifest(api_version, kind).map(Kind::info) {
        let api_version = info.api_versions.iter().find(|served| **served == api_version);
        return Ok((info, api_version.expect("of_manifest found the kind under this very version")));
    }
    match KINDS.iter().find(|info| info.name == kind) {
        Some(info) => {
            let served = info.api_versions.join("` or `");
            Err(("apiVersion", format!("{kind} is not served as `{api_version}`: write `{served}`")))
        }
        None => Err(("kind", unknown_kind(kind))),
    }
}

/// Says that nothing is called `word`, and what it may have been meant to be.
pub(crate) fn unknown_kind(word: &str) -> String {
    let mut near: Vec<&str> = KINDS.iter().map(|info| info.name).filter(|name| is_near(name, word)).collect();
    if let Some(same) = near.iter().find(|name| name.eq_ignore_ascii_case(word)) {
        near = vec![same];
    }
    if near.is_empty() {
        let all: Vec<&str> = KINDS.iter().map(|info| info.name).collect();
        return format!("unknown kind `{word}`: the relay serves {}", all.join(", "));
    }
    format!("unknown kind `{word}`: did you mean {}?", near.join(" or "))
}

fn is_near(name: &str, word: &str) -> bool {
    /// Longer words are no typing errors, and cost too much to compare.
    const WORD_CHARS_MAX: usize = 40;
    if word.len() > WORD_CHARS_MAX {
        return false;
    }
    let (name, word) = (name.to_ascii_lowercase(), word.to_ascii_lowercase());
    let allowed = (name.len() / 4).max(1);
    edits(name.as_bytes(), word.as_bytes()) <= allowed
        || (word.len() > 3 && (name.starts_with(&word) || name.ends_with(&word) || word.starts_with(&name)))
}

/// The Levenshtein distance.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        read("f.yaml", text).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_manifest_knows_its_kind_and_place() {
        let text = "# office\napiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\nmetadata:\n  name: office\n---\n\
                    apiVersion: gateway.apoxy.dev/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec:\n  rules: []\n";
        let (manifests, problems) = read("f.yaml", text);
        assert_eq!(problems, []);
        let [node, route] = manifests.as_slice() else { panic!("{manifests:?}") };
        assert_eq!((node.info.kind, node.name.as_str(), node.namespace.as_deref()), (Kind::TunnelNode, "office", None));
        assert_eq!((route.api_version, route.namespace.as_deref()), ("gateway.apoxy.dev/v1", Some("shop")));
        assert!(node.rank() < route.rank());
        assert_eq!(route.origin.to_string(), "f.yaml: document 2, line 7");
        assert_eq!(route.origin_of("spec.rules[3].x").to_string(), "f.yaml: document 2, line 11");
        assert_eq!(route.origin_of("status").line, 7);
    }

    #[test]
    fn all_that_is_missing_is_said_at_once() {
        assert_eq!(
            problems("spec: {}\n"),
            [
                "f.yaml: document 1, line 1: `apiVersion` is missing",
                "f.yaml: document 1, line 1: `kind` is missing",
                "f.yaml: document 1, line 1: `metadata.name` is missing",
            ]
        );
        assert_eq!(
            problems("apiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\nmetadata:\n  labels: {}\n  name: 12\n"),
            ["f.yaml: document 1, line 5: `metadata.name` must be text: put it in quotes"]
        );
        assert!(problems("- a\n- b\n")[0].contains("this is not a map"));
        assert!(problems("just text\n")[0].contains("this is not a map"));
    }

    #[test]
    fn unknown_kinds_and_versions_come_with_the_right_ones() {
        let manifest =
            |version: &str, kind: &str| format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n");
        assert_eq!(
            problems(&manifest("gateway.networking.k8s.io/v1", "HttpRoute")),
            ["f.yaml: document 1, line 2: unknown kind `HttpRoute`: did you mean HTTPRoute?"]
        );
        assert_eq!(
            problems(&manifest("gateway.networking.k8s.io/v9", "GRPCRoute")),
            ["f.yaml: document 1, line 1: GRPCRoute is not served as `gateway.networking.k8s.io/v9`: \
              write `gateway.networking.k8s.io/v1` or `gateway.apoxy.dev/v1`"]
        );
        assert!(problems(&manifest("core.apoxy.dev/v1alpha", "TunelNode"))[0].ends_with("did you mean TunnelNode?"));
        assert!(problems(&manifest("v1", "Unicorn"))[0].contains("the relay serves Project, Namespace"));
    }

    #[test]
    fn lists_are_expanded() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: core.apoxy.dev/v1alpha\n  kind: TunnelNode\n  \
                    metadata: {name: a}\n- apiVersion: core.apoxy.dev/v1alpha\n  kind: TunnelNode\n  metadata: {}\n";
        let (manifests, problems) = read("f.yaml", text);
        assert_eq!(manifests.iter().map(|manifest| manifest.name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].to_string(), "f.yaml: document 1, line 9: `metadata.name` is missing");
        assert_eq!(read("f.yaml", "kind: List\nitems: []\n").1, []);
        assert!(read("f.yaml", "kind: List\n").1[0].problem.contains("`items`"));
    }

    #[test]
    fn distances_are_levenshtein() {
        for (a, b, want) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("gateway", "gatway", 1)] {
            assert_eq!(edits(a.as_bytes(), b.as_bytes()), want, "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(\\PC|\n|kind: |metadata:\n  name: |apiVersion: |items:\n- |List)*") {
            let (manifests, problems) = read("f", &text);
            prop_assert!(manifests.len() + problems.len() <= text.len());
        }
    }
}
