//! The relay's `Table` answers (meta.k8s.io/v1) → rows and columns of text.
//!
//! Pure, and total over arbitrary JSON. Which columns a kind has, and how old things are, is what the relay says.

use serde_json::Value;
use underpass_shared::resource::kind::Scope;

use super::{
    jsonpath::{JsonPath, JsonPathError},
    kinds::{KindWord, full_name},
    print::{Columns, text},
};

/// What kubectl prints where there is nothing.
pub(crate) const NONE: &str = "<none>";

/// What a table shows beside the kind's usual columns.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extent {
    /// Columns of lower priority too.
    pub(crate) is_wide: bool,
    pub(crate) has_namespaces: bool,
    pub(crate) has_labels: bool,
    /// `kind.group/` before each name, because the output shows several kinds.
    pub(crate) has_kinds: bool,
    pub(crate) has_header: bool,
}

/// A `Table`, or several of one kind put together.
#[derive(Debug, Default)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Column {
    title: String,
    /// Shown in wide output only.
    is_wide: bool,
    is_name: bool,
}

#[derive(Debug)]
struct Row {
    cells: Vec<String>,
    /// The object, or its metadata.
    object: Value,
}

impl Table {
    /// Takes the columns and adds the rows of an answer; false when it is no table. Later events of a watch come without
    /// columns: those known stay.
    pub(crate) fn add(&mut self, answer: &Value) -> bool {
        if answer["kind"] != "Table" {
            return false;
        }
        self.add_columns(&answer["columnDefinitions"]);
        self.add_rows(answer["rows"].as_array().map_or(&[], Vec::as_slice));
        true
    }

    pub(crate) fn add_columns(&mut self, definitions: &Value) {
        let definitions = definitions.as_array().into_iter().flatten();
        let columns = definitions.map(|column| Column {
            title: text(&column["name"]).to_uppercase(),
            is_wide: column["priority"].as_i64().unwrap_or(0) > 0,
            is_name: column["format"] == "name" || text(&column["name"]).eq_ignore_ascii_case("name"),
        });
        let columns: Vec<Column> = columns.collect();
        if !columns.is_empty() {
            self.columns = columns;
        }
    }

    pub(crate) fn add_rows(&mut self, rows: &[Value]) {
        self.rows.extend(rows.iter().map(|row| Row {
            cells: row["cells"].as_array().into_iter().flatten().map(cell).collect(),
            object: row["object"].clone(),
        }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
    }

    /// Orders the rows by what `path` finds in their objects.
    pub(crate) fn sort_by(&mut self, path: &JsonPath) -> Result<(), JsonPathError> {
        sort_by(&mut self.rows, path, |row| &row.object)
    }

    /// The lines, in columns at least as wide as those printed before.
    pub(crate) fn print(&self, word: &KindWord, extent: Extent, columns: &mut Columns) -> String {
        let shown: Vec<usize> =
            (0..self.columns.len()).filter(|index| extent.is_wide || !self.columns[*index].is_wide).collect();
        let has_namespaces = extent.has_namespaces && word.kind.info().scope == Scope::Namespaced;
        let mut lines = Vec::new();
        if extent.has_header {
            let mut line: Vec<String> = shown.iter().map(|index| self.columns[*index].title.clone()).collect();
            if has_namespaces {
                line.insert(0, "NAMESPACE".to_owned());
            }
            if extent.has_labels {
                line.push("LABELS".to_owned());
            }
            lines.push(line);
        }
        for row in &self.rows {
            let mut line: Vec<String> = shown
                .iter()
                .map(|index| {
                    let text = row.cells.get(*index).map_or(NONE, String::as_str);
                    if extent.has_kinds && self.columns[*index].is_name {
                        full_name(word.kind.info(), word.api_version, text)
                    } else {
                        text.to_owned()
                    }
                })
                .collect();
            let metadata = &row.object["metadata"];
            if has_namespaces {
                line.insert(0, text(&metadata["namespace"]).to_owned());
            }
            if extent.has_labels {
                line.push(labels(&metadata["labels"]));
            }
            lines.push(line);
        }
        columns.lines(&lines)
    }
}

/// Orders anything by what `path` finds in its objects: numbers as numbers, what is missing first.
pub(crate) fn sort_by<T>(items: &mut [T], path: &JsonPath, object: impl Fn(&T) -> &Value) -> Result<(), JsonPathError> {
    let mut keys = Vec::with_capacity(items.len());
    for item in items.iter() {
        keys.push(path.find(object(item))?.first().map_or(Key::Nothing, |value| Key::of(value)));
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| keys[*a].compare(&keys[*b]));
    let mut place = vec![0; order.len()];
    for (to, from) in order.into_iter().enumerate() {
        place[from] = to;
    }
    for index in 0..place.len() {
        while place[index] != index {
            let to = place[index];
            items.swap(index, to);
            place.swap(index, to);
        }
    }
    Ok(())
}

enum Key {
    Nothing,
    Number(f64),
    Text(String),
}

impl Key {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Nothing,
            Value::Number(number) => number.as_f64().map_or(Self::Nothing, Self::Number),
            Value::String(text) => Self::Text(text.clone()),
            other => Self::Text(other.to_string()),
        }
    }

