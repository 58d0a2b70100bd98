//! The answers that are kept. No clock: the time comes with each question.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Unresolved;
use crate::route::lookup::Lookup;

/// The addresses of a name, or why there are none.
pub(super) type Answer = Result<Arc<[IpAddr]>, Unresolved>;

/// The answers for the names in Backends; then the one goes that was asked for longest ago.
const BACKENDS_MAX: usize = 4_096;

/// The Backends whose requests name their hosts, and which have answers; then the one goes that was asked for longest ago.
const LOOKUPS_MAX: usize = 64;

/// All answers: those for the names in Backends, which all share, and those of each Backend whose requests name hosts.
#[derive(Debug)]
pub(super) struct Kept {
    of_backends: Answers,
    of_requests: HashMap<Arc<Lookup>, Answers>,
}

#[derive(Debug)]
struct Answers {
    most: usize,
    unused: Duration,
    known: HashMap<Box<str>, Known>,
    used: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    answer: Answer,
    until: Instant,
    used: Instant,
}

impl Default for Kept {
    fn default() -> Self {
        Self { of_backends: Answers::new(BACKENDS_MAX, Duration::MAX), of_requests: HashMap::new() }
    }
}

impl Kept {
    pub(super) fn get(&mut self, lookup: Option<&Arc<Lookup>>, name: &str, now: Instant) -> Option<Answer> {
        match lookup {
            None => self.of_backends.get(name, now),
            Some(lookup) => self.of_requests.get_mut(lookup)?.get(name, now),
        }
    }

    pub(super) fn put(
        &mut self,
        lookup: Option<&Arc<Lookup>>,
        name: &str,
        answer: &Answer,
        (now, until): (Instant, Instant),
    ) {
        let answers = match lookup {
            None => &mut self.of_backends,
            Some(lookup) => {
                let all = &mut self.of_requests;
                if all.len() >= LOOKUPS_MAX && !all.contains_key(lookup) {
                    let oldest = all.iter().min_by_key(|(_, answers)| answers.used).map(|(lookup, _)| lookup.clone());
                    oldest.and_then(|oldest| all.remove(&oldest));
                }
                all.entry(lookup.clone()).or_insert_with(|| Answers::new(lookup.most, lookup.unused))
            }
        };
        answers.put(name, answer, (now, until));
    }
}

impl Answers {
    fn new(most: usize, unused: Duration) -> Self {
        Self { most, unused, known: HashMap::new(), used: None }
    }

    fn get(&mut self, name: &str, now: Instant) -> Option<Answer> {
        self.used = Some(now);
        let known = self.known.get_mut(name)?;
        let counts = now < known.until && now.saturating_duration_since(known.used) < self.unused;
        known.used = now;
        counts.then(|| known.answer.clone())
    }

    fn put(&mut self, name: &str, answer: &Answer, (now, until): (Instant, Instant)) {
        self.used = Some(now);
        if self.known.len() >= self.most && !self.known.contains_key(name) {
            let unused = self.unused;
            self.known.retain(|_, known| now < known.until && now.saturating_duration_since(known.used) < unused);
        }
        if self.known.len() >= self.most && !self.known.contains_key(name) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.used).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| self.known.remove(&oldest));
        }
        self.known.insert(name.into(), Known { answer: answer.clone(), until, used: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, route::lookup::Family};

    fn lookup(backend: &str, most: usize) -> Arc<Lookup> {
        let secs = Duration::from_secs;
        let (unsaid, least, unused, timeout) = (secs(60), secs(5), secs(300), secs(5));
        let (project, family) = (underpass_shared::identity::ProjectName::default(), Family::Both);
        Arc::new(Lookup { project, backend: backend.into(), family, unsaid, least, unused, most, timeout })
    }

    #[test]
    fn an_answer_counts_until_it_ends_and_no_longer_than_it_is_used() {
        let (start, lookup) = (clock::instant(), lookup("default/a", 9));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut kept = Kept::default();
        kept.put(Some(&lookup), "a.example", &Err(Unresolved::Absent), (at(0), at(1000)));
        let known = |kept: &mut Kept, seconds| kept.get(Some(&lookup), "a.example", at(seconds)).is_some();
        assert!(known(&mut kept, 0) && known(&mut kept, 299) && known(&mut kept, 598));
        assert!(!known(&mut kept, 898), "nobody asked for five minutes");
        kept.put(Some(&lookup), "a.example", &Err(Unresolved::Absent), (at(900), at(910)));
        assert!(known(&mut kept, 909) && !known(&mut kept, 910));
        assert!(kept.get(None, "a.example", at(905)).is_none(), "another's answers");
    }

    #[test]
    fn there_are_never_more_answers_than_may_be_and_the_oldest_go() {
        let (start, lookup) = (clock::instant(), lookup("default/a", 3));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut kept = Kept::default();
        for index in 0..5 {
            kept.put(Some(&lookup), &format!("{index}.example"), &Err(Unresolved::Absent), (at(index), at(1000)));
            kept.get(Some(&lookup), "0.example", at(index));
        }
        let left: Vec<u64> =
            (0..5).filter(|i| kept.get(Some(&lookup), &format!("{i}.example"), at(9)).is_some()).collect();
        assert_eq!(left, [0, 3, 4]);
        for index in 0..BACKENDS_MAX + 9 {
            kept.put(None, &index.to_string(), &Err(Unresolved::Absent), (at(0), at(9)));
        }
        assert_eq!(kept.of_backends.known.len(), BACKENDS_MAX);
        for index in 0..LOOKUPS_MAX as u64 + 9 {
            let lookup = self::lookup(&index.to_string(), 3);
            kept.put(Some(&lookup), "a.example", &Err(Unresolved::Absent), (at(10 + index), at(1000)));
        }
        assert_eq!(kept.of_requests.len(), LOOKUPS_MAX);
        assert!(kept.get(Some(&lookup), "0.example", at(99)).is_none(), "the Backend that was asked for longest ago");
    }
}
