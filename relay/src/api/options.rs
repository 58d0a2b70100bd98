//! Query parameters → what they ask for. Pure.
//!
//! A parameter that would change the answer, and that we do not know, is refused; Kubernetes ignores such ones.

use underpass_shared::resource::kind::Kind;

use super::{
    selector::{Fields, Labels},
    status::Failure,
};
use crate::schema::{Cause, Problem};

/// The longest query in bytes.
const QUERY_BYTES_MAX: usize = 32 << 10;
/// The most parameters.
const PARAMETERS_MAX: usize = 64;
/// The longest name of a field manager in bytes (Kubernetes' limit).
const FIELD_MANAGER_BYTES_MAX: usize = 128;

/// What a request's query asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) dry_run: bool,
    pub(super) field_manager: Option<String>,
    pub(super) force: bool,
    pub(super) field_validation: FieldValidation,
    pub(super) label_selector: Labels,
    pub(super) field_selector: Fields,
    /// The most items of a list, 0 for all.
    pub(super) limit: usize,
    pub(super) continue_token: Option<String>,
    pub(super) resource_version: Option<u64>,
    pub(super) version_match: Option<VersionMatch>,
    pub(super) watch: bool,
    pub(super) allow_bookmarks: bool,
    pub(super) send_initial_events: Option<bool>,
    /// In seconds.
    pub(super) timeout: Option<u64>,
    pub(super) propagation: Option<Propagation>,
    /// The older way to say `propagation`, which it becomes.
    pub(super) orphans: Option<bool>,
    pub(super) grace_seconds: Option<i64>,
    pub(super) include: Include,
    /// Of `pods/NAME/log`: the parameters as they came.
    pub(super) log: Vec<(String, String)>,
}

/// What to do with fields that the schema does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    #[default]
    Strict,
}

/// What the rows of a table carry beside their cells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

/// `resourceVersionMatch` of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// What becomes of what an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl Propagation {
    #[must_use]
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "Background" => Some(Self::Background),
            "Foreground" => Some(Self::Foreground),
            "Orphan" => Some(Self::Orphan),
            _ => None,
        }
    }
}

/// The parameters of `pods/NAME/log`.
const LOG: &[&str] =
    &["container", "follow", "limitBytes", "previous", "sinceSeconds", "sinceTime", "tailLines", "timestamps"];
/// Parameters that change nothing here.
const HARMLESS: &[&str] = &["pretty", "timeout"];

impl Options {
    /// What `query` asks for of `kind`.
    ///
    /// # Errors
    /// 400, with the parameter's name and what it may be.
    pub(super) fn parse(query: &str, kind: Option<Kind>) -> Result<Self, Failure> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(Failure::bad_request(format!("the query is longer than {QUERY_BYTES_MAX} bytes")));
        }
        let mut options = Self::default();
        for (count, (name, value)) in form_urlencoded::parse(query.as_bytes()).enumerate() {
            if count >= PARAMETERS_MAX {
                return Err(Failure::bad_request(format!("the query has more than {PARAMETERS_MAX} parameters")));
            }
            options.set(&name, &value, kind)?;
        }
        if let Some(orphans) = options.orphans {
            if options.propagation.is_some() {
                let message = "orphanDependents and deletionPropagation cannot be both set".to_owned();
                let problem = Problem { path: "propagationPolicy".to_owned(), message, cause: Cause::Invalid };
                return Err(Failure::invalid("meta.k8s.io", "DeleteOptions", "", &[problem]));
            }
            options.propagation = Some(if orphans { Propagation::Orphan } else { Propagation::Background });
        }
        if options.send_initial_events.is_some() && !options.watch {
            return Err(Failure::bad_request("sendInitialEvents is for watches only"));
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str, kind: Option<Kind>) -> Result<(), Failure> {
        if value.is_empty() {
            return Ok(());
        }
        match name {
            "dryRun" if value == "All" => self.dry_run = true,
            "dryRun" => return Err(wrong(name, "All")),
            "fieldManager" => self.field_manager = Some(field_manager(value)?),
            "force" => self.force = flag(name, value)?,
            "fieldValidation" => {
                self.field_validation = match value {
                    "Ignore" => FieldValidation::Ignore,
                    "Warn" => FieldValidation::Warn,
                    "Strict" => FieldValidation::Strict,
                    _ => return Err(wrong(name, "Ignore, Warn or Strict")),
                }
            }
            "labelSelector" => {
                self.label_selector = Labels::parse(value).map_err(|error| Failure::bad_request(error.to_string()))?;
            }
            "fieldSelector" => {
                let kind = kind.ok_or_else(|| unknown(name))?;
                let parsed = Fields::parse(value, kind);
                self.field_selector = parsed.map_err(|error| Failure::bad_request(error.to_string()))?;
            }
            "limit" => self.limit = number(name, value)?,
            "continue" => self.continue_token = Some(value.to_owned()),
            "resourceVersion" => self.resource_version = Some(number(name, value)?),
            "resourceVersionMatch" => {
                self.version_match = match value {
                    "Exact" => Some(VersionMatch::Exact),
                    "NotOlderThan" => Some(VersionMatch::NotOlderThan),
                    _ => return Err(wrong(name, "Exact or NotOlderThan")),
                }
            }
            "watch" => self.watch = flag(name, value)?,
            "allowWatchBookmarks" => self.allow_bookmarks = flag(name, value)?,
            "sendInitialEvents" => self.send_initial_events = Some(flag(name, value)?),
            "timeoutSeconds" => self.timeout = Some(number(name, value)?),
            "propagationPolicy" => {
                let parsed = Propagation::parse(value);
                self.propagation = Some(parsed.ok_or_else(|| wrong(name, "Background, Foreground or Orphan"))?);
            }
            "orphanDependents" => self.orphans = Some(flag(name, value)?),
            "gracePeriodSeconds" => self.grace_seconds = Some(number(name, value)?),
            "includeObject" => {
                self.include = match value {
                    "None" => Include::None,
                    "Metadata" => Include::Metadata,
                    "Object" => Include::Object,
                    _ => return Err(wrong(name, "None, Metadata or Object")),
                }
            }
            name if kind == Some(Kind::Pod) && LOG.contains(&name) => {
                self.log.push((name.to_owned(), value.to_owned()));
            }
            name if HARMLESS.contains(&name) => {}
            name => return Err(unknown(name)),
        }
        Ok(())
    }
}

