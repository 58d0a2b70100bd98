//! Load from programs that we did not write, and what they say of it.

use std::{pin::pin, time::Duration};

use tokio::{process::Command, time::interval};

use crate::{Port, http3, peers::Peer};

/// One thing to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) load: Load,
    pub(crate) port: Port,
    pub(crate) path: &'static str,
}

/// Who makes the load; each uses one thread.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    Wrk {
        connections: usize,
    },
    /// 8 connections with 16 requests at once.
    H2load,
    /// As many, from this very thread.
    Http3,
}

/// How often a proxy's memory is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What one run came to. Times in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Of the proxy's processes, for each request.
    pub(crate) cpu: f64,
    /// The most bytes of memory that the proxy's processes had meanwhile.
    pub(crate) memory: u64,
}

/// # Panics
/// When a request failed: figures with failures mean nothing.
pub(crate) async fn run(work: &Work, side: &Peer, seconds: u64) -> Figures {
    let before = side.cpu();
    let (mut look, mut memory) = (interval(LOOK), 0);
    let mut measured = pin!(measure(work, side, seconds));
    let [rate, p50, p99] = loop {
        tokio::select! {
            measured = measured.as_mut() => break measured,
            _ = look.tick() => memory = side.memory().max(memory),
        }
    };
    let spent = side.cpu() - before;
    Figures { rate, p50, p99, cpu: spent * 1e6 / (rate * seconds as f64), memory }
}

/// Finds requests a second, p50 and p99 in what a program printed.
type Read = fn(&str) -> Option<[f64; 3]>;

/// Requests a second, p50 and p99.
async fn measure(work: &Work, side: &Peer, seconds: u64) -> [f64; 3] {
    let url = side.url(work.port, work.path);
    let (mut command, read): (_, Read) = match work.load {
        Load::Wrk { connections } => {
            let mut command = Command::new("wrk");
            command.args(["-t1", "--latency", &format!("-c{connections}"), &format!("-d{seconds}s"), &url]);
            (command, read_wrk)
        }
        Load::H2load => {
            let mut command = Command::new("h2load");
            command.args(["-t1", "-c8", "-m16", "-D", &seconds.to_string(), &url]);
            (command, read_h2load)
        }
        Load::Http3 => return http3::load(side.tls, work.path, seconds).await,
    };
    let output = command.output().await.unwrap_or_else(|error| panic!("{:?}: {error}", work.load));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    read(&text).unwrap_or_else(|| panic!("{}: {:?} of {url} said:\n{text}", side.name, work.load))
}

/// `Requests/sec:  123.4`, `50%  1.2ms`; lines that tell of errors spoil it.
fn read_wrk(text: &str) -> Option<[f64; 3]> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return None;
    }
    let after = |label: &str| {
        let line = text.lines().map(str::trim).find_map(|line| line.strip_prefix(label))?;
        Some(line.trim().to_owned())
    };
    Some([after("Requests/sec:")?.parse().ok()?, microseconds(&after("50%")?)?, microseconds(&after("99%")?)?])
}

/// `finished in 3.00s, 123.4 req/s, ..`; of times it tells the mean and the most, so these stand for p50 and p99.
fn read_h2load(text: &str) -> Option<[f64; 3]> {
    let finished = text.lines().find(|line| line.starts_with("finished in"))?;
    let rate = finished.split(", ").find_map(|part| part.strip_suffix(" req/s"))?;
    let requests = text.lines().find(|line| line.starts_with("requests:"))?;
    if !requests.contains(" 0 failed, 0 errored") {
        return None;
    }
    let times = text.lines().find(|line| line.starts_with("time for request:"))?;
    let times: Vec<&str> = times.split_whitespace().skip(3).collect();
    let (most, mean) = (times.get(1)?, times.get(2)?);
    Some([rate.parse().ok()?, microseconds(mean)?, microseconds(most)?])
}

/// `12.3us`, `1.2ms`, `1.2s`.
fn microseconds(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, unit) = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * unit)
}
