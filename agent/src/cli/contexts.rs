//! A kubeconfig as a document: its contexts are read, made current, changed, and written back with all else in it kept.
//!
//! Pure. Which file it is in, and when it is written, is for `config`.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::kubeconfig::{Kubeconfig, Problem};

/// What stands for a secret that is not shown.
const REDACTED: &str = "REDACTED";
/// What stands for data that is too long to look at.
const OMITTED: &str = "DATA+OMITTED";
/// Fields that name files, relative to the kubeconfig.
const FILE_FIELDS: [(&str, &str, &str); 4] = [
    ("clusters", "cluster", "certificate-authority"),
    ("users", "user", "client-certificate"),
    ("users", "user", "client-key"),
    ("users", "user", "tokenFile"),
];

/// A kubeconfig of which nothing is lost by changing it (comments apart).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contexts(Value);

/// What may be changed of a context.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change<'a> {
    pub(crate) project: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) user: Option<&'a str>,
    pub(crate) cluster: Option<&'a str>,
}

/// A row of `config get-contexts`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    pub(crate) is_current: bool,
    pub(crate) name: &'a str,
    pub(crate) cluster: &'a str,
    pub(crate) user: &'a str,
    pub(crate) project: &'a str,
    pub(crate) namespace: &'a str,
}

impl Default for Contexts {
    fn default() -> Self {
        Self(json!({"apiVersion": "v1", "kind": "Config", "clusters": [], "contexts": [], "users": []}))
    }
}

