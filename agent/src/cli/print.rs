//! How output looks: the console, output formats, and text from the relay made safe for a terminal.
//!
//! Knows nothing of kinds; their columns are `table`'s.

use std::{
    io::{self, Read, Write},
    str::FromStr,
};

use clap::ValueEnum;
use serde_json::{Value, json};

use super::jsonpath::{JsonPath, JsonPathError, text_of};

/// Where a command reads and writes, so that tests can look.
#[expect(missing_debug_implementations, reason = "three streams have nothing to show")]
pub struct Console<'a> {
    pub input: &'a mut dyn Read,
    /// What was asked for.
    pub out: &'a mut dyn Write,
    /// Everything else.
    pub err: &'a mut dyn Write,
    /// Whether `out` is a terminal whose user likes colours.
    pub is_coloured: bool,
}

impl Console<'_> {
    /// A line on standard output.
    pub(crate) fn say(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{}", clean(text))
    }

    /// A line on standard error.
    pub(crate) fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.err, "{}", clean(text))
    }

    /// `error: ...` on standard error; when even that cannot be written there is nobody to tell.
    pub(crate) fn complain(&mut self, text: &str) {
        let _ = writeln!(self.err, "error: {}", clean(text));
    }

    /// The relay's warnings on standard error.
    pub(crate) fn warn(&mut self, warnings: &[String]) -> io::Result<()> {
        warnings.iter().try_for_each(|warning| writeln!(self.err, "warning: {}", clean_line(warning)))
    }
}

/// How objects are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns
    Wide,
    Json,
    Yaml,
    /// kind.group/name, one per line
    Name,
}

/// What `-o` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    Json,
    Yaml,
    /// kind.group/name, one per line.
    Name,
    /// `jsonpath=TEMPLATE` or `jsonpath-file=FILE`.
    JsonPath(JsonPath),
    /// `custom-columns=TITLE:PATH,…` or `custom-columns-file=FILE`.
    CustomColumns(Vec<(String, JsonPath)>),
}

/// The values of `-o`, as its usage shows them.
pub(crate) const OUTPUTS: &str = "table|wide|json|yaml|name|jsonpath=...|custom-columns=...";
/// The longest file of a template or of columns in bytes: what a template may have, twice.
const TEMPLATE_FILE_BYTES_MAX: u64 = 128 << 10;

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let template = |template: &str| {
            JsonPath::parse(template).map(Self::JsonPath).map_err(|error| format!("{error} in `{template}`"))
        };
        match text.split_once('=') {
            None => match text {
                "table" => Ok(Self::Table),
                "wide" => Ok(Self::Wide),
                "json" => Ok(Self::Json),
                "yaml" => Ok(Self::Yaml),
                "name" => Ok(Self::Name),
                "jsonpath" | "custom-columns" | "jsonpath-file" | "custom-columns-file" => {
                    Err(format!("`{text}` needs a value: {text}=..."))
                }
                _ => Err(format!("unknown output `{text}`: write {OUTPUTS}")),
            },
            Some(("jsonpath", rest)) => template(rest),
            Some(("jsonpath-file", file)) => template(read_template(file)?.trim_end_matches('\n')),
            Some(("custom-columns", rest)) => custom_columns(rest),
            Some(("custom-columns-file", file)) => {
                let text = read_template(file)?;
                let mut lines = text.lines().filter(|line| !line.trim().is_empty());
                let (Some(titles), Some(paths), None) = (lines.next(), lines.next(), lines.next()) else {
                    return Err(format!("{file}: a line of titles and a line of paths expected"));
                };
                let (titles, paths): (Vec<&str>, Vec<&str>) =
                    (titles.split_whitespace().collect(), paths.split_whitespace().collect());
                if titles.len() != paths.len() {
                    return Err(format!("{file}: {} titles for {} paths", titles.len(), paths.len()));
                }
                let columns: Vec<String> =
                    titles.iter().zip(paths).map(|(title, path)| format!("{title}:{path}")).collect();
                custom_columns(&columns.join(","))
            }
            Some(_) => Err(format!("unknown output `{text}`: write {OUTPUTS}")),
        }
    }
}

