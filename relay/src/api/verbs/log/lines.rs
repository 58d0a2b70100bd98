//! One container's lines, and which of them a reader wants. Pure.

use std::collections::VecDeque;

use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::api::status::Failure;

/// What a line weighs beside its text.
const LINE_BYTES: usize = 48;

/// Lines, oldest first, each with when it was written.
#[derive(Debug)]
pub(super) struct Lines {
    lines: VecDeque<(OffsetDateTime, String)>,
    bytes: usize,
    /// How many bytes were ever written: the place where the next will stand.
    end: u64,
    written: OffsetDateTime,
    /// Whether the last line was not ended yet.
    open: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { lines: VecDeque::new(), bytes: 0, end: 0, written: OffsetDateTime::UNIX_EPOCH, open: false }
    }
}

impl Lines {
    /// What they weigh together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the last was written.
    pub(super) fn written(&self) -> OffsetDateTime {
        self.written
    }

    /// Appends `text`, which may begin or end within a line, and drops the oldest lines beyond `room` bytes.
    pub(super) fn append(&mut self, text: &str, now: OffsetDateTime, room: usize) {
        self.written = now;
        for piece in text.split_inclusive('\n') {
            let ended = piece.ends_with('\n');
            match self.lines.back_mut().filter(|_| self.open) {
                Some((_, line)) => line.push_str(piece),
                None => {
                    self.bytes += LINE_BYTES;
                    self.lines.push_back((now, piece.to_owned()));
                }
            }
            self.bytes += piece.len();
            self.end += piece.len() as u64;
            self.open = !ended;
            self.shrink(room);
        }
    }

    fn shrink(&mut self, room: usize) {
        while self.bytes > room {
            let Some((_, line)) = self.lines.pop_front() else { break };
            self.bytes -= line.len() + LINE_BYTES;
        }
        self.open = self.open && !self.lines.is_empty();
    }

    /// The text that `window` shows.
    pub(super) fn read(&self, window: &Window) -> String {
        let from = self.lines.partition_point(|(written, _)| window.since.is_some_and(|since| *written < since));
        let first = window.tail.map_or(from, |tail| from.max(self.lines.len().saturating_sub(tail)));
        let limit = window.limit.unwrap_or(usize::MAX);
        let mut text = String::new();
        for (written, line) in self.lines.range(first..) {
            window.push(&mut text, *written, line);
            if text.len() >= limit {
                break;
            }
        }
        cut(text, limit)
    }

    /// Where the text ends: the place after all that was ever written.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// What was written after `place`, as far as it is kept, in the form of `window`.
    pub(super) fn read_after(&self, place: u64, window: &Window) -> String {
        let mut text = String::new();
        let mut end = self.end;
        let mut first = self.lines.len();
        while end > place && first > 0 {
            first -= 1;
            end -= self.lines[first].1.len() as u64;
        }
        for (written, line) in self.lines.range(first..) {
            match usize::try_from(place.saturating_sub(end)) {
                // The beginning of the line was told before.
                Ok(told) if told > 0 => text.push_str(line.get(told..).unwrap_or_default()),
                _ => window.push(&mut text, *written, line),
            }
            end += line.len() as u64;
        }
        text
    }
}

/// Which lines are read, and how they are shown (`v1.PodLogOptions`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Window {
    since: Option<OffsetDateTime>,
    tail: Option<usize>,
    /// In bytes.
    limit: Option<usize>,
    timestamps: bool,
}

impl Window {
    /// From query parameters.
    ///
    /// # Errors
    /// 400 for a parameter that is not what it should be.
    pub(super) fn parse<'a>(asked: impl Fn(&str) -> Option<&'a str>, now: OffsetDateTime) -> Result<Self, Failure> {
        let time = |text: &str| {
            let parsed = OffsetDateTime::parse(text, &Rfc3339);
            parsed.map_err(|_| wrong("sinceTime", "a time as in 2026-01-31T12:00:00Z"))
        };
        let seconds = number("sinceSeconds", asked("sinceSeconds"), 1)?;
        let since = match (asked("sinceTime"), seconds) {
            (Some(_), Some(_)) => {
                return Err(Failure::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified"));
            }
            (text, None) => text.map(time).transpose()?,
            (None, Some(seconds)) => now.checked_sub(Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX))),
        };
        Ok(Self {
            since,
            tail: number("tailLines", asked("tailLines"), 0)?,
            limit: number("limitBytes", asked("limitBytes"), 1)?,
            timestamps: flag("timestamps", asked("timestamps"))?,
        })
    }

    /// The most bytes that are shown.
    pub(super) fn limit(&self) -> Option<usize> {
        self.limit
    }

    fn push(&self, text: &mut String, written: OffsetDateTime, line: &str) {
        if self.timestamps {
            text.push_str(&written.format(&Rfc3339).expect("the years 0 to 9999 have an RFC 3339 form"));
            text.push(' ');
        }
        text.push_str(line);
    }
}

