//! Conditions: how they are made, and how their times survive from one translation to the next.

use serde_json::{Value, json};
use underpass_shared::resource::{
    condition::{Condition, ConditionStatus},
    gateway::{CONTROLLER_NAME, ListenerStatus},
    http_route::RouteParentStatus,
};

use super::Status;

pub(super) fn yes(generation: i64, kind: &str, reason: &str, message: impl Into<String>) -> Condition {
    condition(generation, kind, ConditionStatus::True, (reason, message.into()))
}

pub(super) fn no(generation: i64, kind: &str, reason: &str, message: impl Into<String>) -> Condition {
    condition(generation, kind, ConditionStatus::False, (reason, message.into()))
}

pub(super) fn unknown(generation: i64, kind: &str, reason: &str, message: impl Into<String>) -> Condition {
    condition(generation, kind, ConditionStatus::Unknown, (reason, message.into()))
}

fn condition(generation: i64, kind: &str, status: ConditionStatus, (reason, message): (&str, String)) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status,
        observed_generation: generation,
        last_transition_time: String::new(),
        reason: reason.to_owned(),
        message,
    }
}

/// Gives every wanted condition its time: that of the current condition of the same type and status, else `now`.
///
/// `now` is RFC 3339. Wanted conditions that equal the current ones afterwards need no write.
pub fn keep_times(wanted: &mut [Condition], current: &[Condition], now: &str) {
    for condition in wanted {
        let same = |known: &&Condition| known.kind == condition.kind && known.status == condition.status;
        let known = current.iter().find(same).map_or(now, |known| &known.last_transition_time);
        condition.last_transition_time = known.to_owned();
    }
}

fn keep_listeners(wanted: &mut [ListenerStatus], current: &[ListenerStatus], now: &str) {
    for listener in wanted {
        let same = current.iter().find(|known| known.name == listener.name);
        keep_times(&mut listener.conditions, same.map_or(&[], |known| &known.conditions), now);
    }
}

impl Status {
    /// Fills in every `lastTransitionTime` as [`keep_times`] does; `current` is the object's status as it is stored.
    pub fn keep_times(&mut self, current: Option<&Self>, now: &str) {
        match self {
            Self::GatewayClass(wanted) => {
                let current = if let Some(Self::GatewayClass(current)) = current { &*current.conditions } else { &[] };
                keep_times(&mut wanted.conditions, current, now);
            }
            Self::Gateway(wanted) => {
                let current = if let Some(Self::Gateway(current)) = current { Some(current) } else { None };
                keep_times(&mut wanted.conditions, current.map_or(&[], |current| &current.conditions), now);
                keep_listeners(&mut wanted.listeners, current.map_or(&[], |current| &current.listeners), now);
            }
            Self::ListenerSet(wanted) => {
                let current = if let Some(Self::ListenerSet(current)) = current { Some(current) } else { None };
                keep_times(&mut wanted.conditions, current.map_or(&[], |current| &current.conditions), now);
                keep_listeners(&mut wanted.listeners, current.map_or(&[], |current| &current.listeners), now);
            }
            Self::Route(_, wanted) => {
                let current = if let Some(Self::Route(_, current)) = current { &*current.parents } else { &[] };
                for parent in &mut wanted.parents {
                    let is_same = |known: &&RouteParentStatus| {
                        known.parent_ref == parent.parent_ref && known.controller_name == CONTROLLER_NAME
                    };
                    let same = current.iter().find(is_same);
                    keep_times(&mut parent.conditions, same.map_or(&[], |known| &known.conditions), now);
                }
                let others = current.iter().filter(|known| known.controller_name != CONTROLLER_NAME);
                wanted.parents.extend(others.take(ENTRIES_MAX.saturating_sub(wanted.parents.len())).cloned());
            }
            Self::Backend(wanted) => {
                let current = if let Some(Self::Backend(current)) = current { &*current.conditions } else { &[] };
                keep_times(&mut wanted.conditions, current, now);
            }
            Self::TunnelNode(wanted) => {
                let current = if let Some(Self::TunnelNode(current)) = current { &**current } else { &[] };
                keep_times(wanted, current, now);
            }
            Self::Other(_, wanted) => {
                let current = if let Some(Self::Other(_, current)) = current { current } else { &Value::Null };
                lay_over(wanted, current, now);
            }
        }
    }
}

