//! The text of a file → its YAML or JSON documents, with the line of every field.
//!
//! Pure. Knows nothing of kinds (that is `manifest`) and reads no files (that is `files`). JSON is read as the YAML it
//! is, so that both have lines. Hostile text is bounded by the limits below.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::{DeserializeError, MessageFormatter as _, Spanned, UserMessageFormatter};

/// The longest file in bytes; the relay refuses longer bodies anyway.
pub(crate) const FILE_BYTES_MAX: usize = 3 << 20;
/// The most documents of one file.
const DOCUMENTS_MAX: usize = 1_000;
/// How deep lists and maps may nest.
const DEPTH_MAX: usize = 64;
/// How many parser events the aliases of one document may replay: room for templates, none for bombs.
const ALIAS_EVENTS_MAX: usize = 10_000;
/// How many values all documents of a file may hold, aliases expanded.
const NODES_MAX: usize = 500_000;

/// One document that is not empty.
#[derive(Debug)]
pub(crate) struct Document {
    /// Counts from 1, empty documents left out.
    pub(crate) number: usize,
    pub(crate) root: Node,
}

/// A value and where it stands.
#[derive(Debug)]
pub(crate) struct Node {
    /// Line in the file, from 1.
    pub(crate) line: usize,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Field>),
}

/// An entry of a map.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) value: Node,
}

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("document {document}, line {line}: {problem}")]
pub(crate) struct DocumentError {
    pub(crate) document: usize,
    pub(crate) line: usize,
    pub(crate) problem: String,
}

/// Reads every document of `text`, and goes on after one that cannot be read.
pub(crate) fn parse(text: &str) -> (Vec<Document>, Vec<DocumentError>) {
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    let mut number = 1;
    let mut nodes = 0;
    for chunk in split(text) {
        let refuse = |problem: String| DocumentError { document: number, line: chunk.line, problem };
        if number > DOCUMENTS_MAX {
            errors.push(refuse(format!("more than {DOCUMENTS_MAX} documents in one file: split it")));
            break;
        }
        match parse_chunk(&chunk) {
            Ok(Node { content: Content::Null, .. }) => continue,
            Ok(root) => {
                nodes += root.count();
                if nodes > NODES_MAX {
                    errors.push(refuse(format!("the file holds more than {NODES_MAX} values: split it")));
                    break;
                }
                documents.push(Document { number, root });
            }
            Err((line, problem)) => errors.push(DocumentError { document: number, line, problem }),
        }
        number += 1;
    }
    (documents, errors)
}

/// A part of the text that holds at most one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk<'a> {
    /// Line of its first byte, from 1.
    line: usize,
    text: &'a str,
}

fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    split_json(text).unwrap_or_else(|| split_yaml(text))
}

/// Cuts before `---` and after `...`, which may stand at the start of a line nowhere else (YAML 1.2.2 §9.1.2).
/// Directives and comments stay with the marker that follows them.
fn split_yaml(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let (mut offset, mut has_begun) = (0, false);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line, "---") {
            if has_begun {
                chunks.push(Chunk { line: start_line, text: &text[start..offset] });
                (start, start_line) = (offset, index + 1);
            }
            has_begun = true;
        } else if !line.trim().is_empty() && !line.starts_with(['#', '%']) {
            has_begun = true;
        }
        offset += line.len();
        if is_marker(line, "...") {
            chunks.push(Chunk { line: start_line, text: &text[start..offset] });
            (start, start_line, has_begun) = (offset, index + 2, false);
        }
    }
    if start < text.len() {
        chunks.push(Chunk { line: start_line, text: &text[start..] });
    }
    chunks
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Several JSON objects one after the other, as `jq` prints them; `None` when the text is anything else.
fn split_json(text: &str) -> Option<Vec<Chunk<'_>>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut chunks = Vec::new();
    let (mut start, mut line) = (0, 1);
    while let Some(value) = values.next() {
        value.ok()?;
        let part = &text[start..values.byte_offset()];
        chunks.push(Chunk { line, text: part });
        line += part.bytes().filter(|byte| *byte == b'\n').count();
        start = values.byte_offset();
    }
    Some(chunks)
}