fn custom_columns(text: &str) -> Result<Output, String> {
    let mut columns = Vec::new();
    for column in text.split(',') {
        let (title, path) = column
            .split_once(':')
            .filter(|(title, path)| !title.is_empty() && !path.is_empty())
            .ok_or_else(|| format!("`{column}` is not a column: write TITLE:.path.to.field"))?;
        let path = JsonPath::parse_expression(path).map_err(|error| format!("{error} in `{path}`"))?;
        columns.push((title.to_owned(), path));
    }
    Ok(Output::CustomColumns(columns))
}

fn read_template(file: &str) -> Result<String, String> {
    let mut text = String::new();
    let opened = std::fs::File::open(file).map(|file| file.take(TEMPLATE_FILE_BYTES_MAX));
    match opened.and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => Ok(text),
        Err(error) => Err(format!("{file}: cannot read this file: {error}")),
    }
}

/// The objects in rows of the columns that the user named.
pub(crate) fn in_custom_columns(
    columns: &[(String, JsonPath)],
    objects: &[Value],
    has_header: bool,
    widths: &mut Columns,
) -> Result<String, JsonPathError> {
    let mut lines = Vec::new();
    if has_header {
        lines.push(columns.iter().map(|(title, _)| title.clone()).collect());
    }
    for object in objects {
        let mut line = Vec::new();
        for (_, path) in columns {
            let found = path.find(object)?;
            let texts: Vec<String> = found.into_iter().filter(|value| !value.is_null()).map(text_of).collect();
            line.push(if texts.is_empty() { "<none>".to_owned() } else { texts.join(",") });
        }
        lines.push(line);
    }
    Ok(widths.lines(&lines))
}

/// Objects as JSON or YAML text: one as itself, several as a `List`.
pub(crate) fn serialise(objects: Vec<Value>, is_list: bool, format: Format) -> anyhow::Result<String> {
    let value = gathered(objects, is_list);
    if format == Format::Yaml { yaml(&value) } else { Ok(json_text(&value)? + "\n") }
}

/// One object as itself, several as a `List`.
pub(crate) fn gathered(mut objects: Vec<Value>, is_list: bool) -> Value {
    match objects.pop() {
        Some(only) if !is_list && objects.is_empty() => only,
        last => {
            objects.extend(last);
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects})
        }
    }
}

fn yaml(value: &Value) -> anyhow::Result<String> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    Ok(clean(&serde_saphyr::to_string_with_options(value, options)?))
}

/// Hostile characters stand only inside JSON strings, where an escape means the same.
fn json_text(value: &Value) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hostile(character) && character != '\n' {
            safe += &format!("\\u{:04x}", u32::from(character));
        } else {
            safe.push(character);
        }
    }
    Ok(safe)
}

