//! Conditions: how they are made, and how their times survive from one translation to the next.

use underpass_shared::resource::condition::{Condition, ConditionStatus};

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
                for listener in &mut wanted.listeners {
                    let same = current.and_then(|now| now.listeners.iter().find(|known| known.name == listener.name));
                    keep_times(&mut listener.conditions, same.map_or(&[], |known| &known.conditions), now);
                }
            }
            Self::HttpRoute(wanted) => {
                let current = if let Some(Self::HttpRoute(current)) = current { &*current.parents } else { &[] };
                for parent in &mut wanted.parents {
                    let same = current.iter().find(|known| known.parent_ref == parent.parent_ref);
                    keep_times(&mut parent.conditions, same.map_or(&[], |known| &known.conditions), now);
                }
            }
            Self::Backend(wanted) => {
                let current = if let Some(Self::Backend(current)) = current { &*current.conditions } else { &[] };
                keep_times(&mut wanted.conditions, current, now);
            }
            Self::TunnelNode(wanted) => {
                let current = if let Some(Self::TunnelNode(current)) = current { &**current } else { &[] };
                keep_times(wanted, current, now);
            }
        }
    }
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
