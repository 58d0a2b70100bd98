//! `underpass-relay`: parse the command line, build the relay, run it, turn the outcome into an exit code.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    thread,
};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use underpass_relay::{
    app, backup,
    config::{Command, Written, default_data_dir},
};
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
    match &written.command {
        Some(Command::Backup(wanted)) => return backup::back_up(wanted, &data_dir(wanted.data_dir.as_ref())),
        Some(Command::Restore(wanted)) => return backup::restore(wanted, &data_dir(wanted.data_dir.as_ref())),
        None => {}
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    app::run(written.resolve(cores, state_home())?)
}

fn data_dir(written: Option<&PathBuf>) -> PathBuf {
    written.cloned().unwrap_or_else(|| default_data_dir(state_home()))
}
