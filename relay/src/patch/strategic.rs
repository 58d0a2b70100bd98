//! Kubernetes' strategic merge patch: a merge patch that knows which lists are merged item by item, and by which key.
//!
//! Directives: `$patch: replace | delete | merge` in an object or a list item, `$deleteFromPrimitiveList/FIELD`,
//! `$setElementOrder/FIELD`, `$retainKeys`. Nulls remove. Lists without a strategy are replaced.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{LEVELS_MAX, PatchError, quoted};
use crate::schema::{Form, Node, PatchStrategy};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// `object` with `patch` merged into it, by the strategies of `schema`.
///
/// # Errors
/// [`PatchError::Malformed`] when a directive is not understood, an item of a merged list lacks its key, or a list
/// mixes objects and plain values.
pub fn strategic(schema: &Node, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("a strategic merge patch is an object".to_owned()));
    };
    let live = object.as_object().cloned().unwrap_or_default();
    merge_maps(Some(schema), live, patch, 0).map(Value::Object)
}

fn malformed<T>(message: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError::Malformed(message.into()))
}

/// The schema of the field `name`, where there is one.
fn field<'a>(node: Option<&'a Node>, name: &str) -> Option<&'a Node> {
    match &node?.form {
        Form::Object { properties, additional, .. } => properties.get(name).or(additional.as_ref()).map(AsRef::as_ref),
        _ => None,
    }
}

fn merge_maps(
    node: Option<&Node>,
    live: Map<String, Value>,
    patch: &Map<String, Value>,
    level: usize,
) -> Result<Map<String, Value>, PatchError> {
    if level >= LEVELS_MAX {
        return Err(PatchError::TooLarge("the patch is nested too deep".to_owned()));
    }
    match patch.get(DIRECTIVE).map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => return Ok(plain_map(patch)),
        Some(Some("delete")) => return Ok(Map::new()),
        Some(other) => return malformed(format!("`$patch: {}` is no directive", quoted(other.unwrap_or("…")))),
    }
    let ordered = patch.keys().filter_map(|name| name.strip_prefix(SET_ORDER));
    let lists: BTreeMap<_, _> = ordered.map(|name| (name, keys_in(&live, name, key_at(node, name)))).collect();
    let mut merged = live;
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain_keys(&mut merged, keys, patch)?;
    }
    for (name, value) in patch {
        if [DIRECTIVE, RETAIN_KEYS].contains(&name.as_str()) {
            continue;
        }
        if let Some(name) = name.strip_prefix(DELETE_FROM) {
            delete_from(&mut merged, name, value)?;
        } else if !name.starts_with(SET_ORDER) {
            merge_field(field(node, name), &mut merged, (name, value), level)?;
        }
    }
    // Orders come last, whatever their names: they arrange what the other fields have made.
    for (name, order) in patch {
        if let Some(name) = name.strip_prefix(SET_ORDER) {
            let live = lists.get(name).map(Vec::as_slice).unwrap_or_default();
            set_order(key_at(node, name), (live, patch.get(name)), &mut merged, (name, order))?;
        }
    }
    Ok(merged)
}

fn merge_field(
    node: Option<&Node>,
    merged: &mut Map<String, Value>,
    (name, value): (&str, &Value),
    level: usize,
) -> Result<(), PatchError> {
    let new = match (merged.remove(name), value) {
        (_, Value::Null) => None,
        (Some(Value::Object(live)), Value::Object(patch)) => {
            Some(Value::Object(merge_maps(node, live, patch, level + 1)?))
        }
        (Some(Value::Array(live)), Value::Array(patch)) => match strategy(node) {
            Some((strategy, items)) => Some(Value::Array(merge_lists(items, strategy, live, patch, level + 1)?)),
            None => Some(plain_list(patch)),
        },
        (_, value) => plain(value),
    };
    if let Some(new) = new {
        merged.insert(name.to_owned(), new);
    }
    Ok(())
}

/// How the list at `node` is merged, and what its items are; `None` when it is replaced.
fn strategy(node: Option<&Node>) -> Option<(&PatchStrategy, &Node)> {
    let node = node?;
    let strategy = node.patch.as_ref().filter(|strategy| strategy.merge)?;
    match &node.form {
        Form::List { items, .. } => Some((strategy, items)),
        _ => None,
    }
}

/// `value` without directives and nulls, as it stands where nothing was; `None` when it only says what to delete.
fn plain(value: &Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.get(DIRECTIVE).is_some_and(|directive| directive == "delete") => None,
        Value::Object(fields) => Some(Value::Object(plain_map(fields))),
        Value::Array(items) => Some(plain_list(items)),
        other => Some(other.clone()),
    }
}

