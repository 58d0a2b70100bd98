//! `underpass wait`: until objects have a condition, a value, or are there, or gone. Watches; asks nothing twice.

use std::{str::FromStr, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    GlobalArgs, Outcome,
    client::{Client, News},
    duration,
    jsonpath::{JsonPath, text_of},
    kinds::KindWord,
    print::{Console, clean_line},
    write::{self, SelectArgs, Target},
};

#[cfg(test)]
mod tests;

/// The arguments of `underpass wait`.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// KIND/NAME, or a kind
    #[arg(value_name = "KIND/NAME")]
    pub kind: KindWord,
    /// More of them, or names of resources of that kind
    #[arg(value_name = "KIND/NAME", value_parser = NonEmptyStringValueParser::new(), conflicts_with_all = ["selector", "all"])]
    pub names: Vec<String>,
    #[command(flatten)]
    pub select: SelectArgs,
    /// What to wait for: condition=TYPE[=STATUS], jsonpath='{.path}'[=VALUE], create, or delete
    #[arg(long = "for", value_name = "WHAT")]
    pub what: For,
    /// How long to wait for all of them together: 30s, 5m
    #[arg(long, default_value = "30s", value_parser = duration::parse)]
    pub timeout: Duration,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum For {
    Condition { kind: String, status: String },
    JsonPath { path: JsonPath, text: String, value: Option<String> },
    Create,
    Delete,
}

impl FromStr for For {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, rest) = text.split_once('=').map_or((text, None), |(word, rest)| (word, Some(rest)));
        match (word.to_ascii_lowercase().as_str(), rest) {
            ("create", None) => Ok(Self::Create),
            ("delete", None) => Ok(Self::Delete),
            ("condition", Some(rest)) if !rest.is_empty() => {
                let (kind, status) = rest.split_once('=').unwrap_or((rest, "True"));
                Ok(Self::Condition { kind: kind.to_owned(), status: status.to_owned() })
            }
            ("jsonpath", Some(rest)) => {
                let (path, value) = split_jsonpath(rest);
                let parsed = JsonPath::parse_expression(path).map_err(|error| error.to_string())?;
                if value == Some("") {
                    return Err(format!("`{text}` ends where a value should follow"));
                }
                Ok(Self::JsonPath { path: parsed, text: path.to_owned(), value: value.map(str::to_owned) })
            }
            _ => {
                Err("write condition=TYPE, condition=TYPE=STATUS, jsonpath='{.path}'=VALUE, create or delete"
                    .to_owned())
            }
        }
    }
}

/// `{.a[?(@.b=="c")]}=value` → the path and the value: the first `=` outside of quotes and brackets parts them.
fn split_jsonpath(text: &str) -> (&str, Option<&str>) {
    let (mut depth, mut quote, mut is_escaped) = (0_usize, None, false);
    for (at, character) in text.char_indices() {
        match (quote, character) {
            _ if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '{' | '[' | '(') => depth += 1,
            (None, '}' | ']' | ')') => depth = depth.saturating_sub(1),
            (None, '=') if depth == 0 => return (&text[..at], Some(unquoted(&text[at + 1..]))),
            _ => {}
        }
    }
    (text, None)
}

fn unquoted(text: &str) -> &str {
    let strip = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    strip('"').or_else(|| strip('\'')).unwrap_or(text)
}

/// Whether it has come, and else the state that is there instead.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Met,
    NotYet(String),
}

