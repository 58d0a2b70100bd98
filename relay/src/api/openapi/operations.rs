//! Everything that can be asked of the API, as data; `v2` and `v3` write it down, each in its form. Pure.

use serde_json::Value;
use underpass_shared::resource::kind::{KindInfo, Scope};

use super::{
    super::{
        discovery,
        path::{REVIEWS, Subresource},
        verbs::is_built_in,
    },
    Breadth, CORE,
    components::{DELETE_OPTIONS, PATCH, STATUS, TOKEN_REQUEST, list_name, name},
    group_version_kind, split,
};

/// The forms in which objects are written.
const OBJECT_MEDIA: &[&str] = &["application/json", "application/yaml"];
const PATCH_MEDIA: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
/// The same for Kubernetes' own kinds. kubectl sends the fourth form wherever it is described.
const PATCH_MEDIA_BUILT_IN: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const TEXT_MEDIA: &[&str] = &["text/plain"];
const JSON_MEDIA: &[&str] = &["application/json"];

/// A parameter of a path or a query.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// `string`, `integer` or `boolean`.
    pub(super) form: &'static str,
    pub(super) description: &'static str,
}

const fn parameter(name: &'static str, form: &'static str, description: &'static str) -> Parameter {
    Parameter { name, form, description }
}

/// Those that a path can hold.
const PATH: &[Parameter] =
    &[parameter("namespace", "string", "The namespace."), parameter("name", "string", "The object's name.")];
const READ: &[Parameter] = &[parameter("pretty", "string", "Changes nothing: answers are not laid out for reading.")];
const WRITE: &[Parameter] = &[
    parameter("dryRun", "string", "`All`: everything is checked and answered, and nothing is stored."),
    parameter("fieldManager", "string", "Who writes, for the record of who owns which field."),
    parameter("fieldValidation", "string", "What becomes of unknown fields: `Strict`, `Warn` or `Ignore`."),
];
const FORCE: &[Parameter] =
    &[parameter("force", "boolean", "Server-side apply takes over fields that others own instead of failing.")];
const SELECT: &[Parameter] = &[
    parameter("continue", "string", "The next page of the list whose answer held this."),
    parameter("fieldSelector", "string", "Only objects whose fields have these values."),
    parameter("labelSelector", "string", "Only objects with such labels."),
    parameter("limit", "integer", "The most objects of one answer."),
    parameter("resourceVersion", "string", "The revision to begin at."),
    parameter(
        "resourceVersionMatch",
        "string",
        "Whether the list must be of that very revision: `Exact`, `NotOlderThan`.",
    ),
    parameter("timeoutSeconds", "integer", "When the answer ends at the latest."),
];
const WATCH: &[Parameter] = &[
    parameter("allowWatchBookmarks", "boolean", "A watch tells from time to time how far it has come."),
    parameter("sendInitialEvents", "boolean", "A watch begins with the objects that there are."),
    parameter("watch", "boolean", "Each change as it comes instead of a list."),
];
const DELETE: &[Parameter] = &[
    parameter("dryRun", "string", "`All`: everything is checked and answered, and nothing is deleted."),
    parameter("gracePeriodSeconds", "integer", "Seconds that the object is given to end by itself."),
    parameter("orphanDependents", "boolean", "The older word for `propagationPolicy=Orphan`."),
    parameter("propagationPolicy", "string", "What becomes of what it owns: `Orphan`, `Background`, `Foreground`."),
];
const LOG: &[Parameter] = &[
    parameter("container", "string", "The container."),
    parameter("follow", "boolean", "New lines as they come."),
    parameter("limitBytes", "integer", "The most bytes of the answer."),
    parameter("previous", "boolean", "Of the container's run before this one."),
    parameter("sinceSeconds", "integer", "Only lines that are not older."),
    parameter("sinceTime", "string", "Only lines from then on."),
    parameter("tailLines", "integer", "Only so many of the last lines."),
    parameter("timestamps", "boolean", "Each line begins with its time."),
];

/// What can be asked by one method at one path.
pub(super) struct Operation {
    pub(super) path: String,
    /// In lower case.
    pub(super) method: &'static str,
    /// `x-kubernetes-action`.
    pub(super) action: &'static str,
    /// Unique among all operations.
    pub(super) id: String,
    pub(super) description: String,
    /// `x-kubernetes-group-version-kind`.
    pub(super) kind: Value,
    /// What the query may say, some parameters after the others.
    pub(super) query: Vec<&'static [Parameter]>,
    pub(super) body: Option<Body>,
    /// The code of success.
    pub(super) code: &'static str,
    pub(super) answer: Content,
}