fn plain_map(fields: &Map<String, Value>) -> Map<String, Value> {
    let kept = fields.iter().filter(|(name, value)| !is_directive(name) && !value.is_null());
    kept.filter_map(|(name, value)| Some((name.clone(), plain(value)?))).collect()
}

/// In a list, an item that is a directive and nothing else is none.
fn plain_list(items: &[Value]) -> Value {
    let bare =
        |item: &&Value| item.as_object().is_none_or(|fields| !fields.contains_key(DIRECTIVE) || fields.len() > 1);
    Value::Array(items.iter().filter(bare).filter_map(plain).collect())
}

fn is_directive(name: &str) -> bool {
    [DIRECTIVE, RETAIN_KEYS].contains(&name) || name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER)
}

/// Drops what `keys` does not name; everything the patch sets must be named.
fn retain_keys(merged: &mut Map<String, Value>, keys: &Value, patch: &Map<String, Value>) -> Result<(), PatchError> {
    let Value::Array(keys) = keys else { return malformed("`$retainKeys` takes a list of field names") };
    let keys: BTreeSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let set = patch.iter().filter(|(name, value)| !value.is_null() && !is_directive(name));
    if let Some((name, _)) = set.clone().find(|(name, _)| !keys.contains(name.as_str())) {
        return malformed(format!("the patch sets `{}`, which `$retainKeys` does not name", quoted(name)));
    }
    merged.retain(|name, _| keys.contains(name.as_str()));
    Ok(())
}

fn delete_from(merged: &mut Map<String, Value>, name: &str, values: &Value) -> Result<(), PatchError> {
    let Value::Array(values) = values else {
        return malformed(format!("`{DELETE_FROM}{}` takes a list", quoted(name)));
    };
    let gone: BTreeSet<String> = values.iter().map(Value::to_string).collect();
    if let Some(Value::Array(items)) = merged.get_mut(name) {
        items.retain(|item| !gone.contains(&item.to_string()));
    }
    Ok(())
}

fn merge_lists(
    items: &Node,
    strategy: &PatchStrategy,
    live: Vec<Value>,
    patch: &[Value],
    level: usize,
) -> Result<Vec<Value>, PatchError> {
    if live.iter().chain(patch).any(Value::is_array) {
        return malformed("a list of lists cannot be merged");
    }
    let objects = live.iter().chain(patch).filter(|item| item.is_object()).count();
    if objects > 0 && objects < live.len() + patch.len() {
        return malformed("a merged list holds objects or plain values, not both");
    }
    let key = strategy.merge_key.as_deref();
    let old = keys_of(&live, key);
    let Keyed { mut items, order } = match key {
        _ if objects == 0 => merge_values(live, patch),
        Some(key) => merge_items(items, key, live, patch, level)?,
        None => return malformed("a list of objects without a merge key cannot be merged"),
    };
    arrange(&mut items, &order, &old);
    Ok(items.into_iter().map(|(_, item)| item).collect())
}

fn merge_values(live: Vec<Value>, patch: &[Value]) -> Keyed {
    let mut seen = BTreeSet::new();
    let both = live.into_iter().chain(patch.iter().cloned()).map(|item| (item.to_string(), item));
    let items = both.filter(|(key, _)| seen.insert(key.clone())).collect();
    Keyed { items, order: patch.iter().map(Value::to_string).collect() }
}

/// Items with their keys, and the keys that the patch named, in its order.
struct Keyed {
    items: Vec<(String, Value)>,
    order: Vec<String>,
}