impl Contexts {
    /// # Errors
    /// [`Problem::Syntax`] when the text is not a map, or its lists are not lists of named entries.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        let value: Value = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| Problem::Syntax(error.render_with_formatter(&serde_saphyr::UserMessageFormatter)))?;
        if !value.is_object() {
            return Err(Problem::Syntax("it is not a map".to_owned()));
        }
        for list in ["clusters", "contexts", "users"] {
            let is_named = |entry: &Value| entry["name"].is_string();
            match &value[list] {
                Value::Null => {}
                Value::Array(entries) if entries.iter().all(is_named) => {}
                _ => return Err(Problem::Syntax(format!("`{list}` is not a list of entries with names"))),
            }
        }
        Ok(Self(value))
    }

    pub(crate) fn to_yaml(&self) -> anyhow::Result<String> {
        let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
        Ok(serde_saphyr::to_string_with_options(&self.0, options)?)
    }

    pub(crate) fn value(&self) -> &Value {
        &self.0
    }

    pub(crate) fn current(&self) -> Option<&str> {
        self.0["current-context"].as_str().filter(|name| !name.is_empty())
    }

    pub(crate) fn rows(&self) -> Vec<Row<'_>> {
        let contexts = self.0["contexts"].as_array().into_iter().flatten();
        let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
        contexts
            .map(|entry| {
                let context = &entry["context"];
                let cluster = context["cluster"].as_str().unwrap_or_default();
                let server = self.entry("clusters", cluster).and_then(|entry| entry["cluster"]["server"].as_str());
                Row {
                    is_current: self.current() == Some(text(&entry["name"]).as_str()),
                    name: entry["name"].as_str().unwrap_or_default(),
                    cluster,
                    user: context["user"].as_str().unwrap_or_default(),
                    project: server.and_then(|server| split_server(server).1).unwrap_or_default(),
                    namespace: context["namespace"].as_str().unwrap_or_default(),
                }
            })
            .collect()
    }

    /// Makes a context the current one.
    pub(crate) fn use_context(&mut self, name: &str) -> Result<(), Problem> {
        self.existing("contexts", "context", name)?;
        self.0["current-context"] = name.into();
        Ok(())
    }

    pub(crate) fn rename(&mut self, old: &str, new: &str) -> Result<(), Problem> {
        self.existing("contexts", "context", old)?;
        if old != new && self.entry("contexts", new).is_some() {
            return Err(Problem::Exists { kind: "context", name: new.to_owned() });
        }
        let was_current = self.current() == Some(old);
        if let Some(entry) = self.entry_mut("contexts", old) {
            entry["name"] = new.into();
        }
        if was_current {
            self.0["current-context"] = new.into();
        }
        Ok(())
    }

    /// Removes a context; true when it was the current one.
    pub(crate) fn delete(&mut self, name: &str) -> Result<bool, Problem> {
        self.existing("contexts", "context", name)?;
        if let Some(contexts) = self.0["contexts"].as_array_mut() {
            contexts.retain(|entry| entry["name"] != name);
        }
        Ok(self.current() == Some(name))
    }

    /// Changes a context, or makes it from the current one; true when it was made.
    pub(crate) fn set(&mut self, name: &str, change: &Change<'_>) -> Result<bool, Problem> {
        let is_new = self.entry("contexts", name).is_none();
        let model = if is_new { self.current() } else { Some(name) };
        let model = model.and_then(|model| self.entry("contexts", model)).map(|entry| entry["context"].clone());
        let mut context = model.filter(Value::is_object).unwrap_or_else(|| json!({}));
        if is_new && let Some(fields) = context.as_object_mut() {
            fields.remove("namespace");
        }
        for (field, kind, list, value) in
            [("cluster", "cluster", "clusters", change.cluster), ("user", "user", "users", change.user)]
        {
            if let Some(value) = value {
                self.existing(list, kind, value)?;
                context[field] = value.into();
            }
        }
        if let Some(namespace) = change.namespace {
            context["namespace"] = namespace.into();
        }
        for field in ["cluster", "user"] {
            if !context[field].is_string() {
                return Err(Problem::NoModel { name: name.to_owned(), field });
            }
        }
        if let Some(project) = change.project {
            let cluster = context["cluster"].as_str().unwrap_or_default().to_owned();
            context["cluster"] = self.cluster_of(&cluster, project)?.into();
        }
        match self.entry_mut("contexts", name) {
            Some(entry) => entry["context"] = context,
            None => self.push("contexts", json!({"name": name, "context": context})),
        }
        Ok(is_new)
    }

    /// The context for `project` on the current context's relay, as its user: the one that is there, or a new one.
    /// It becomes the current one.
    pub(crate) fn use_project(&mut self, project: &str) -> Result<String, Problem> {
        let current = self.current().ok_or(Problem::NoCurrentContext)?.to_owned();
        let context = self.existing("contexts", "context", &current)?["context"].clone();
        let text = |field: &str| context[field].as_str().unwrap_or_default().to_owned();
        let (cluster, user) = (self.cluster_of(&text("cluster"), project)?, text("user"));
        let is_it = |row: &Row<'_>| row.cluster == cluster && row.user == user;
        let found = self.rows().iter().find(|row| is_it(row)).map(|row| row.name.to_owned());
        let name = found.unwrap_or_else(|| {
            let name = self.free("contexts", project, &cluster);
            self.push("contexts", json!({"name": name, "context": {"cluster": cluster, "user": user}}));
            name
        });
        self.0["current-context"] = name.as_str().into();
        Ok(name)
    }

    /// Only the current context, its cluster and its user.
    pub(crate) fn minify(&mut self) -> Result<(), Problem> {
        let current = self.current().ok_or(Problem::NoCurrentContext)?.to_owned();
        let context = self.existing("contexts", "context", &current)?["context"].clone();
        for (list, name) in
            [("contexts", &json!(current)), ("clusters", &context["cluster"]), ("users", &context["user"])]
        {
            if let Some(entries) = self.0[list].as_array_mut() {
                entries.retain(|entry| entry["name"] == *name);
            }
        }
        Ok(())
    }

    /// Replaces everything that gives access or is too long to read.
    pub(crate) fn redact(&mut self) {
        for entry in self.0["clusters"].as_array_mut().into_iter().flatten() {
            replace(&mut entry["cluster"], "certificate-authority-data", OMITTED);
        }
        for entry in self.0["users"].as_array_mut().into_iter().flatten() {
            replace(&mut entry["user"], "client-certificate-data", OMITTED);
            for field in ["client-key-data", "token", "password"] {
                replace(&mut entry["user"], field, REDACTED);
            }
        }
    }

    /// Makes the names of files good for a kubeconfig in another folder.
    pub(crate) fn absolutise(&mut self, folder: &Path) {
        for (list, part, field) in FILE_FIELDS {
            for entry in self.0[list].as_array_mut().into_iter().flatten() {
                if let Some(file) = entry[part].get_mut(field)
                    && let Some(text) = file.as_str()
                {
                    *file = folder.join(text).display().to_string().into();
                }
            }
        }
    }

    /// The cluster that is `cluster` seen from `project`: the one that is there, or a new entry.
    fn cluster_of(&mut self, cluster: &str, project: &str) -> Result<String, Problem> {
        let mut body = self.existing("clusters", "cluster", cluster)?["cluster"].clone();
        let server = body["server"].as_str().ok_or_else(|| Problem::Url(String::new()))?;
        let (base, old) = split_server(server);
        let stem = old.and_then(|old| cluster.strip_suffix(old)?.strip_suffix('-')).unwrap_or(cluster).to_owned();
        body["server"] = format!("{base}/projects/{project}").into();
        let clusters = self.0["clusters"].as_array().into_iter().flatten();
        if let Some(entry) = clusters.into_iter().find(|entry| entry["cluster"] == body) {
            return Ok(entry["name"].as_str().unwrap_or_default().to_owned());
        }
        let name = self.free("clusters", &format!("{stem}-{project}"), "relay");
        self.push("clusters", json!({"name": name, "cluster": body}));
        Ok(name)
    }

    /// `wanted`, or `wanted-suffix`, or with a number: a name that no entry has.
    fn free(&self, list: &str, wanted: &str, suffix: &str) -> String {
        let numbered = (2..).map(|number| format!("{wanted}-{suffix}-{number}"));
        let mut names = [wanted.to_owned(), format!("{wanted}-{suffix}")].into_iter().chain(numbered);
        names.find(|name| self.entry(list, name).is_none()).expect("the numbers do not end before the entries")
    }

    fn push(&mut self, list: &str, entry: Value) {
        match &mut self.0[list] {
            Value::Array(entries) => entries.push(entry),
            other => *other = Value::Array(vec![entry]),
        }
    }

    fn existing(&self, list: &str, kind: &'static str, name: &str) -> Result<&Value, Problem> {
        self.entry(list, name).ok_or_else(|| Problem::Missing { kind, name: name.to_owned() })
    }

    fn entry(&self, list: &str, name: &str) -> Option<&Value> {
        self.0[list].as_array()?.iter().find(|entry| entry["name"] == name)
    }

    fn entry_mut(&mut self, list: &str, name: &str) -> Option<&mut Value> {
        self.0[list].as_array_mut()?.iter_mut().find(|entry| entry["name"] == name)
    }
}