fn field_manager(value: &str) -> Result<String, Failure> {
    let printable = value.chars().all(|character| !character.is_control());
    if value.len() <= FIELD_MANAGER_BYTES_MAX && printable {
        return Ok(value.to_owned());
    }
    Err(wrong("fieldManager", &format!("at most {FIELD_MANAGER_BYTES_MAX} printable bytes")))
}

/// As client libraries write a truth: Python's has a capital.
pub(super) fn truth(value: &str) -> Option<bool> {
    match value {
        "true" | "True" | "1" => Some(true),
        "false" | "False" | "0" => Some(false),
        _ => None,
    }
}

fn flag(name: &str, value: &str) -> Result<bool, Failure> {
    truth(value).ok_or_else(|| wrong(name, "true or false"))
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Failure> {
    value.parse().map_err(|_| wrong(name, "a whole number"))
}

fn wrong(name: &str, want: &str) -> Failure {
    Failure::bad_request(format!("the query parameter `{name}` must be {want}"))
}

fn unknown(name: &str) -> Failure {
    let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    Failure::bad_request(format!("the query parameter `{shown}` is not known here"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(query: &str) -> Result<Options, String> {
        Options::parse(query, Some(Kind::Backend)).map_err(|failure| failure.message)
    }

    #[test]
    fn parameters_are_decoded_and_typed() {
        let options = parse(
            "watch=1&allowWatchBookmarks=true&resourceVersion=7&timeoutSeconds=30&labelSelector=a%3Db%2Cc&limit=5\
             &fieldSelector=metadata.name%3Dx&dryRun=All&fieldManager=me&force=true&fieldValidation=Warn\
             &propagationPolicy=Orphan&pretty=true&continue=abc&sendInitialEvents=false",
        )
        .unwrap();
        assert!(options.watch && options.allow_bookmarks && options.dry_run && options.force);
        assert_eq!((options.resource_version, options.timeout, options.limit), (Some(7), Some(30), 5));
        assert_eq!(options.label_selector, Labels::parse("a=b,c").unwrap());
        assert!(options.field_selector.matches_name("x") && !options.field_selector.matches_name("y"));
        assert_eq!(options.field_manager.as_deref(), Some("me"));
        assert_eq!(options.field_validation, FieldValidation::Warn);
        assert_eq!(options.propagation, Some(Propagation::Orphan));
        assert_eq!(parse("resourceVersion=&labelSelector=&watch="), Ok(Options::default()));
        assert_eq!(parse("watch=True&force=False"), parse("watch=1"), "as Python's client writes it");
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (query, want) in [
            ("shoeSize=4", "the query parameter `shoeSize` is not known here"),
            ("container=a", "the query parameter `container` is not known here"),
            ("watch=maybe", "the query parameter `watch` must be true or false"),
            ("dryRun=Some", "the query parameter `dryRun` must be All"),
            ("limit=-1", "the query parameter `limit` must be a whole number"),
            ("resourceVersion=abc", "the query parameter `resourceVersion` must be a whole number"),
            ("sendInitialEvents=true", "sendInitialEvents is for watches only"),
        ] {
            assert_eq!(parse(query), Err(want.to_owned()), "{query}");
        }
        assert!(parse(&"a=&".repeat(100)).is_err());
        assert!(parse(&"x".repeat(40_000)).is_err());
        assert!(Options::parse("container=a&tailLines=3", Some(Kind::Pod)).unwrap().log.len() == 2);
    }

    proptest! {
        #[test]
        fn any_query_is_parsed_without_panic(query in "[a-zA-Z=&%0-9+,]{0,60}|\\PC{0,60}") {
            let _ = Options::parse(&query, Some(Kind::Pod));
        }
    }
}
