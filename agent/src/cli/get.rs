//! `underpass get`: objects of one kind, by name or all of them.

use std::str::FromStr;

use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::Value;
use underpass_shared::resource::kind::{Kind, KindInfo, Scope};

use super::{
    GlobalArgs, Outcome,
    client::Client,
    manifest::unknown_kind,
    print::{Console, Format, serialise},
    table::{self, Extent},
};
use crate::clock;

/// What is asked for after the kind.
#[derive(Debug, Clone, Default, Args)]
pub struct ListArgs {
    /// Names; all resources when left out
    #[arg(value_name = "NAME", conflicts_with = "all_namespaces", value_parser = NonEmptyStringValueParser::new())]
    pub names: Vec<String>,
    /// How to print them
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// A kind as people write it: `httproute`, `hr`, `httproutes.gateway.apoxy.dev`, or with a name, `httproute/web`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindWord {
    pub(crate) kind: Kind,
    pub(crate) name: Option<String>,
}

impl KindWord {
    pub(crate) const TUNNEL_NODE: Self = Self { kind: Kind::TunnelNode, name: None };
    pub(crate) const GATEWAY: Self = Self { kind: Kind::Gateway, name: None };

    /// The name in the word, then the others.
    pub(crate) fn with(&self, names: &[String]) -> Vec<String> {
        self.name.iter().chain(names).cloned().collect()
    }
}

impl FromStr for KindWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, name) = match text.split_once('/') {
            Some((_, "")) => return Err(format!("`{text}` ends where a name should follow")),
            Some((word, name)) => (word, Some(name.to_owned())),
            None => (text, None),
        };
        let (plain, group) = match word.split_once('.') {
            Some((plain, group)) => (plain, Some(group)),
            None => (word, None),
        };
        let is_of = |info: &KindInfo, group: &str| info.api_versions.iter().any(|version| group_of(version) == group);
        let kind = Kind::of_word(plain)
            .filter(|kind| group.is_none_or(|group| is_of(kind.info(), group)))
            .ok_or_else(|| unknown_kind(word))?;
        Ok(Self { kind, name })
    }
}

/// `GROUP` of `GROUP/VERSION`.
pub(crate) fn group_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// `httproute.gateway.networking.k8s.io/web`, as `apply` and `-o name` print it.
pub(crate) fn full_name(info: &KindInfo, api_version: &str, name: &str) -> String {
    match group_of(api_version) {
        "" => format!("{}/{name}", info.singular),
        group => format!("{}.{group}/{name}", info.singular),
    }
}

/// What a read of several objects gave: those that are there, and a text for each that is not.
pub(crate) struct Found {
    pub(crate) objects: Vec<Value>,
    pub(crate) errors: Vec<String>,
}