fn parse_chunk(chunk: &Chunk<'_>) -> Result<Node, (usize, String)> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIAS_EVENTS_MAX },
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_documents: 1,
            max_total_scalar_bytes: 4 * FILE_BYTES_MAX,
        },
    };
    let before = chunk.line - 1;
    match serde_saphyr::from_str_with_options::<Spanned<Content>>(chunk.text, options) {
        Ok(root) => {
            let mut root = Node::from(root);
            root.shift(before);
            Ok(root)
        }
        Err(error) => {
            let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
            Err((line.max(1) + before, describe(&error)))
        }
    }
}

fn describe(error: &DeserializeError) -> String {
    match error.without_snippet() {
        DeserializeError::AliasError { error, .. } => describe(error),
        DeserializeError::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key `{}` appears twice in one map", key.escape_debug())
        }
        DeserializeError::AliasReplayLimitExceeded { .. } => {
            format!("aliases expand to more than {ALIAS_EVENTS_MAX} values")
        }
        DeserializeError::Budget { breach: serde_saphyr::budget::BudgetBreach::Depth { .. }, .. } => {
            format!("nested deeper than {DEPTH_MAX} levels")
        }
        other => UserMessageFormatter.format_message(other).escape_debug().to_string().replace("\\'", "'"),
    }
}

impl Node {
    /// The value without its lines.
    pub(crate) fn to_value(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(flag) => Value::Bool(*flag),
            Content::Number(number) => Value::Number(number.clone()),
            Content::Text(text) => Value::String(text.clone()),
            Content::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Content::Map(fields) => {
                Value::Object(fields.iter().map(|field| (field.name.clone(), field.value.to_value())).collect())
            }
        }
    }

    /// The field `name` of a map.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        match &self.content {
            Content::Map(fields) => fields.iter().find(|field| field.name == name),
            _ => None,
        }
    }

    /// The text of the field `name` of a map.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match &self.field(name)?.value.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The line of a field such as `spec.rules[0].name`, or of the nearest part of the path that is there.
    pub(crate) fn line_of(&self, path: &str) -> Option<usize> {
        let mut node = self;
        let mut rest = path;
        let mut line = None;
        while !rest.is_empty() {
            let Some((found, next, remaining)) = node.step(rest) else { break };
            (line, node, rest) = (Some(found), next, remaining);
        }
        line
    }

    /// One step along `path`: the line, the value, and what remains of the path. Names may hold dots; the longest wins.
    fn step<'a>(&self, path: &'a str) -> Option<(usize, &Self, &'a str)> {
        match &self.content {
            Content::List(items) => {
                let (which, rest) = path.strip_prefix('.').unwrap_or(path).strip_prefix('[')?.split_once(']')?;
                let item = match which.parse::<usize>() {
                    Ok(index) => items.get(index)?,
                    Err(_) => items.iter().find(|item| item.has_keys(which))?,
                };
                Some((item.line, item, rest))
            }
            Content::Map(fields) => {
                if let Some((name, rest)) = path.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
                    let field = fields.iter().find(|field| field.name == name.trim_matches('"'))?;
                    return Some((field.line, &field.value, rest));
                }
                let path = path.strip_prefix('.').unwrap_or(path);
                let continues = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
                fields
                    .iter()
                    .filter_map(|field| {
                        Some((field, path.strip_prefix(field.name.as_str()).filter(|rest| continues(rest))?))
                    })
                    .max_by_key(|(field, _)| field.name.len())
                    .map(|(field, rest)| (field.line, &field.value, rest))
            }
            _ => None,
        }
    }

    /// Whether this is the item that managed fields call `name="a",port=80`, or, in a set, `="a"`.
    fn has_keys(&self, keys: &str) -> bool {
        let is = |node: &Self, want: &str| match &node.content {
            Content::Text(text) => text == want.trim_matches('"'),
            Content::Number(number) => number.to_string() == want,
            Content::Bool(flag) => flag.to_string() == want,
            _ => false,
        };
        keys.split(',').all(|pair| match pair.split_once('=') {
            Some(("", want)) => is(self, want),
            Some((name, want)) => self.field(name).is_some_and(|field| is(&field.value, want)),
            None => false,
        })
    }

    fn count(&self) -> usize {
        match &self.content {
            Content::List(items) => 1 + items.iter().map(Self::count).sum::<usize>(),
            Content::Map(fields) => 1 + fields.iter().map(|field| field.value.count()).sum::<usize>(),
            _ => 1,
        }
    }

    fn shift(&mut self, lines: usize) {
        self.line += lines;
        match &mut self.content {
            Content::List(items) => items.iter_mut().for_each(|item| item.shift(lines)),
            Content::Map(fields) => fields.iter_mut().for_each(|field| {
                field.line += lines;
                field.value.shift(lines);
            }),
            _ => {}
        }
    }
}

