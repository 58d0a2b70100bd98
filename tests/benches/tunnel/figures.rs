//! Medians, percentiles, and how numbers look in a table.

use std::time::Duration;

/// The middle of `values`; of an even number, the upper one.
///
/// # Panics
/// When there are none.
#[must_use]
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The value below which `percent` of the sorted `latencies` lie, in microseconds.
///
/// # Panics
/// When there are none.
#[must_use]
pub(crate) fn percentile(latencies: &[Duration], percent: usize) -> f64 {
    let at = (latencies.len() * percent / 100).min(latencies.len() - 1);
    latencies[at].as_secs_f64() * 1e6
}

/// Three significant digits or so: `12345` as `12,345`, `3.14159` as `3.14`.
#[must_use]
pub(crate) fn short(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