/// The beginning of `text` that has at most `limit` bytes and ends with a whole character.
pub(super) fn cut(mut text: String, limit: usize) -> String {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn number(name: &str, text: Option<&str>, least: usize) -> Result<Option<usize>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let number = text.parse().ok().filter(|number| *number >= least);
    number.map(Some).ok_or_else(|| wrong(name, &format!("a whole number of at least {least}")))
}

/// # Errors
/// 400 when it is neither true nor false.
pub(super) fn flag(name: &str, text: Option<&str>) -> Result<bool, Failure> {
    match text {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(_) => Err(wrong(name, "true or false")),
    }
}

fn wrong(name: &str, want: &str) -> Failure {
    Failure::bad_request(format!("the query parameter `{name}` must be {want}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }

    fn read(lines: &Lines, asked: &[(&str, &str)]) -> Result<String, String> {
        let value = |name: &str| asked.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        Window::parse(value, at(100)).map(|window| lines.read(&window)).map_err(|failure| failure.message)
    }

    #[test]
    fn a_reader_gets_the_lines_it_asks_for() {
        let mut lines = Lines::default();
        lines.append("one\ntw", at(10), usize::MAX);
        lines.append("o\nthree\n", at(20), usize::MAX);
        lines.append("four", at(90), usize::MAX);
        for (asked, want) in [
            (vec![], "one\ntwo\nthree\nfour"),
            (vec![("tailLines", "2")], "three\nfour"),
            (vec![("tailLines", "0")], ""),
            (vec![("limitBytes", "5")], "one\nt"),
            (vec![("sinceSeconds", "80")], "three\nfour"),
            (vec![("sinceTime", "1970-01-01T00:01:00Z")], "four"),
            (vec![("sinceSeconds", "80"), ("tailLines", "1")], "four"),
            (vec![("timestamps", "true"), ("tailLines", "1")], "1970-01-01T00:01:30Z four"),
        ] {
            assert_eq!(read(&lines, &asked), Ok(want.to_owned()), "{asked:?}");
        }
        for asked in [("tailLines", "-1"), ("limitBytes", "0"), ("sinceTime", "today"), ("timestamps", "maybe")] {
            assert!(read(&lines, &[asked]).unwrap_err().contains(asked.0));
        }
        assert!(read(&lines, &[("sinceSeconds", "1"), ("sinceTime", "1970-01-01T00:00:00Z")]).is_err());
        assert_eq!(read(&lines, &[("sinceSeconds", "99999999999999999")]).unwrap(), "one\ntwo\nthree\nfour");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_as_far_as_there_is_room(
            pieces in proptest::collection::vec("[a\\n]{0,8}|\u{1f980}", 0..12),
            room in 0..600_usize,
            limit in 1..40_usize,
        ) {
            let mut lines = Lines::default();
            for piece in &pieces {
                lines.append(piece, at(1), room);
            }
            let kept = lines.read(&Window::default());
            let all = pieces.concat();
            for told in (0..=all.len()).filter(|told| all.is_char_boundary(*told)) {
                let rest = lines.read_after(told as u64, &Window::default());
                let want = all.len().min(kept.len()).min(all.len() - told);
                prop_assert_eq!(&rest, &all[all.len() - want..]);
            }
            prop_assert!(pieces.concat().ends_with(&kept));
            prop_assert!(lines.bytes() <= room && kept.len() <= lines.bytes());
            let short = lines.read(&Window { limit: Some(limit), ..Window::default() });
            prop_assert!(short.len() <= limit && kept.starts_with(&short));
        }
    }
}
