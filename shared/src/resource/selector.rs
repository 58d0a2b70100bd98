//! `metav1.LabelSelector`: objects by their labels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything of it must hold; an empty one chooses all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    pub match_labels: BTreeMap<String, String>,
    pub match_expressions: Vec<LabelRequirement>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelRequirement {
    pub key: String,
    pub operator: LabelOperator,
    #[serde(default)]
    pub values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabelOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Whether it chooses what has `labels`. What is not there is not in any list.
    #[must_use]
    pub fn chooses(&self, labels: &BTreeMap<String, String>) -> bool {
        let by_expression = |wanted: &LabelRequirement| {
            let value = labels.get(&wanted.key);
            match wanted.operator {
                LabelOperator::In => value.is_some_and(|value| wanted.values.contains(value)),
                LabelOperator::NotIn => value.is_none_or(|value| !wanted.values.contains(value)),
                LabelOperator::Exists => value.is_some(),
                LabelOperator::DoesNotExist => value.is_none(),
            }
        };
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(by_expression)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chooses(selector: &str, labels: &[(&str, &str)]) -> bool {
        let selector: LabelSelector = serde_json::from_str(selector).unwrap();
        selector.chooses(&labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn everything_of_a_selector_must_hold() {
        let both = r#"{"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}"#;
        assert!(chooses(both, &[("a", "1"), ("b", "")]));
        assert!(!chooses(both, &[("a", "1")]) && !chooses(both, &[("a", "2"), ("b", "")]));
        assert!(chooses("{}", &[]));
    }

    #[test]
    fn what_is_not_there_is_in_no_list() {
        for (operator, there, other, absent) in
            [("In", true, false, false), ("NotIn", false, true, true), ("DoesNotExist", false, false, true)]
        {
            let selector =
                format!(r#"{{"matchExpressions": [{{"key": "a", "operator": "{operator}", "values": ["1"]}}]}}"#);
            assert_eq!(chooses(&selector, &[("a", "1")]), there, "{operator}");
            assert_eq!(chooses(&selector, &[("a", "2")]), other, "{operator}");
            assert_eq!(chooses(&selector, &[]), absent, "{operator}");
        }
    }
}