impl For {
    /// Judges an object that is there.
    fn judge(&self, object: &Value) -> Verdict {
        match self {
            Self::Create => Verdict::Met,
            Self::Delete => {
                let finalizers: Vec<&str> = object["metadata"]["finalizers"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                Verdict::NotYet(match (object["metadata"]["deletionTimestamp"].is_null(), finalizers.is_empty()) {
                    (true, _) => "nobody has deleted it".to_owned(),
                    (false, true) => "it is being deleted".to_owned(),
                    (false, false) => format!("it is held by the finalizers {}", finalizers.join(", ")),
                })
            }
            Self::Condition { kind, status } => judge_conditions(object, kind, status),
            Self::JsonPath { path, text, value } => match path.find(object) {
                Err(error) => Verdict::NotYet(error.to_string()),
                Ok(found) => match (found.as_slice(), value) {
                    ([], _) => Verdict::NotYet(format!("there is no {text}")),
                    (_, None) => Verdict::Met,
                    ([only], Some(value)) if text_of(only) == *value => Verdict::Met,
                    ([only], Some(_)) => Verdict::NotYet(format!("{text} is {}", text_of(only))),
                    (several, Some(_)) => Verdict::NotYet(format!("{text} gives {} values, not one", several.len())),
                },
            },
        }
    }

    fn described(&self) -> String {
        match self {
            Self::Create => "creation".to_owned(),
            Self::Delete => "deletion".to_owned(),
            Self::Condition { kind, status } if status.eq_ignore_ascii_case("true") => format!("condition {kind}"),
            Self::Condition { kind, status } => format!("condition {kind}={status}"),
            Self::JsonPath { text, value: Some(value), .. } => format!("{text}={value}"),
            Self::JsonPath { text, .. } => text.clone(),
        }
    }
}

/// The conditions of the object; those of a route or a policy are kept per parent, and all parents must agree.
fn judge_conditions(object: &Value, kind: &str, status: &str) -> Verdict {
    let places: Vec<&Value> = match &object["status"]["conditions"] {
        Value::Array(_) => vec![&object["status"]],
        _ => ["parents", "ancestors"].iter().filter_map(|list| object["status"][list].as_array()).flatten().collect(),
    };
    if places.is_empty() {
        return Verdict::NotYet("it has no conditions".to_owned());
    }
    let verdicts = places.into_iter().map(|place| judge_condition(place, object, kind, status));
    verdicts.reduce(|all, one| if all == Verdict::Met { one } else { all }).unwrap_or(Verdict::Met)
}

fn judge_condition(place: &Value, object: &Value, kind: &str, status: &str) -> Verdict {
    let is_it = |condition: &&Value| condition["type"].as_str().is_some_and(|found| found.eq_ignore_ascii_case(kind));
    let Some(condition) = place["conditions"].as_array().into_iter().flatten().find(is_it) else {
        return Verdict::NotYet(format!("it has no condition {kind}"));
    };
    // A condition of an older generation speaks of what is no longer wanted.
    let generation = object["metadata"]["generation"].as_u64();
    if condition["observedGeneration"].as_u64().is_some_and(|seen| generation.is_some_and(|now| seen < now)) {
        return Verdict::NotYet(format!("{kind} is not yet known of the newest generation"));
    }
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    if text("status").eq_ignore_ascii_case(status) {
        return Verdict::Met;
    }
    let mut state = format!("{kind} is {}", text("status"));
    for part in [text("reason"), text("message")].into_iter().filter(|part| !part.is_empty()) {
        state += &format!(": {part}");
    }
    Verdict::NotYet(state)
}

/// `underpass wait`.
pub(crate) async fn run(global: &GlobalArgs, args: &WaitArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let (mut client, namespace) = global.connect()?;
    let targets = if args.select.is_given() {
        let found = write::selected(&mut client, &args.kind, &args.select, &namespace).await?;
        if found.is_empty() && args.what != For::Delete {
            anyhow::bail!("no {} match, so there is nothing to wait for", args.kind.kind.info().plural);
        }
        found.into_iter().map(|(target, _)| target).collect()
    } else {
        write::named(&args.kind, &args.names, &namespace)?
    };
    if targets.is_empty() && !args.select.is_given() {
        anyhow::bail!("which {}? write KIND/NAME, -l LABELS or --all", args.kind.kind.info().singular);
    }
    let mut last = None;
    let mut done = 0;
    let all = async {
        for target in &targets {
            last = None;
            wait(&mut client, target, &args.what, &mut last).await?;
            console.warn(&client.take_warnings())?;
            console.say(&format!("{} condition met", target.full_name()))?;
            done += 1;
        }
        anyhow::Ok(())
    };
    let in_time = timeout(args.timeout, all).await;
    let Ok(result) = in_time else {
        for (index, target) in targets[done..].iter().enumerate() {
            let seen = match &last {
                Some(last) if index == 0 => format!(": {}", clean_line(last)),
                _ => String::new(),
            };
            let (limit, what) = (duration::text(args.timeout), args.what.described());
            console.complain(&format!("timed out after {limit} waiting for {what} of {}{seen}", target.full_name()));
        }
        return Ok(Outcome::Failed);
    };
    result.map(|()| Outcome::Done)
}

/// Waits for one object; `last` is the state that was seen last.
async fn wait(client: &mut Client, target: &Target, what: &For, last: &mut Option<String>) -> anyhow::Result<()> {
    let list = target.list(client);
    let selector = format!("metadata.name={}", target.name);
    let mut follow = client.follow(&list, &[("fieldSelector", &selector)]);
    let is_named = |object: &Value| object["metadata"]["name"] == target.name;
    let mut uid: Option<Value> = None;
    loop {
        let object = match follow.next().await? {
            News::Listed(items) => items.into_iter().find(is_named),
            News::Added(object) | News::Modified(object) if is_named(&object) => Some(object),
            News::Deleted(object) if is_named(&object) => None,
            _ => continue,
        };
        let Some(object) = object else {
            match what {
                For::Delete => return Ok(()),
                For::Create => *last = Some("it does not exist".to_owned()),
                _ if uid.is_some() => anyhow::bail!("{} was deleted while it was waited for", target.full_name()),
                _ => anyhow::bail!("{} not found", target.spoken()),
            }
            continue;
        };
        let found = object["metadata"]["uid"].clone();
        if *what == For::Delete && uid.as_ref().is_some_and(|uid| *uid != found) {
            return Ok(());
        }
        uid = Some(found);
        match what.judge(&object) {
            Verdict::Met => return Ok(()),
            Verdict::NotYet(state) => *last = Some(state),
        }
    }
}