fn merge_items(node: &Node, key: &str, live: Vec<Value>, patch: &[Value], level: usize) -> Result<Keyed, PatchError> {
    let mut items: Vec<Option<(String, Value)>> = Vec::with_capacity(live.len() + patch.len());
    let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let replace = patch.iter().any(|item| item.get(DIRECTIVE).is_some_and(|directive| directive == "replace"));
    for item in live.into_iter().filter(|_| !replace) {
        let name = key_of(&item, key)?;
        places.entry(name.clone()).or_default().push(items.len());
        items.push(Some((name, item)));
    }
    // What is deleted goes first, whatever the order of the patch.
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_some()) {
        match item[DIRECTIVE].as_str() {
            Some("delete") => {
                let gone = places.remove(&key_of(item, key)?).unwrap_or_default();
                gone.into_iter().for_each(|place| items[place] = None);
            }
            Some("replace" | "merge") => {}
            other => return malformed(format!("`$patch: {}` is no directive", quoted(other.unwrap_or("…")))),
        }
    }
    let mut order = Vec::new();
    for item in patch {
        let directive = item.get(DIRECTIVE).and_then(Value::as_str);
        if matches!(directive, Some("delete" | "replace")) {
            continue;
        }
        let name = key_of(item, key)?;
        order.push(name.clone());
        let place = places.get(&name).and_then(|places| places.first()).copied();
        match (place.and_then(|place| items[place].as_mut()), item.as_object()) {
            (Some((_, Value::Object(live))), Some(patch)) => {
                *live = merge_maps(Some(node), std::mem::take(live), patch, level)?;
            }
            (_, _) => {
                if let Some(item) = plain(item) {
                    places.entry(name.clone()).or_default().push(items.len());
                    items.push(Some((name, item)));
                }
            }
        }
    }
    Ok(Keyed { items: items.into_iter().flatten().collect(), order })
}

fn key_of(item: &Value, key: &str) -> Result<String, PatchError> {
    match item.get(key) {
        Some(value) => Ok(value.to_string()),
        None => malformed(format!("an item of a merged list has no `{key}`, by which the items are told apart")),
    }
}

fn keys_of(items: &[Value], key: Option<&str>) -> Vec<String> {
    let key =
        |item: &Value| if item.is_object() { item.get(key?).map(Value::to_string) } else { Some(item.to_string()) };
    items.iter().filter_map(key).collect()
}

/// By which field the items of the list `name` are told apart.
fn key_at<'a>(node: Option<&'a Node>, name: &str) -> Option<&'a str> {
    strategy(field(node, name)).and_then(|(strategy, _)| strategy.merge_key.as_deref())
}

fn keys_in(object: &Map<String, Value>, name: &str, key: Option<&str>) -> Vec<String> {
    object.get(name).and_then(Value::as_array).map(|items| keys_of(items, key)).unwrap_or_default()
}

/// Arranges what the patch made of a list by `$setElementOrder`, which must name all that the patch sets.
fn set_order(
    key: Option<&str>,
    (live, patch): (&[String], Option<&Value>),
    merged: &mut Map<String, Value>,
    (name, order): (&str, &Value),
) -> Result<(), PatchError> {
    let Value::Array(order) = order else {
        return malformed(format!("`{SET_ORDER}{}` takes a list", quoted(name)));
    };
    let Some(Value::Array(items)) = merged.get_mut(name) else { return Ok(()) };
    let order = keys_of(order, key);
    let known: BTreeMap<&str, usize> = order.iter().enumerate().map(|(at, key)| (key.as_str(), at)).collect();
    let set = patch.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let set = set.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned().collect::<Vec<_>>();
    let places: Option<Vec<_>> = keys_of(&set, key).iter().map(|key| known.get(key.as_str()).copied()).collect();
    if !order.is_empty() && places.is_none_or(|places| !places.is_sorted()) {
        return malformed(format!("`{SET_ORDER}{0}` has another order than `{0}`", quoted(name)));
    }
    let keyed = std::mem::take(items).into_iter().map(|item| {
        let name = if item.is_object() {
            key.and_then(|key| item.get(key)).map(Value::to_string)
        } else {
            Some(item.to_string())
        };
        (name.unwrap_or_default(), item)
    });
    let mut keyed: Vec<_> = keyed.collect();
    arrange(&mut keyed, &order, live);
    *items = keyed.into_iter().map(|(_, item)| item).collect();
    Ok(())
}

/// Brings `items` into `order`; those it does not name stay before what they stood before in `live`.
fn arrange(items: &mut Vec<(String, Value)>, order: &[String], live: &[String]) {
    let first = |keys: &[String]| {
        let mut places = BTreeMap::new();
        for (at, key) in keys.iter().enumerate() {
            places.entry(key.clone()).or_insert(at);
        }
        places
    };
    let (order, live) = (first(order), first(live));
    let (mut named, mut others): (Vec<_>, Vec<_>) = items.drain(..).partition(|(key, _)| order.contains_key(key));
    named.sort_by_key(|(key, _)| order.get(key).copied());
    others.sort_by_key(|(key, _)| live.get(key).copied().unwrap_or(usize::MAX));
    let mut others = others.into_iter().peekable();
    for item in named {
        if let Some(place) = live.get(&item.0) {
            while let Some(other) = others.next_if(|(key, _)| live.get(key).is_some_and(|at| at < place)) {
                items.push(other);
            }
        }
        items.push(item);
    }
    items.extend(others);
}
