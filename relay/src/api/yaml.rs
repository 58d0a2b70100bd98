//! YAML as the API reads it: one document of what JSON knows, no key twice, bounded in every way. Pure.
//!
//! Booleans are `true` and `false` alone, so that `country: no` stays a text.

use serde::de::DeserializeSeed;
use serde_json::Value;
use serde_saphyr::{DeserializeError, MessageFormatter as _, UserMessageFormatter};

use super::json::{self, Strict};

/// The longest text in bytes, as of every body.
const BYTES_MAX: usize = 3 << 20;
/// How deep lists and maps may nest in what is not JSON.
///
/// The decoder takes up to 30 KiB of stack for each level when nothing is optimised: this fits a thread's 2 MiB.
const LEVELS_MAX: usize = 64;
/// How many parser events all aliases together may replay: room for templates, none for bombs.
const ALIAS_EVENTS_MAX: usize = 10_000;
/// How many values there may be, before aliases are expanded.
const NODES_MAX: usize = 500_000;
/// How many bytes all texts may have, aliases expanded: one long text costs few events, however often it is replayed.
const TEXT_BYTES_MAX: usize = 4 * BYTES_MAX;

/// Why a text is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct YamlError {
    /// From 1.
    pub line: usize,
    pub problem: String,
}

/// The value that `text` holds; null when it holds none.
///
/// Most of what comes as YAML is JSON, and is read as such.
///
/// # Errors
/// With its line, when it is not YAML, holds what JSON does not know or more than one document, has a key twice in one
/// map, or exceeds the bounds above.
pub fn parse(text: &[u8]) -> Result<Value, YamlError> {
    let fail = |line: usize, problem: &str| YamlError { line, problem: problem.to_owned() };
    if text.len() > BYTES_MAX {
        return Err(fail(1, "the text is longer than 3 MiB"));
    }
    let text = std::str::from_utf8(text).map_err(|error| {
        let before = &text[..error.valid_up_to()];
        fail(1 + before.iter().filter(|byte| **byte == b'\n').count(), "not UTF-8")
    })?;
    if let Some(value) = text.trim_start().starts_with('{').then(|| json::parse(text.as_bytes()).ok()).flatten() {
        return Ok(value);
    }
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIAS_EVENTS_MAX },
        budget: serde_saphyr::budget! {
            max_depth: LEVELS_MAX,
            flow_nesting_limit: LEVELS_MAX,
            max_documents: 1,
            max_nodes: NODES_MAX,
            max_total_scalar_bytes: TEXT_BYTES_MAX,
        },
    };
    let read = |reader: serde_saphyr::Deserializer<'_, '_>| Strict(None).deserialize(reader);
    serde_saphyr::with_deserializer_from_str_with_options(text, options, read).map_err(|error| {
        let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
        YamlError { line: line.max(1), problem: describe(&error) }
    })
}

fn describe(error: &DeserializeError) -> String {
    match error.without_snippet() {
        DeserializeError::AliasError { error, .. } => describe(error),
        DeserializeError::AliasReplayLimitExceeded { .. } => {
            format!("aliases expand to more than {ALIAS_EVENTS_MAX} values")
        }
        DeserializeError::Budget { breach: serde_saphyr::budget::BudgetBreach::Depth { .. }, .. } => {
            format!("nested deeper than {LEVELS_MAX} levels")
        }
        other => {
            let text = UserMessageFormatter.format_message(other);
            text.chars().take(500).flat_map(char::escape_debug).collect::<String>().replace("\\'", "'")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn problem(text: &str) -> String {
        parse(text.as_bytes()).map(|value| value.to_string()).unwrap_err().to_string()
    }

    #[test]
    fn manifests_are_read_as_the_json_they_mean() {
        let text = "# a route\nkind: HTTPRoute\nspec: &spec\n  port: 80\n  country: no\n  on: [1, -2, 1.5, true, ~, \"x\"]\nagain: *spec\n80: x\n";
        let spec = json!({"port": 80, "country": "no", "on": [1, -2, 1.5, true, null, "x"]});
        assert_eq!(
            parse(text.as_bytes()).unwrap(),
            json!({"kind": "HTTPRoute", "spec": spec, "again": spec, "80": "x"})
        );
        assert_eq!(parse(b"---\na: 1\n...\n").unwrap(), json!({"a": 1}));
        assert_eq!(parse(br#"{"a": [1, {"b": null}]}"#).unwrap(), json!({"a": [1, {"b": null}]}));
        assert_eq!(parse(b"").unwrap(), Value::Null);
    }

    #[test]
    fn what_json_does_not_know_is_refused_with_its_line() {
        assert!(problem("a: 1\nb: 2\na: 3\n").starts_with("line 3: "), "{}", problem("a: 1\nb: 2\na: 3\n"));
        assert!(problem("a: 1\n---\nb: 2\n").starts_with("line "));
        assert!(problem("a:\n  - b\n c: d\n").starts_with("line 3: "));
        for bad in ["a: .nan", "a: 1e999", "? [a, b]\n: c", "a: *nobody", "a: !!binary 8J+Y", "\"a\": [", "\u{0}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}: {:?}", parse(bad.as_bytes()));
        }
        assert_eq!(parse(b"a: 1\nb: \xff\n").unwrap_err().to_string(), "line 2: not UTF-8");
    }

    #[test]
    fn json_is_read_as_deep_as_json_may_be() {
        let deep = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
        assert!(parse(deep(120).as_bytes()).is_ok());
        assert!(parse(deep(130).as_bytes()).is_err());
        assert!(problem(r#"{"a": 1, "a": 2}"#).starts_with("line 1: "));
    }

    #[test]
    fn bombs_are_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for at in 1..9 {
            let row = vec![format!("*a{}", at - 1); 9].join(", ");
            laughs.push_str(&format!("a{at}: &a{at} [{row}]\n"));
        }
        assert!(parse(laughs.as_bytes()).is_err());
        let echo = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 20].join(", "));
        assert!(problem(&echo).contains("too large"), "{}", problem(&echo));
        assert_eq!(problem(&"[".repeat(1_000)), "line 1: recursion limit exceeded");
        let deep: String = (0..1_000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        assert!(problem(&deep).ends_with("nested deeper than 64 levels"), "{}", problem(&deep));
        assert_eq!(problem(&" ".repeat((3 << 20) + 1)), "line 1: the text is longer than 3 MiB");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c:\\-\\[\\]{},&*!|>~'\"# \n0-9.]{0,60}") {
            let _ = parse(text.as_bytes());
        }
    }
}