pub(super) struct Body {
    pub(super) content: Content,
    pub(super) is_required: bool,
}

/// Of a body or an answer.
pub(super) struct Content {
    pub(super) media: &'static [&'static str],
    /// `None` for text.
    pub(super) schema: Option<String>,
}

impl Content {
    fn json(schema: impl Into<String>) -> Self {
        Self { media: JSON_MEDIA, schema: Some(schema.into()) }
    }

    fn text() -> Self {
        Self { media: TEXT_MEDIA, schema: None }
    }
}

/// The parameters in `path`, in braces there.
pub(super) fn of_path(path: &str) -> impl Iterator<Item = &'static Parameter> {
    PATH.iter().filter(move |parameter| path.contains(&format!("{{{}}}", parameter.name)))
}

/// All that `api_version` takes.
#[must_use]
pub(super) fn of_version(breadth: Breadth, api_version: &'static str) -> Vec<Operation> {
    let mut operations = Vec::new();
    for info in breadth.kinds().filter(|info| info.api_versions.contains(&api_version)) {
        Writer { api_version, info, operations: &mut operations }.write();
    }
    for (_, plural, kind, _) in REVIEWS.iter().filter(|review| review.0 == api_version) {
        let schema = name(api_version, kind);
        operations.push(Operation {
            path: format!("{}/{plural}", root(api_version)),
            method: "post",
            action: "post",
            id: id("create", api_version, "", kind, ""),
            description: format!("Answers a {kind}."),
            kind: group_version_kind(api_version, kind),
            query: vec![WRITE, READ],
            body: Some(Body { content: written(schema.clone()), is_required: true }),
            code: "201",
            answer: Content::json(schema),
        });
    }
    operations
}

fn root(api_version: &str) -> String {
    if api_version == CORE { format!("/api/{CORE}") } else { format!("/apis/{api_version}") }
}

fn written(schema: String) -> Content {
    Content { media: OBJECT_MEDIA, schema: Some(schema) }
}

/// `listGatewayApoxyDevV1NamespacedHTTPRoute`.
fn id(verb: &str, api_version: &str, scope: &str, kind: &str, rest: &str) -> String {
    let (group, version) = split(api_version);
    let group = if group.is_empty() { "core" } else { group };
    let words = group.split(['.', '-']).chain([version]).map(capital).collect::<String>();
    format!("{verb}{words}{scope}{kind}{}", capital(rest))
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

/// Writes down the operations of one kind.
struct Writer<'a> {
    api_version: &'static str,
    info: &'static KindInfo,
    operations: &'a mut Vec<Operation>,
}