/// Characters that steer a terminal or reorder text: C0 but for tab and line feed, DEL, C1, and the bidirectional controls.
fn is_hostile(character: char) -> bool {
    (character.is_control() && !matches!(character, '\n' | '\t'))
        || matches!(character, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` without hostile characters; lines stay lines.
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|character| !is_hostile(*character)).collect()
}

/// `text` without hostile characters, as one line.
pub(crate) fn clean_line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

/// Rows below a header, in columns; the last column is not padded.
pub(crate) fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|title| (*title).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(rows.iter().cloned()).collect();
    Columns::default().lines(&lines)
}

/// Widths of columns, which only grow: lines that are printed later stand below those printed before.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    /// Each line's cells in columns; the last cell of a line is not padded.
    pub(crate) fn lines(&mut self, lines: &[Vec<String>]) -> String {
        const GAP: usize = 3;
        let lines: Vec<Vec<String>> =
            lines.iter().map(|line| line.iter().map(|cell| clean_line(cell)).collect()).collect();
        for line in &lines {
            self.widths.resize(self.widths.len().max(line.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count() + GAP);
            }
        }
        let mut text = String::new();
        for line in &lines {
            let padded: String = line.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            text += padded.trim_end();
            text.push('\n');
        }
        text
    }
}

/// The text, or nothing.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[31mb\u{9b}c\u{7f}\r\u{202e}d\u{0}";

    #[test]
    fn nothing_that_steers_a_terminal_is_printed() {
        assert_eq!(clean(HOSTILE), "a[31mbcd");
        assert_eq!(clean_line("a\nb\tc"), "a b c");
        let value = json!({"key": HOSTILE, HOSTILE: ["x\ny"]});
        for format in [Format::Json, Format::Yaml] {
            let text = serialise(vec![value.clone()], false, format).unwrap();
            assert!(!text.chars().any(is_hostile), "{text:?}");
        }
        assert!(!columns(&["A"], &[vec![HOSTILE.to_owned()]]).chars().any(is_hostile));
    }

    #[test]
    fn json_output_keeps_every_character() {
        let value = json!({"key": HOSTILE});
        let text = serialise(vec![value.clone()], false, Format::Json).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn yaml_output_reads_back_the_same() {
        let value = json!({"a": "yes", "b": "80", "c": [1, {"d": null, "e": []}], "f": {}, "g": "x\ny\n", "h": "a: b",
            "i": "word ".repeat(60), "j": 1.5, "k": "2024-01-01T00:00:00Z", "l": "- x", "m": " lead", "n": "don't"});
        let text = serialise(vec![value.clone()], false, Format::Yaml).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), value, "{text}");
        let list = serialise(vec![value.clone()], true, Format::Yaml).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&list).unwrap()["items"][0], value, "{list}");
    }

    #[test]
    fn outputs_are_read() {
        let custom = "custom-columns=NAME:.metadata.name,X:spec.x[*]".parse::<Output>().unwrap();
        let Output::CustomColumns(columns) = custom else { panic!("{custom:?}") };
        let objects = [json!({"metadata": {"name": "a"}, "spec": {"x": [1, "b"]}}), json!({})];
        assert_eq!(
            in_custom_columns(&columns, &objects, true, &mut Columns::default()).unwrap(),
            "NAME     X\na        1,b\n<none>   <none>\n"
        );
        assert!(matches!("jsonpath={.a}".parse(), Ok(Output::JsonPath(_))));
        for (text, want) in [
            ("xml", "unknown output `xml`: write table|wide"),
            ("jsonpath", "needs a value"),
            ("jsonpath={.a", "not a JSONPath template"),
            ("custom-columns=A", "`A` is not a column"),
            ("custom-columns=A:{", "not a JSONPath template"),
            ("jsonpath-file=/nowhere/x", "/nowhere/x: cannot read this file"),
        ] {
            let error = text.parse::<Output>().unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn templates_and_columns_come_from_files_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, "A   B\n.a  .b\n").unwrap();
        let columns: Output = format!("custom-columns-file={}", file.display()).parse().unwrap();
        assert_eq!(Ok(columns), "custom-columns=A:.a,B:.b".parse());
        std::fs::write(&file, "{.a}\n").unwrap();
        assert_eq!(format!("jsonpath-file={}", file.display()).parse::<Output>(), "jsonpath={.a}".parse());
    }

    #[test]
    fn columns_align() {
        let rows =
            [vec!["office".to_owned(), "é".to_owned(), "1".to_owned()], vec!["b".into(), "long".into(), "22".into()]];
        assert_eq!(
            columns(&["NAME", "X", "AGE"], &rows),
            "NAME     X      AGE\noffice   é      1\nb        long   22\n"
        );
    }
}
