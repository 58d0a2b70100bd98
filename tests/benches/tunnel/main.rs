//! What the tunnel costs: the same work with and without it, in one run, in pairs that run back to back.
//!
//! Figures for people, never a test. `scripts/bench` builds what it needs and runs it.

mod figures;
mod gateway;

use std::env;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Pairs for each line of a table.
    pairs: usize,
    /// Seconds for each half of a pair that is measured by time.
    seconds: u64,
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let effort = Effort { pairs: number(&arguments, "--pairs", 7), seconds: number(&arguments, "--seconds", 2) as u64 };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(gateway::measure(effort));
}

/// The number behind `flag`, or `default`.
fn number(arguments: &[String], flag: &str, default: usize) -> usize {
    let Some(at) = arguments.iter().position(|argument| argument == flag) else { return default };
    let value = arguments.get(at + 1).and_then(|text| text.parse().ok()).filter(|&number| number > 0);
    value.unwrap_or_else(|| panic!("{flag} wants a number above 0"))
}