/// A whole kubeconfig for one project of the relay that `config` names, with `token` or else with our own credentials.
pub(crate) fn standalone(config: &Kubeconfig, project: &str, user: &str, token: Option<&str>) -> Contexts {
    let mut cluster = Map::new();
    cluster.insert("server".to_owned(), format!("{}/projects/{project}", config.server).into());
    cluster.insert("certificate-authority-data".to_owned(), STANDARD.encode(&config.ca).into());
    if let Some(name) = &config.tls_server_name {
        cluster.insert("tls-server-name".to_owned(), name.as_str().into());
    }
    let mut credentials = Map::new();
    if let Some(token) = token.or(config.token.as_ref().map(|token| token.as_str())) {
        credentials.insert("token".to_owned(), token.into());
    }
    if let (Some(client), None) = (&config.client, token) {
        credentials.insert("client-certificate-data".to_owned(), STANDARD.encode(&client.certificate).into());
        credentials.insert("client-key-data".to_owned(), STANDARD.encode(&client.key).into());
    }
    Contexts(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": project,
        "clusters": [{"name": project, "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": project, "context": {"cluster": project, "user": user}}],
    }))
}

/// The URL without `/projects/NAME`, and the name.
fn split_server(server: &str) -> (&str, Option<&str>) {
    let server = server.trim_end_matches('/');
    match server.rsplit_once("/projects/") {
        Some((base, project)) => (base, Some(project)),
        None => (server, None),
    }
}