/// Reads the named objects, or the whole list when no name is given.
pub(crate) async fn read(
    client: &mut Client,
    info: &'static KindInfo,
    namespace: Option<&str>,
    names: &[String],
) -> anyhow::Result<Found> {
    let api_version = info.api_versions[0];
    let mut found = Found { objects: Vec::new(), errors: Vec::new() };
    if names.is_empty() {
        let mut list = client.get(&client.path(info, api_version, namespace, None)).await?;
        if let Value::Array(items) = list["items"].take() {
            found.objects = items;
        }
    }
    for name in names {
        match client.get(&client.path(info, api_version, namespace, Some(name))).await {
            Ok(object) => found.objects.push(object),
            Err(error) if error.as_api().is_some() => found.errors.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    for object in &mut found.objects {
        name_kind(object, info, api_version);
    }
    Ok(found)
}

/// Items of lists may come without the two fields that say what they are.
fn name_kind(object: &mut Value, info: &KindInfo, api_version: &str) {
    if let Value::Object(fields) = object {
        fields.entry("apiVersion").or_insert_with(|| api_version.into());
        fields.entry("kind").or_insert_with(|| info.name.into());
    }
}

/// `underpass get`.
pub(crate) async fn run(
    global: &GlobalArgs,
    word: &KindWord,
    args: &ListArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let info = word.kind.info();
    let names = word.with(&args.names);
    let (mut client, namespace) = global.connect()?;
    let scope = (!args.all_namespaces).then_some(namespace.as_str());
    let found = read(&mut client, info, scope, &names).await?;
    console.warn(&client.take_warnings())?;

    if found.objects.is_empty() && names.is_empty() && matches!(args.output, Format::Table | Format::Wide) {
        match (info.scope, scope) {
            (Scope::Namespaced, Some(namespace)) => {
                console.note(&format!("No resources found in {namespace} namespace."))?;
            }
            _ => console.note("No resources found.")?,
        }
    } else if !found.objects.is_empty() || names.is_empty() {
        show(info, found.objects, names.len() != 1, args, console)?;
    }
    found.errors.iter().for_each(|error| console.complain(error));
    Ok(if found.errors.is_empty() { Outcome::Done } else { Outcome::Failed })
}

fn show(
    info: &KindInfo,
    objects: Vec<Value>,
    is_list: bool,
    args: &ListArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    match args.output {
        Format::Table | Format::Wide => {
            let extent = Extent { is_wide: args.output == Format::Wide, has_namespaces: args.all_namespaces };
            write!(console.out, "{}", table::table(info, &objects, extent, clock::now()))?;
        }
        Format::Name => {
            for object in &objects {
                let api_version = table::text(&object["apiVersion"]);
                console.say(&full_name(info, api_version, &table::name(object)))?;
            }
        }
        Format::Json | Format::Yaml => write!(console.out, "{}", serialise(objects, is_list, args.output)?)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Relay;

    #[test]
    fn kinds_are_known_by_all_their_names() {
        let check = |text: &str, kind: Kind, name: Option<&str>| {
            assert_eq!(text.parse(), Ok(KindWord { kind, name: name.map(str::to_owned) }), "{text}");
        };
        check("tn", Kind::TunnelNode, None);
        check("HTTPRoutes", Kind::HttpRoute, None);
        check("httproute.gateway.apoxy.dev/web", Kind::HttpRoute, Some("web"));
        check("gateways.gateway.networking.k8s.io", Kind::Gateway, None);
        for (text, want) in [
            ("gatway", "unknown kind `gatway`: did you mean Gateway?"),
            ("gateway.example.com", "unknown kind `gateway.example.com`"),
            ("gateway/", "ends where a name should follow"),
            ("", "unknown kind ``"),
        ] {
            assert!(text.parse::<KindWord>().unwrap_err().contains(want), "{text}");
        }
    }

    const NODES: &str = "apiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\nmetadata: {name: a}\n---\n\
                         apiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\nmetadata: {name: b}\n";

    #[tokio::test]
    async fn nothing_found_is_said_on_standard_error() {
        let relay = Relay::start().await;
        for (line, want) in [
            ("get httproutes", "No resources found in default namespace.\n"),
            ("get httproutes -n shop", "No resources found in shop namespace.\n"),
            ("get httproutes -A", "No resources found.\n"),
            ("tunnel list", "No resources found.\n"),
        ] {
            let run = relay.run(line, "").await;
            assert_eq!((run.outcome, run.out.as_str(), run.err.as_str()), (Outcome::Done, "", want), "{line}");
        }
        assert_eq!(relay.ok("get httproutes -o name").await, "");
        assert!(relay.ok("get httproutes -o json").await.contains("\"items\": []"));
    }

    #[tokio::test]
    async fn named_objects_are_shown_and_the_missing_ones_reported() {
        let relay = Relay::start().await;
        relay.run("apply -f -", NODES).await;
        assert_eq!(relay.ok("get tn -o name").await, "tunnelnode.core.apoxy.dev/a\ntunnelnode.core.apoxy.dev/b\n");
        assert_eq!(relay.ok("get tn/b -o name").await, "tunnelnode.core.apoxy.dev/b\n");
        let run = relay.run("tunnel get a nobody b -o name", "").await;
        assert_eq!(run.outcome, Outcome::Failed);
        assert_eq!(run.out, "tunnelnode.core.apoxy.dev/a\ntunnelnode.core.apoxy.dev/b\n");
        assert_eq!(run.err, "error: tunnelnodes \"nobody\" not found\n");
        assert_eq!(relay.run("get tn nobody", "").await.out, "");
    }

    #[tokio::test]
    async fn one_object_is_itself_and_several_are_a_list() {
        let relay = Relay::start().await;
        relay.run("apply -f -", NODES).await;
        let one: Value = serde_json::from_str(&relay.ok("get tn a -o json").await).unwrap();
        assert_eq!((&one["kind"], &one["metadata"]["name"]), (&"TunnelNode".into(), &"a".into()));
        let all: Value = serde_saphyr::from_str(&relay.ok("get tn -o yaml").await).unwrap();
        assert_eq!((&all["kind"], &all["items"][1]["metadata"]["name"]), (&"List".into(), &"b".into()));
    }

    #[tokio::test]
    async fn versions_are_shown_with_and_without_a_relay() {
        let relay = Relay::start().await;
        relay.put("/version", &serde_json::json!({"gitVersion": "v9"}));
        assert_eq!(relay.ok("version").await, format!("underpass {}\nrelay     v9\n", env!("CARGO_PKG_VERSION")));
        assert_eq!(relay.ok("version --client").await.lines().count(), 1);
    }
}
