//! How output looks: the console, output formats, and text from the relay made safe for a terminal.
//!
//! Knows nothing of kinds; their columns are `table`'s.

use std::io::{self, Read, Write};

use clap::ValueEnum;
use serde_json::{Value, json};

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

/// Objects as JSON or YAML text: one as itself, several as a `List`.
pub(crate) fn serialise(objects: Vec<Value>, is_list: bool, format: Format) -> anyhow::Result<String> {
    let mut objects = objects;
    let value = match objects.pop() {
        Some(only) if !is_list && objects.is_empty() => only,
        last => {
            objects.extend(last);
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects})
        }
    };
    if format == Format::Yaml { yaml(&value) } else { Ok(json_text(&value)? + "\n") }
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
    const GAP: usize = 3;
    let mut lines: Vec<Vec<String>> = vec![header.iter().map(|title| (*title).to_owned()).collect()];
    lines.extend(rows.iter().map(|row| row.iter().map(|cell| clean_line(cell)).collect()));
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0) + GAP
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded: String = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += padded.trim_end();
        text.push('\n');
    }
    text
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
    fn columns_align() {
        let rows =
            [vec!["office".to_owned(), "é".to_owned(), "1".to_owned()], vec!["b".into(), "long".into(), "22".into()]];
        assert_eq!(
            columns(&["NAME", "X", "AGE"], &rows),
            "NAME     X      AGE\noffice   é      1\nb        long   22\n"
        );
    }
}