fn replace(map: &mut Value, field: &str, with: &str) {
    if let Some(value) = map.get_mut(field).filter(|value| value.as_str() != Some("")) {
        *value = with.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
apiVersion: v1
kind: Config
preferences: {colors: true}
current-context: main
contexts:
- {name: main, context: {cluster: relay, user: admin, namespace: shop, extensions: [{name: x}]}}
- {name: other, context: {cluster: relay, user: bob}}
clusters:
- {name: relay, cluster: {server: 'https://h:6443', certificate-authority-data: Y2E=, extra: 1}}
users:
- {name: admin, user: {client-key-data: a2V5, client-certificate-data: Yw==}}
- {name: bob, user: {token: s3cret}}
";

    fn contexts() -> Contexts {
        Contexts::parse(TEXT).unwrap()
    }

    fn current(contexts: &Contexts) -> (String, String, String, String) {
        let rows = contexts.rows();
        let row = rows.iter().find(|row| row.is_current).unwrap();
        (row.name.into(), row.cluster.into(), row.user.into(), row.project.into())
    }

    #[test]
    fn a_context_is_made_current_renamed_and_deleted() {
        let mut contexts = contexts();
        contexts.use_context("other").unwrap();
        contexts.rename("other", "bobs").unwrap();
        assert_eq!(contexts.current(), Some("bobs"));
        assert_eq!(
            contexts.rename("bobs", "main").unwrap_err().to_string(),
            "there already is a context called `main`"
        );
        assert!(contexts.delete("bobs").unwrap());
        assert!(!contexts.delete("main").unwrap());
        assert_eq!(contexts.use_context("main").unwrap_err().to_string(), "no context is called `main`");
    }

    #[test]
    fn unknown_content_outlives_a_change() {
        let mut contexts = contexts();
        contexts.set("main", &Change { namespace: Some("x"), ..Change::default() }).unwrap();
        let again = Contexts::parse(&contexts.to_yaml().unwrap()).unwrap();
        assert_eq!(again, contexts);
        assert_eq!(again.value()["preferences"]["colors"], true);
        assert_eq!(again.value()["contexts"][0]["context"]["extensions"][0]["name"], "x");
        assert_eq!(again.value()["contexts"][0]["context"]["namespace"], "x");
    }

    #[test]
    fn a_project_has_one_cluster_and_one_context_per_user() {
        let mut contexts = contexts();
        assert_eq!(contexts.use_project("acme").unwrap(), "acme");
        assert_eq!(current(&contexts), ("acme".into(), "relay-acme".into(), "admin".into(), "acme".into()));
        assert_eq!(contexts.value()["clusters"][1]["cluster"]["server"], "https://h:6443/projects/acme");
        assert_eq!(contexts.value()["clusters"][1]["cluster"]["extra"], 1);
        assert_eq!(contexts.use_project("other").unwrap(), "other-relay-other");
        assert_eq!(contexts.value()["clusters"][2]["name"], "relay-other");
        let before = contexts.value()["clusters"].clone();
        assert_eq!(contexts.use_project("acme").unwrap(), "acme");
        assert_eq!(contexts.value()["clusters"], before);
    }

    #[test]
    fn a_context_is_made_from_the_current_one() {
        let mut contexts = contexts();
        let change = Change { project: Some("acme"), user: Some("bob"), namespace: Some("n"), cluster: None };
        assert!(contexts.set("new", &change).unwrap());
        assert!(!contexts.set("new", &change).unwrap());
        let made = &contexts.value()["contexts"][2];
        assert_eq!(made["context"]["cluster"], "relay-acme");
        assert_eq!((&made["context"]["user"], &made["context"]["namespace"]), (&json!("bob"), &json!("n")));
        let nobody = Change { user: Some("nobody"), ..Change::default() };
        assert_eq!(contexts.set("new", &nobody).unwrap_err().to_string(), "no user is called `nobody`");
        let error = Contexts::default().set("new", &Change::default()).unwrap_err().to_string();
        assert!(error.contains("--cluster"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown_and_others_entries_left_out() {
        let mut contexts = contexts();
        contexts.redact();
        let text = contexts.to_yaml().unwrap();
        for secret in ["a2V5", "s3cret", "Y2E=", "Yw=="] {
            assert!(!text.contains(secret), "{text}");
        }
        contexts.minify().unwrap();
        for list in ["clusters", "contexts", "users"] {
            assert_eq!(contexts.value()[list].as_array().unwrap().len(), 1, "{list}");
        }
        assert_eq!(contexts.value()["users"][0]["user"]["client-key-data"], REDACTED);
    }

    #[test]
    fn names_of_files_stay_good_in_another_folder() {
        let mut contexts = Contexts::parse(&TEXT.replace("token: s3cret", "tokenFile: t, client-key: /k")).unwrap();
        contexts.absolutise(Path::new("/a"));
        let user = &contexts.value()["users"][1]["user"];
        assert_eq!((&user["tokenFile"], &user["client-key"]), (&json!("/a/t"), &json!("/k")));
    }

    #[test]
    fn what_is_no_kubeconfig_is_refused() {
        for text in ["hello", "[]", "contexts: {}", "users: [1]", "clusters: [{nam: x}]", "a: ["] {
            assert!(matches!(Contexts::parse(text), Err(Problem::Syntax(_))), "{text}");
        }
    }
}
