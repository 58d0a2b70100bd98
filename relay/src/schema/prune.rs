//! The fields that no schema knows: naming them and removing them.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    node::{Form, Node},
    problem::{Cause, Findings, Problem},
};

/// Removes the fields of `value` that `node` does not know.
pub(super) fn prune(node: &Node, value: &mut Value) {
    match (&node.form, value) {
        (Form::Object { properties, additional, open, .. }, Value::Object(object)) => {
            if !open && additional.is_none() {
                object.retain(|name, _| properties.contains_key(name));
            }
            for (name, value) in object {
                if let Some(node) = properties.get(name).or(additional.as_ref()) {
                    prune(node, value);
                }
            }
        }
        (Form::List { items, .. }, Value::Array(list)) => list.iter_mut().for_each(|item| prune(items, item)),
        _ => {}
    }
}

/// The fields of `value` that `node` does not know.
pub(super) fn unknown(node: &Node, value: &Value) -> Vec<Problem> {
    let mut findings = Findings::default();
    walk(node, value, &mut findings);
    findings.into_listed()
}

fn walk(node: &Node, value: &Value, findings: &mut Findings) {
    match (&node.form, value) {
        (Form::Object { properties, additional, open, .. }, Value::Object(object)) => {
            for (name, value) in object {
                match (properties.get(name), additional) {
                    (Some(node), _) => findings.at_field(name, |findings| walk(node, value, findings)),
                    (None, Some(node)) => findings.at_key(name, |findings| walk(node, value, findings)),
                    (None, None) if *open => {}
                    (None, None) => {
                        findings.at_field(name, |findings| findings.report(Cause::Invalid, message(properties, name)));
                    }
                }
            }
        }
        (Form::List { items, .. }, Value::Array(list)) => {
            for (index, item) in list.iter().enumerate() {
                findings.at_item(index, |findings| walk(items, item, findings));
            }
        }
        _ => {}
    }
}

fn message(properties: &BTreeMap<String, Arc<Node>>, name: &str) -> String {
    match properties.keys().find(|known| known.eq_ignore_ascii_case(name)).or_else(|| nearest(properties, name)) {
        Some(known) => format!("unknown field; is `{known}` meant?"),
        None => "unknown field".to_owned(),
    }
}

/// The one known name that is a slip of a single letter away.
fn nearest<'a>(properties: &'a BTreeMap<String, Arc<Node>>, name: &str) -> Option<&'a String> {
    let mut near = properties.keys().filter(|known| is_one_slip(known.as_bytes(), name.as_bytes()));
    near.next().filter(|_| near.next().is_none())
}

/// Whether one letter was left out, added, changed or swapped with its neighbour, in names of four letters and more.
fn is_one_slip(known: &[u8], written: &[u8]) -> bool {
    if known.len() < 4 || known.len().abs_diff(written.len()) > 1 {
        return false;
    }
    let same = known.iter().zip(written).take_while(|(a, b)| a == b).count();
    let (known, written) = (&known[same..], &written[same..]);
    let tail = |list: &[u8], from: usize| list.get(from..).map(<[u8]>::to_vec);
    match known.len().cmp(&written.len()) {
        std::cmp::Ordering::Less => tail(written, 1).as_deref() == Some(known),
        std::cmp::Ordering::Greater => tail(known, 1).as_deref() == Some(written),
        std::cmp::Ordering::Equal => {
            known.len() >= 2 && known[0] == written[1] && known[1] == written[0] && known[2..] == written[2..]
                || !known.is_empty() && known[1..] == written[1..]
        }
    }
}
