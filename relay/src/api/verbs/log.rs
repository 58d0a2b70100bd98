//! `pods/NAME/log`: what was written of a pod, and what of it is read. Kept in memory, within bounds.

mod follow;
mod lines;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;
use tokio::sync::watch;

use self::{
    follow::follow,
    lines::{Lines, Window},
};
use crate::{
    api::{
        exchange::{Call, Done},
        status::Failure,
    },
    clock,
    store::object::Object,
};

/// The most bytes that one pod's containers keep; the oldest lines go.
const POD_BYTES_MAX: usize = 1 << 20;
/// The most bytes of all pods together; the pods that were not written to for longest lose theirs.
const ALL_BYTES_MAX: usize = 64 << 20;
/// What a log weighs beside its lines, so that many empty ones are bounded, too.
const LOG_BYTES: usize = 256;

/// The logs of all pods, by the pod's uid and the container.
#[derive(Debug, Default)]
pub(in crate::api) struct Logs {
    kept: Mutex<BTreeMap<(String, String), Lines>>,
    /// How often anything was written.
    written: watch::Sender<u64>,
}

impl Logs {
    /// Drops what is kept of a pod.
    pub(in crate::api) fn forget(&self, uid: &str) {
        self.kept().retain(|(of, _), _| of != uid);
    }

    fn append(&self, uid: &str, container: &str, text: &str, now: OffsetDateTime) {
        let mut kept = self.kept();
        let own = (uid.to_owned(), container.to_owned());
        let others: usize = kept.iter().filter(|((of, _), _)| of == uid).map(|(_, lines)| lines.bytes()).sum();
        let lines = kept.entry(own).or_default();
        let room = POD_BYTES_MAX.saturating_sub(others - lines.bytes());
        lines.append(text, now, room);
        while kept.values().map(|lines| lines.bytes() + LOG_BYTES).sum::<usize>() > ALL_BYTES_MAX {
            let oldest = kept.iter().min_by_key(|(_, lines)| lines.written()).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { break };
            kept.remove(&oldest);
        }
        drop(kept);
        self.written.send_modify(|times| *times += 1);
    }

    fn read(&self, uid: &str, container: &str, window: &Window) -> String {
        let key = (uid.to_owned(), container.to_owned());
        self.kept().get(&key).map(|lines| lines.read(window)).unwrap_or_default()
    }

    /// What `window` shows, or what was written after `place`; and the place to go on from.
    fn read_from(&self, uid: &str, container: &str, window: &Window, place: Option<u64>) -> (String, u64) {
        let key = (uid.to_owned(), container.to_owned());
        let kept = self.kept();
        let Some(lines) = kept.get(&key) else { return (String::new(), 0) };
        // What gave way altogether began anew since.
        let place = place.map(|place| if place > lines.end() { 0 } else { place });
        let text = place.map_or_else(|| lines.read(window), |place| lines.read_after(place, window));
        (text, lines.end())
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<(String, String), Lines>> {
        // Between any two of its steps it is whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET pods/NAME/log`.
pub(in crate::api) fn read_log(call: &Call<'_>, name: &str) -> Result<Done, Failure> {
    let key = call.place.key(name);
    let pod = call.api.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
    let asked = |wanted: &str| {
        let found = call.options.log.iter().find(|(parameter, _)| parameter == wanted);
        found.map(|(_, value)| value.as_str())
    };
    let container = container(&pod, asked("container"))?;
    if lines::flag("previous", asked("previous"))? {
        let message = format!("previous terminated container \"{container}\" in pod \"{name}\" not found");
        return Err(Failure::nothing(message));
    }
    let window = Window::parse(asked, clock::now())?;
    if lines::flag("follow", asked("follow"))? {
        return follow(call, pod, container, window);
    }
    Ok(Done::text(call.api.logs.read(&pod.body.uid, &container, &window)))
}

/// `POST` or `PUT pods/NAME/log`: appends `text`.
pub(in crate::api) fn write_log(call: &Call<'_>, name: &str, text: &[u8]) -> Result<Done, Failure> {
    let key = call.place.key(name);
    let pod = call.api.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
    let asked = call.options.log.iter().find(|(parameter, _)| parameter == "container");
    let container = container(&pod, asked.map(|(_, value)| value.as_str()))?;
    if !call.options.dry_run {
        call.api.logs.append(&pod.body.uid, &container, &String::from_utf8_lossy(text), clock::now());
    }
    Ok(Done::text(""))
}

/// The container that is meant: the one asked for, or the only one.
fn container(pod: &Object, asked: Option<&str>) -> Result<String, Failure> {
    let names: Vec<&str> = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .filter_map(|field| pod.spec().get(field)?.as_array())
        .flatten()
        .filter_map(|container| container.get("name")?.as_str())
        .collect();
    let own = pod.spec().get("containers").and_then(|list| list.as_array()).map_or(0, Vec::len);
    let pod = &pod.key.name;
    match (asked, names.as_slice()) {
        (Some(asked), names) if names.contains(&asked) => Ok(asked.to_owned()),
        (Some(asked), _) => {
            let asked = super::pipeline::shown(asked);
            Err(Failure::bad_request(format!("container {asked} is not valid for pod {pod}")))
        }
        (None, [first, ..]) if own <= 1 => Ok((*first).to_owned()),
        (None, []) => Ok(String::new()),
        (None, names) => Err(Failure::bad_request(format!(
            "a container name must be specified for pod {pod}, choose one of: [{}]",
            names.join(" ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }

    fn all() -> Window {
        Window::parse(|_| None, at(0)).unwrap()
    }

    #[test]
    fn a_pod_keeps_its_newest_megabyte() {
        let logs = Logs::default();
        for n in 0..60 {
            logs.append("u", if n % 2 == 0 { "a" } else { "b" }, &format!("{n:065535}\n"), at(n));
        }
        let kept = logs.read("u", "a", &all()).len() + logs.read("u", "b", &all()).len();
        assert!((POD_BYTES_MAX - 200_000..=POD_BYTES_MAX).contains(&kept), "{kept}");
        assert!(logs.read("u", "b", &all()).ends_with("59\n"));
        logs.forget("u");
        assert_eq!(logs.read("u", "a", &all()), "");
    }

    #[test]
    fn the_pods_that_were_silent_longest_give_way() {
        let logs = Logs::default();
        for n in 0..70 {
            logs.append(&format!("u{n}"), "", &"x".repeat(POD_BYTES_MAX - 100), at(n));
        }
        assert_eq!(logs.read("u0", "", &all()), "");
        assert_ne!(logs.read("u69", "", &all()), "");
        let kept: usize = logs.kept().values().map(Lines::bytes).sum();
        assert!((ALL_BYTES_MAX - 2 * POD_BYTES_MAX..=ALL_BYTES_MAX).contains(&kept), "{kept}");
    }
}