/// The most entries of `status.parents`, ours and others' (Gateway API).
const ENTRIES_MAX: usize = 32;

/// The most entries of `status.ancestors`, ours and others' (Gateway API).
pub(super) const ANCESTORS_MAX: usize = 16;

/// The most conditions of one list, ours and others' (Gateway API).
const CONDITIONS_MAX: usize = 8;

/// Lays `wanted`, which is ours, over the rest of the current status, which is others'; times are kept.
///
/// Applied to its own result it changes nothing, so that what is right is not written again.
fn lay_over(wanted: &mut Value, current: &Value, now: &str) {
    let Some(wanted) = wanted.as_object_mut() else { return };
    for (field, value) in &mut *wanted {
        let current = list(current, field);
        match field.as_str() {
            "conditions" => lay_conditions(value, current, now),
            "parents" => lay_entries(value, current, ("parentRef", ENTRIES_MAX), now),
            "ancestors" => lay_entries(value, current, ("ancestorRef", ANCESTORS_MAX), now),
            _ => {}
        }
    }
    for (field, value) in current.as_object().into_iter().flatten() {
        wanted.entry(field).or_insert_with(|| value.clone());
    }
}

fn lay_conditions(wanted: &mut Value, current: &[Value], now: &str) {
    let Some(wanted) = wanted.as_array_mut() else { return };
    for condition in wanted.iter_mut().filter_map(Value::as_object_mut) {
        let same = |known: &&Value| ["type", "status"].iter().all(|&field| known.get(field) == condition.get(field));
        let known = current.iter().find(same).and_then(|known| known.get("lastTransitionTime")?.as_str());
        let time = json!(known.unwrap_or(now));
        condition.insert("lastTransitionTime".to_owned(), time);
    }
    let is_ours = |known: &Value, wanted: &[Value]| wanted.iter().any(|one| one.get("type") == known.get("type"));
    let others: Vec<Value> = current.iter().filter(|known| !is_ours(known, wanted)).cloned().collect();
    wanted.extend(others.into_iter().take(CONDITIONS_MAX.saturating_sub(wanted.len())));
}

fn lay_entries(wanted: &mut Value, current: &[Value], (reference, max): (&str, usize), now: &str) {
    let Some(wanted) = wanted.as_array_mut() else { return };
    let is_ours = |entry: &Value| entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER_NAME);
    for entry in wanted.iter_mut().filter_map(Value::as_object_mut) {
        let known = current.iter().find(|known| is_ours(known) && known.get(reference) == entry.get(reference));
        let known = known.map_or(&[][..], |known| list(known, "conditions"));
        if let Some(conditions) = entry.get_mut("conditions") {
            lay_conditions(conditions, known, now);
        }
    }
    let others: Vec<Value> = current.iter().filter(|entry| !is_ours(entry)).cloned().collect();
    wanted.extend(others.into_iter().take(max.saturating_sub(wanted.len())));
}

fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_change_only_with_the_status() {
        let mut before = vec![yes(1, "Accepted", "Accepted", ""), yes(1, "Programmed", "Programmed", "")];
        keep_times(&mut before, &[], "t1");
        let mut after = vec![yes(2, "Accepted", "ListenersNotValid", "x"), no(2, "Programmed", "Invalid", "")];
        keep_times(&mut after, &before, "t2");
        assert_eq!(after[0].last_transition_time, "t1");
        assert_eq!(after[1].last_transition_time, "t2");
    }
}