fn line_of<T>(spanned: &Spanned<T>) -> usize {
    usize::try_from(spanned.referenced.line()).unwrap_or(1).max(1)
}

impl From<Spanned<Content>> for Node {
    fn from(spanned: Spanned<Content>) -> Self {
        Self { line: line_of(&spanned), content: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON knows")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Content, E> {
        Ok(Content::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Content, E> {
        Ok(Content::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Content, E> {
        Ok(Content::Number(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Content, E> {
        Number::from_f64(number).map(Content::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Spanned<Content>>()? {
            items.push(item.into());
        }
        Ok(Content::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = access.next_key::<Spanned<String>>()? {
            let line = line_of(&name);
            let value = access.next_value::<Spanned<Content>>()?.into();
            fields.push(Field { name: name.value, line, value });
        }
        if fields.len() > NODES_MAX {
            return Err(A::Error::custom("a map with too many entries"));
        }
        Ok(Content::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Vec<Value> {
        let (documents, errors) = parse(text);
        assert_eq!(errors, []);
        documents.iter().map(|document| document.root.to_value()).collect()
    }

    fn error(text: &str) -> String {
        let (_, errors) = parse(text);
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].to_string()
    }

    #[test]
    fn documents_are_split_at_markers_and_empty_ones_are_skipped() {
        for text in [
            "a: 1\n---\nb: 2\n",
            "---\na: 1\n---\n# nothing\n---\nb: 2",
            "# head\n\n%YAML 1.2\n---\na: 1\n...\n---\nb: 2\n...\n",
            "\u{feff}a: 1\r\n---\r\nb: 2\r\n",
            "{\"a\": 1}\n{\"b\": 2}\n",
            "--- {a: 1}\n--- {b: 2}\n",
        ] {
            assert_eq!(values(text), [json!({"a": 1}), json!({"b": 2})], "{text:?}");
        }
        for text in ["", "\n\n", "# only a comment\n", "---\n---\n---\n", "...\n...\n"] {
            assert_eq!(values(text), [] as [Value; 0], "{text:?}");
        }
    }

    #[test]
    fn a_marker_inside_a_block_scalar_is_text() {
        assert_eq!(values("a: |\n  x\n  ---\n  y\nb: 1\n"), [json!({"a": "x\n---\ny\n", "b": 1})]);
        assert_eq!(values("a: ---x\n---- : y\n"), [json!({"a": "---x", "----": "y"})]);
    }

    #[test]
    fn scalars_are_what_yaml_1_2_says() {
        assert_eq!(
            values("a: yes\nb: n\nc: true\nd: 1.5\ne: -3\nf: ~\ng: '80'\nh: 12:30:00\ni: 2024-01-01\n80: x\n"),
            [json!({"a": "yes", "b": "n", "c": true, "d": 1.5, "e": -3, "f": null, "g": "80", "h": "12:30:00",
                "i": "2024-01-01", "80": "x"})]
        );
        assert_eq!(values("{\n\t\"a\": \"\\ud83d\\ude00\"\n}"), [json!({"a": "\u{1f600}"})]);
    }

    #[test]
    fn errors_name_the_document_and_the_line_of_the_file() {
        assert_eq!(
            error("a: 1\n---\n# x\nb: 1\nc: 2\nb: 3\n"),
            "document 2, line 6: the key `b` appears twice in one map"
        );
        assert!(error("a: 1\n---\nb: [1,\nc: 2\n").starts_with("document 2, line "));
        assert!(error("a: b: c\n").starts_with("document 1, line 1: "));
        assert!(error("{\"a\": 1, \"a\": 2}").contains("line 1: the key `a` appears twice"));
        assert!(error("a: .inf\n").contains("is not a finite number"));
        assert!(error("a: *nobody\n").contains("unknown"));
    }

    #[test]
    fn a_broken_document_hides_neither_the_one_before_nor_the_one_after() {
        let (documents, errors) = parse("a: 1\n---\nb: [\n---\nc: 3\n---\nd: '\n");
        assert_eq!(documents.iter().map(|document| document.number).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(errors.iter().map(|error| error.document).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let below = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb += &format!("a{level}: &a{level} [{below}]\n");
        }
        assert!(error(&bomb).contains("aliases expand to more than 10000 values"), "{}", error(&bomb));

        assert!(error(&"[".repeat(50_000)).contains("limit exceeded"));
        let nested: String = (0..150).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert!(error(&nested).contains(&format!("nested deeper than {DEPTH_MAX} levels")), "{}", error(&nested));
        assert!(error(&"---\na: 1\n".repeat(1_001)).contains("more than 1000 documents"));
    }

    #[test]
    fn many_documents_of_aliases_are_refused_together() {
        let document = format!("---\nx: &x [{}]\ny: [{}]\n", "1, ".repeat(90), "*x, ".repeat(90));
        assert!(error(&document.repeat(100)).contains("more than 500000 values"));
    }

    #[test]
    fn the_line_of_a_field_is_found() {
        let text =
            "# c\n---\nmetadata:\n  labels:\n    app.io/a.b: x\nspec:\n  rules:\n  - name: a\n    to:\n    - z: 1\n";
        let (documents, _) = parse(text);
        let root = &documents[0].root;
        for (path, want) in [
            ("metadata", Some(3)),
            ("metadata.labels.app.io/a.b", Some(5)),
            ("metadata.labels[app.io/a.b]", Some(5)),
            ("spec.rules", Some(7)),
            ("spec.rules[0].name", Some(8)),
            ("spec.rules[0].to[0].z", Some(10)),
            ("spec.rules[0].missing.deep", Some(8)),
            ("spec.rules[9]", Some(7)),
            (".spec.rules[name=\"a\"].to", Some(9)),
            (".spec.rules[name=\"a\"].to[z=1]", Some(10)),
            (".spec.rules[name=\"b\"].to", Some(7)),
            (".spec.rules[name]", Some(7)),
            ("status", None),
            ("", None),
            ("[", None),
        ] {
            assert_eq!(root.line_of(path), want, "{path}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics_and_chunks_are_the_text(text in "(\\PC|[\n\r\t{}\\[\\]:&*#%'\"|>.-]|---\n|\\.\\.\\.\n|a: )*") {
            let whole = text.strip_prefix('\u{feff}').unwrap_or(&text);
            let chunks = split_yaml(whole);
            prop_assert_eq!(chunks.iter().map(|chunk| chunk.text).collect::<String>(), whole);
            for chunk in &chunks {
                let before = &whole[..chunk.text.as_ptr() as usize - whole.as_ptr() as usize];
                prop_assert_eq!(chunk.line, 1 + before.matches('\n').count());
            }
            let lines = text.split(['\n', '\r']).count();
            let (documents, errors) = parse(&text);
            for document in &documents {
                prop_assert!((1..=lines + 1).contains(&document.root.line));
                let _ = document.root.line_of(&text);
            }
            for error in errors {
                prop_assert!((1..=lines + 1).contains(&error.line), "{}", error);
            }
        }

        #[test]
        fn json_reads_the_same_as_yaml(value in json_values()) {
            for text in [serde_json::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
                prop_assert_eq!(values(&text), std::slice::from_ref(&value));
            }
        }
    }

    fn json_values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\u{e9}\u{1f600}\n\t]{0,12}".prop_map(Value::from),
        ];
        let nested = leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[ -~]{1,8}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        prop::collection::btree_map("[a-z]{1,8}", nested, 1..4).prop_map(|map| Value::Object(map.into_iter().collect()))
    }
}
