//! Durations as people type them (`90s`, `1h30m`, `7d`) and as they read them.
//!
//! Pure.

use std::time::Duration;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Parses whole numbers with the units `d`, `h`, `m` and `s`, largest first.
///
/// # Errors
/// A sentence that says how durations are written.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is not a duration: write 90s, 15m, 1h, 7d or 1h30m");
    let mut seconds: u64 = 0;
    let mut units = UNITS.iter();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).ok_or_else(refuse)?;
        let count: u64 = rest[..digits].parse().map_err(|_| refuse())?;
        let unit = rest[digits..].chars().next().ok_or_else(refuse)?;
        let (_, length) = units.find(|(name, _)| *name == unit).ok_or_else(refuse)?;
        seconds = count.checked_mul(*length).and_then(|more| seconds.checked_add(more)).ok_or_else(refuse)?;
        rest = &rest[digits + unit.len_utf8()..];
    }
    if text.trim().is_empty() || seconds == 0 {
        return Err(refuse());
    }
    Ok(Duration::from_secs(seconds))
}

/// The largest two units: `1h30m`, `7d`, `45s`; `7d` and not `7d2m`.
#[must_use]
pub fn text(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let mut parts = String::new();
    let mut units = 0;
    for (name, length) in UNITS {
        let count = seconds / length;
        seconds %= length;
        if count > 0 {
            parts += &format!("{count}{name}");
        }
        units += usize::from(count > 0 || units > 0);
        if units == 2 {
            break;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts }
}

/// How long ago the RFC 3339 time `since` was; `-` when it is no time.
#[must_use]
pub fn age(since: &str, now: OffsetDateTime) -> String {
    let Ok(since) = OffsetDateTime::parse(since, &Rfc3339) else { return "-".to_owned() };
    text(Duration::try_from(now - since).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("1h", 3_600), ("7d", 604_800), (" 1h30m ", 5_400)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in
            ["", " ", "1", "h", "1x", "-1h", "1.5h", "1h 30m", "30m1h", "1h1h", "0s", "99999999999999999999d", "1ä"]
        {
            assert!(parse(bad).unwrap_err().contains("is not a duration"), "{bad}");
        }
        assert!(parse(&format!("{}d", u64::MAX)).is_err());
    }

    #[test]
    fn ages_show_two_units() {
        let now = OffsetDateTime::parse("2026-11-21T12:00:00Z", &Rfc3339).unwrap();
        for (since, want) in [
            ("2026-11-21T11:59:15Z", "45s"),
            ("2026-11-21T11:00:00Z", "1h"),
            ("2026-11-21T10:29:59Z", "1h30m"),
            ("2026-11-14T11:58:00Z", "7d"),
            ("2026-11-14T09:58:00Z", "7d2h"),
            ("2026-11-21T12:00:30Z", "0s"),
            ("yesterday", "-"),
            ("", "-"),
        ] {
            assert_eq!(age(since, now), want, "{since}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[0-9]{0,22}\\PC{0,3}[0-9]{0,3}[dhms]?") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_shown_can_be_typed(hours in 0_u64..20, minutes in 1_u64..60) {
            let duration = Duration::from_secs(hours * 3_600 + minutes * 60);
            prop_assert_eq!(parse(&text(duration)), Ok(duration));
        }
    }
}
