//! `underpass-relay`: parse the command line, build the relay, run it, turn the outcome into an exit code.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    thread,
};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use underpass_relay::{app, config::Written};
use underpass_shared::host::state_home;

fn main() -> ExitCode {
    let written = Written::parse();
    match run(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(written: Written) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&written.log)?;
    let ansi = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(io::stderr).init();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    app::run(written.resolve(cores, state_home())?)
}
