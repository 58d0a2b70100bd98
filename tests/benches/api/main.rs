//! What the API costs: writes, lists, restarts and watches of a relay that keeps its objects itself, beside the same
//! load on etcd alone, in one run.
//!
//! Figures for people, never a test. `scripts/bench api` builds what it needs and runs it. The clients run in this
//! process in both cases. The relay is reached over TLS with a certificate and checks, defaults and books each object;
//! etcd is reached in the clear and stores bytes.

mod etcd;
#[path = "../tunnel/figures.rs"]
mod figures;
mod objects;
mod relay;
mod side;
mod watches;
mod writes;

use std::env;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Pairs for each line of the table of writes.
    pairs: usize,
    /// Seconds for each half of such a pair.
    seconds: usize,
    /// Objects stored before they are listed.
    objects: usize,
    /// Watches open at once.
    watchers: usize,
}

const PARTS: [&str; 3] = ["writes", "objects", "watches"];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let effort = Effort {
        pairs: number(&arguments, "--pairs", 3),
        seconds: number(&arguments, "--seconds", 2),
        objects: number(&arguments, "--objects", 100_000),
        watchers: number(&arguments, "--watchers", 1000),
    };
    let only = arguments.iter().position(|argument| argument == "--only").map(|at| arguments.get(at + 1));
    let only = only.map(|part| part.map_or("", String::as_str));
    assert!(only.is_none_or(|part| PARTS.contains(&part)), "--only wants one of {PARTS:?}");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let wanted = |part: &str| only.is_none_or(|only| only == part);
        if wanted("writes") {
            writes::measure(effort).await;
        }
        if wanted("objects") {
            objects::measure(effort).await;
        }
        if wanted("watches") {
            watches::measure(effort).await;
        }
    });
    println!("\nRequests that the relay answered 429, sent again: {}", relay::refused());
}

/// The number behind `flag`, or `default`.
fn number(arguments: &[String], flag: &str, default: usize) -> usize {
    let Some(at) = arguments.iter().position(|argument| argument == flag) else { return default };
    let value = arguments.get(at + 1).and_then(|text| text.parse().ok()).filter(|&number| number > 0);
    value.unwrap_or_else(|| panic!("{flag} wants a number above 0"))
}