impl Writer<'_> {
    fn write(&mut self) {
        let (root, plural) = (root(self.api_version), self.info.plural);
        let collection = match self.info.scope {
            Scope::Namespaced => format!("{root}/namespaces/{{namespace}}/{plural}"),
            Scope::Cluster | Scope::Deployment => format!("{root}/{plural}"),
        };
        self.collection(&collection);
        if self.info.scope == Scope::Namespaced {
            let everywhere = self.list(format!("{root}/{plural}"));
            let id = id("list", self.api_version, "", self.info.name, "ForAllNamespaces");
            self.operations.push(Operation { id, ..everywhere });
        }
        let item = format!("{collection}/{{name}}");
        self.item(&item);
        for subresource in Subresource::of(self.info.kind) {
            let path = format!("{item}/{}", subresource.name());
            match subresource {
                Subresource::Status => self.status(&path),
                Subresource::Token => self.token(path),
                Subresource::Log => self.log(&path),
            }
        }
    }

    /// A `get` at `path`, for others to be made of.
    fn at(&self, path: String, verb: &str, rest: &str) -> Operation {
        let scope = if self.info.scope == Scope::Namespaced { "Namespaced" } else { "" };
        Operation {
            path,
            method: "get",
            action: "get",
            id: id(verb, self.api_version, scope, self.info.name, rest),
            description: String::new(),
            kind: group_version_kind(self.api_version, self.info.name),
            query: vec![READ],
            body: None,
            code: "200",
            answer: Content::json(self.schema()),
        }
    }

    fn schema(&self) -> String {
        name(self.api_version, self.info.name)
    }

    fn object(&self) -> Option<Body> {
        Some(Body { content: written(self.schema()), is_required: true })
    }

    fn list(&self, path: String) -> Operation {
        Operation {
            action: "list",
            description: format!("Lists or watches objects of kind {}.", self.info.name),
            query: vec![SELECT, WATCH, READ],
            answer: Content::json(list_name(self.api_version, self.info)),
            ..self.at(path, "list", "")
        }
    }

    fn has(&self, verb: &str) -> bool {
        discovery::verbs(self.info.kind).contains(&verb)
    }

    fn collection(&mut self, path: &str) {
        let kind = self.info.name;
        self.operations.push(self.list(path.to_owned()));
        if self.has("create") {
            self.operations.push(Operation {
                method: "post",
                action: "post",
                description: format!("Creates a {kind}."),
                query: vec![WRITE, READ],
                body: self.object(),
                code: "201",
                ..self.at(path.to_owned(), "create", "")
            });
        }
        if self.has("deletecollection") {
            self.operations.push(Operation {
                method: "delete",
                action: "deletecollection",
                description: format!("Deletes the objects of kind {kind} that are selected."),
                query: vec![DELETE, SELECT, READ],
                body: delete_options(),
                answer: Content::json(STATUS),
                ..self.at(path.to_owned(), "deleteCollection", "")
            });
        }
    }

    fn item(&mut self, path: &str) {
        let kind = self.info.name;
        self.operations
            .push(Operation { description: format!("Shows a {kind}."), ..self.at(path.to_owned(), "read", "") });
        if self.has("update") {
            self.writes(path, "");
        }
        if self.has("delete") {
            self.operations.push(Operation {
                method: "delete",
                action: "delete",
                description: format!("Deletes a {kind}."),
                query: vec![DELETE, READ],
                body: delete_options(),
                answer: Content::json(STATUS),
                ..self.at(path.to_owned(), "delete", "")
            });
        }
    }

    /// PUT and PATCH of the object, or of the `part` of it that `path` names.
    fn writes(&mut self, path: &str, part: &str) {
        let of = if part.is_empty() { String::new() } else { format!("the {part} of ") };
        let kind = self.info.name;
        self.operations.push(Operation {
            method: "put",
            action: "put",
            description: format!("Replaces {of}a {kind}."),
            query: vec![WRITE, READ],
            body: self.object(),
            ..self.at(path.to_owned(), "replace", part)
        });
        let media = if is_built_in(self.info.kind) { PATCH_MEDIA_BUILT_IN } else { PATCH_MEDIA };
        let patch = Content { media, schema: Some(PATCH.to_owned()) };
        self.operations.push(Operation {
            method: "patch",
            action: "patch",
            description: format!("Changes {of}a {kind}, or applies fields to it."),
            query: vec![WRITE, FORCE, READ],
            body: Some(Body { content: patch, is_required: true }),
            ..self.at(path.to_owned(), "patch", part)
        });
    }

    fn status(&mut self, path: &str) {
        self.operations.push(Operation {
            description: format!("Shows a {} for its status.", self.info.name),
            ..self.at(path.to_owned(), "read", "status")
        });
        self.writes(path, "status");
    }

    fn token(&mut self, path: String) {
        let kind = discovery::subresource_kind(self.info, Subresource::Token);
        let api_version = if kind == TOKEN_REQUEST.1 { TOKEN_REQUEST.0 } else { self.api_version };
        let schema = name(api_version, kind);
        self.operations.push(Operation {
            method: "post",
            action: "post",
            description: format!("Issues a token for a {}.", self.info.name),
            kind: group_version_kind(api_version, kind),
            query: vec![WRITE, READ],
            body: Some(Body { content: written(schema.clone()), is_required: true }),
            code: "201",
            answer: Content::json(schema),
            ..self.at(path, "create", "token")
        });
    }

    fn log(&mut self, path: &str) {
        self.operations.push(Operation {
            description: "Shows what the pod has said.".to_owned(),
            query: vec![LOG, READ],
            answer: Content::text(),
            ..self.at(path.to_owned(), "read", "log")
        });
        for (method, verb) in [("post", "create"), ("put", "replace")] {
            self.operations.push(Operation {
                method,
                action: method,
                description: "Adds to what the pod has said.".to_owned(),
                query: vec![LOG, READ],
                body: Some(Body { content: Content::text(), is_required: true }),
                answer: Content::json(STATUS),
                ..self.at(path.to_owned(), verb, "log")
            });
        }
    }
}

fn delete_options() -> Option<Body> {
    Some(Body { content: Content::json(DELETE_OPTIONS), is_required: false })
}
