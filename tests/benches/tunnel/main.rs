//! What the tunnel costs: the same work with and without it, in one run, in pairs that run back to back.
//!
//! Figures for people, never a test. `scripts/bench` builds what it needs and runs it. The program also plays the two
//! ends of `lane`, as processes of their own.

mod figures;
mod gateway;
mod lane;

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
    if let [role, rest @ ..] = arguments.as_slice()
        && role.starts_with("role-")
    {
        return lane::play(role, rest);
    }
    let effort = Effort { pairs: number(&arguments, "--pairs", 7), seconds: number(&arguments, "--seconds", 2) as u64 };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let only = arguments.iter().position(|argument| argument == "--only").map(|at| arguments.get(at + 1));
    let only = only.map(|part| part.map_or("", String::as_str));
    assert!([None, Some("gateway"), Some("lane")].contains(&only), "--only wants `gateway` or `lane`");
    if only != Some("lane") {
        runtime.block_on(gateway::measure(effort));
    }
    if only != Some("gateway") {
        runtime.block_on(lane::measure(effort));
    }
}

/// The number behind `flag`, or `default`.
fn number(arguments: &[String], flag: &str, default: usize) -> usize {
    let Some(at) = arguments.iter().position(|argument| argument == flag) else { return default };
    let value = arguments.get(at + 1).and_then(|text| text.parse().ok()).filter(|&number| number > 0);
    value.unwrap_or_else(|| panic!("{flag} wants a number above 0"))
}
