//! The house rules that a program can check: which words may stand where, how long a file and a function may be.
#![expect(clippy::unwrap_used, reason = "all of this is test code")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// What decides, and therefore touches nothing. Each must exist, so that a renamed folder does not escape.
const PURE: &[&str] = &[
    "relay/src/api/json.rs",
    "relay/src/api/protobuf.rs",
    "relay/src/api/yaml.rs",
    "relay/src/apply",
    "relay/src/patch",
    "relay/src/proxy_protocol",
    "relay/src/route",
    "relay/src/schema",
    "relay/src/translate",
    "relay/src/store/state.rs",
    "relay/src/tunnel/consent.rs",
    "relay/src/tunnel/destination.rs",
    "shared/src/quic/connect/frames.rs",
    "relay/src/collector/plan.rs",
    "relay/src/api/status.rs",
    "relay/src/api/verbs/pipeline.rs",
    "relay/src/api/verbs/log/lines.rs",
    "relay/src/tunnel/flows.rs",
    "relay/src/tunnel/forward.rs",
    "shared/src/ledger.rs",
    "shared/src/wire",
    "shared/src/packet",
    "shared/src/resource",
    "shared/src/host/ruleset.rs",
    "shared/src/prefix.rs",
    "shared/src/identity.rs",
    "agent/src/node",
    "agent/src/proxies/http_connect.rs",
    "agent/src/proxies/socks5.rs",
];

/// Words of the world: of asynchrony, clocks, chance and transport.
const IMPURE_WORDS: &[&str] = &[
    "tokio",
    "async fn",
    "async move",
    ".await",
    "Instant::now",
    "SystemTime::now",
    // A generator made from a seed is welcome; one that seeds itself is not.
    "rand::random",
    "rand::rng",
    "SysRng",
    "OsRng",
    "quinn",
    "h3::",
    "smoltcp",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "std::env",
];

/// A word, and the only places that may say it.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("quinn::", &["shared/src/quic", "agent/src/link", "relay/src/tunnel", "relay/src/listener"]),
    ("h3::", &["shared/src/quic", "agent/src/link", "relay/src/tunnel", "relay/src/listener"]),
    ("smoltcp", &["shared/src/netstack"]),
    ("tun_rs", &["shared/src/host"]),
    ("rtnetlink", &["shared/src/host"]),
    ("nftnl", &["shared/src/host/nftables.rs"]),
    ("redb", &["relay/src/store"]),
    ("etcd_client", &["relay/src/store/etcd", "tests/src/etcd.rs", "tests/benches/api/etcd.rs"]),
    // The netstack lives by tokio's clock, which its tests move by hand.
    ("Instant::now", &["agent/src/clock.rs", "relay/src/clock.rs", "tests/src/clock.rs", "shared/src/netstack"]),
    ("unsafe {", &[]),
    ("unsafe fn", &[]),
    ("unsafe impl", &[]),
    ("#[ignore", &[]),
    ("todo!(", &[]),
    ("unimplemented!(", &[]),
];

/// Refused above this, inline tests apart.
const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
/// Functions that may be longer, with the most lines each may have: a ratchet, which only goes down.
const LONGER_FUNCTIONS: &[(&str, usize)] = &[];

const DRAWERS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "stuff"];
/// Folders of the machine that somebody happened to work on.
const MACHINE_PATHS: &[&str] = &["/home/", "/Users/", "/root/", "/work/", "/tmp/"];

struct Source {
    /// Relative to the repository's top.
    path: String,
    text: String,
}

impl Source {
    /// The text without its inline tests, which come last.
    fn product(&self) -> &str {
        self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(&self.text)
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_below(&self, place: &str) -> bool {
        let stem = place.strip_suffix(".rs").unwrap_or(place);
        self.path == place || self.path == format!("{stem}.rs") || self.path.starts_with(&format!("{stem}/"))
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("/tests.rs")
    }
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every text file that belongs to the repository.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    gather(&top(), "", &mut found);
    assert!(found.len() > 40, "the tree is found: {} files", found.len());
    found
}

fn gather(folder: &Path, below: &str, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        if ["target", ".git", ".demo"].contains(&name.as_str()) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            gather(&entry.path(), &path, found);
        } else if let Ok(text) = fs::read_to_string(entry.path())
            && name != "Cargo.lock"
        {
            found.push(Source { path, text });
        }
    }
}

/// Code without comments and without the contents of string literals: enough for looking up words.
fn code(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let (mut quoted, mut escaped, mut previous) = (false, false, ' ');
    for character in line.chars() {
        match character {
            '"' if !escaped && (quoted || previous != '\'') => quoted = !quoted,
            '/' if !quoted && previous == '/' => {
                kept.pop();
                break;
            }
            _ if quoted => {}
            other => kept.push(other),
        }
        escaped = quoted && character == '\\' && !escaped;
        previous = character;
    }
    kept
}

/// `path:line: what` for each line of code in which `word` stands.
fn mentions(source: &Source, text: &str, word: &str) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| contains_word(&code(line), word));
    lines.map(|(at, line)| format!("{}:{}: {}", source.path, at + 1, line.trim())).collect()
}

/// Whether `word` stands in `line`, and not as the end of a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    let starts_a_name = word.starts_with(|first: char| first.is_alphanumeric());
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !starts_a_name || !before.is_some_and(|before| before.is_alphanumeric() || before == '_')
    })
}

fn assert_none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn what_decides_touches_nothing() {
    let sources = sources();
    let mut found = Vec::new();
    for place in PURE {
        let pure: Vec<_> = sources.iter().filter(|source| source.is_rust() && source.is_below(place)).collect();
        assert!(!pure.is_empty(), "{place} exists; when it moves, this list moves with it");
        for source in pure.iter().filter(|source| !source.is_test()) {
            for word in IMPURE_WORDS {
                found.extend(mentions(source, source.product(), word));
            }
        }
    }
    assert_none("pure modules know no clock, no chance, no task and no socket", &found);
}