    fn compare(&self, other: &Self) -> std::cmp::Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Number(_) => 1,
            Self::Text(_) => 2,
        }
    }
}

/// `a=b,c=d`.
pub(crate) fn labels(labels: &Value) -> String {
    let pairs: Vec<String> =
        labels.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value))).collect();
    if pairs.is_empty() { NONE.to_owned() } else { pairs.join(",") }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => NONE.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use underpass_shared::resource::kind::Kind;

    use super::*;

    fn answer() -> Value {
        json!({"kind": "Table",
            "columnDefinitions": [
                {"name": "Name", "type": "string", "format": "name", "priority": 0},
                {"name": "Agents", "type": "integer", "priority": 0},
                {"name": "Addresses", "type": "string", "priority": 1},
                {"name": "Age", "type": "date", "priority": 0}],
            "rows": [
                {"cells": ["office", 2, "a:1", "5m"], "object": {
                    "metadata": {"name": "office", "namespace": "x", "labels": {"b": "2", "a": "1"}, "generation": 10}}},
                {"cells": ["b", null, true], "object": {"metadata": {"name": "b", "generation": 9}}}]})
    }

    fn shown(extent: Extent) -> String {
        let mut table = Table::default();
        assert!(table.add(&answer()));
        table.print(&KindWord::of(Kind::Backend), extent, &mut Columns::default())
    }

    #[test]
    fn the_relays_columns_are_shown_by_priority() {
        let usual = Extent { has_header: true, ..Extent::default() };
        assert_eq!(shown(usual), "NAME     AGENTS   AGE\noffice   2        5m\nb        <none>   <none>\n");
        assert_eq!(
            shown(Extent { is_wide: true, has_namespaces: true, ..usual }),
            "NAMESPACE   NAME     AGENTS   ADDRESSES   AGE\n\
             x           office   2        a:1         5m\n\
             \u{20}           b        <none>   true        <none>\n"
        );
        assert_eq!(
            shown(Extent { has_labels: true, has_kinds: true, ..Extent::default() }),
            "backend.core.apoxy.dev/office   2        5m       a=1,b=2\n\
             backend.core.apoxy.dev/b        <none>   <none>   <none>\n"
        );
    }

    #[test]
    fn rows_are_sorted_by_number_or_text() {
        for (path, first) in [(".metadata.generation", "b"), (".metadata.name", "b"), (".metadata.labels.a", "b")] {
            let mut table = Table::default();
            table.add(&answer());
            table.sort_by(&JsonPath::parse_expression(path).unwrap()).unwrap();
            assert_eq!(table.rows[0].cells[0], first, "{path}");
        }
    }

    #[test]
    fn later_events_keep_the_columns() {
        let mut table = Table::default();
        table.add(&answer());
        table.clear();
        assert!(table.add(&json!({"kind": "Table", "columnDefinitions": null, "rows": [{"cells": ["c"]}]})));
        assert_eq!(
            table.print(&KindWord::of(Kind::Backend), Extent::default(), &mut Columns::default()),
            "c   <none>   <none>\n"
        );
        assert!(!table.add(&json!({"kind": "List"})));
    }

    proptest! {
        #[test]
        fn sorting_is_a_permutation_in_order(numbers in prop::collection::vec(-9_i64..9, 0..20)) {
            let mut items: Vec<Value> = numbers.iter().map(|number| json!({"a": number})).collect();
            sort_by(&mut items, &JsonPath::parse_expression(".a").unwrap(), |item| item).unwrap();
            let mut want = numbers;
            want.sort_unstable();
            let got: Vec<i64> = items.iter().map(|item| item["a"].as_i64().unwrap()).collect();
            prop_assert_eq!(got, want);
        }
    }
}