#[test]
fn each_word_stays_where_it_belongs() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust() && source.path != "tests/tests/tidy.rs") {
        for (word, places) in ONLY_IN {
            let allowed = places.iter().any(|place| source.is_below(place));
            // Tests and benches may speak to both ends directly.
            let test = source.is_test() && ["quinn::", "h3::"].contains(word);
            if !allowed && !test {
                found.extend(mentions(source, source.product(), word));
            }
        }
    }
    assert_none("this word may not stand here", &found);
}

#[test]
fn the_registry_of_sessions_knows_no_transport() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_below("relay/src/tunnel/registry.rs")) {
        for word in IMPURE_WORDS {
            found.extend(mentions(source, source.product(), word));
        }
    }
    assert_none("relay/src/tunnel/registry is pure", &found);
}

#[test]
fn agent_and_relay_do_not_know_each_other() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        for (place, foreign) in [
            ("agent/src", "underpass_relay::"),
            ("relay/src", "underpass_agent::"),
            ("shared/src", "underpass_relay::"),
            ("shared/src", "underpass_agent::"),
        ] {
            if source.is_below(place) {
                found.extend(mentions(source, &source.text, foreign));
            }
        }
    }
    assert_none("arrows point from agent and relay to shared, and nowhere else", &found);
}

#[test]
fn no_file_is_too_long_to_read() {
    let long = sources().into_iter().filter(|source| source.is_rust()).filter_map(|source| {
        let lines = source.product().lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines", source.path))
    });
    assert_none("split these by what changes together", &long.collect::<Vec<_>>());
}

#[test]
fn no_function_is_too_long_to_read() {
    let mut allowed: BTreeMap<_, _> = LONGER_FUNCTIONS.iter().copied().collect();
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        for (name, lines) in functions(&source.text).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX) {
            let place = format!("{}:{name}", source.path);
            match allowed.remove(place.as_str()) {
                Some(most) if lines <= most => {}
                _ => found.push(format!("{place}: {lines} lines")),
            }
        }
    }
    found.extend(allowed.keys().map(|place| format!("{place} is short now: take it off the list")));
    assert_none("a function tells one thing", &found);
}

/// The functions of a file that rustfmt has formatted, with their lengths in lines, signature and braces included.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = indent_of(line);
        let Some(name) = function_name(line.trim_start()) else { continue };
        let mut level = lines[at..].iter().enumerate().filter(|(_, line)| indent_of(line) == indent);
        let signature_end = level.find(|(_, line)| line.ends_with(['{', '}', ';']));
        if signature_end.is_some_and(|(_, line)| line.ends_with('{'))
            && let Some((length, _)) = level.find(|(_, line)| line.trim() == "}")
        {
            found.push((name.to_owned(), length + 1));
        }
    }
    found
}

fn indent_of(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line;
    for word in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    Some(&name[..name.find(['(', '<'])?])
}

#[test]
fn files_and_folders_are_named_for_what_they_hold() {
    let drawers = sources().into_iter().filter_map(|source| {
        let named = source.path.split('/').any(|part| DRAWERS.contains(&part.trim_end_matches(".rs")));
        named.then(|| source.path.clone())
    });
    assert_none("a drawer is no name", &drawers.collect::<Vec<_>>());
}

#[test]
fn each_rust_file_opens_by_saying_what_it_owns() {
    // A module's own `tests.rs` owns what its parent says.
    let product = |source: &Source| source.is_rust() && !source.path.ends_with("/tests.rs");
    let silent = sources().into_iter().filter(product).filter_map(|source| {
        let opening = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        (opening == 0).then(|| source.path.clone())
    });
    assert_none("each file opens with `//!` lines", &silent.collect::<Vec<_>>());
}

#[test]
fn tests_wait_for_events_and_never_for_time() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let tests = if source.is_test() { source.text.as_str() } else { &source.text[source.product().len()..] };
        for word in ["sleep(", "sleep_until("] {
            found.extend(mentions(source, tests, word));
        }
        if source.is_test() && source.path != "tests/src/eventually.rs" {
            found.extend(mentions(source, tests, "time::interval("));
        }
    }
    assert_none("a test that sleeps is slow or wrong", &found);
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.path != "tests/tests/tidy.rs") {
        for (at, line) in source.text.lines().enumerate() {
            for place in MACHINE_PATHS {
                let absolute = line.match_indices(place).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    !before.is_some_and(|before| before.is_alphanumeric() || "}~.-_/$)".contains(before))
                });
                if absolute {
                    found.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
                }
            }
        }
    }
    assert_none("paths of one machine", &found);
}

#[test]
fn the_rules_see_what_they_forbid() {
    let source = Source {
        path: "shared/src/wire/capsule.rs".to_owned(),
        text: "//! Capsules.\nuse tokio::io; // tokio\nlet text = \"tokio\";\n#[cfg(test)]\nmod tests { tokio }\n"
            .to_owned(),
    };
    assert_eq!(mentions(&source, source.product(), "tokio"), ["shared/src/wire/capsule.rs:2: use tokio::io; // tokio"]);
    assert!(contains_word("h3::client", "h3::") && !contains_word("oh3::client", "h3::"));
    assert!(source.is_below("shared/src/wire") && !source.is_below("shared/src/wir"));
    let text = "impl X {\n    pub async fn long<T>(\n        a: T,\n    ) {\n        a\n    }\n}\nfn short() {}\n";
    assert_eq!(functions(text), [("long".to_owned(), 5)]);
}
