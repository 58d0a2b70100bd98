//! `underpass`: parse the command line, run the command, turn its outcome into an exit code.
//!
//! Exit codes: 0 success, 1 failure, 2 a command line that makes no sense (clap's). `diff` has its own: 1 for differences,
//! 2 for failure.

use std::process::ExitCode;

use clap::Parser as _;
use underpass_agent::cli::{self, Cli, Outcome};

fn main() -> ExitCode {
    cli::completion::answer();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli::run(cli)) {
        Outcome::Done => ExitCode::SUCCESS,
        Outcome::Failed => ExitCode::FAILURE,
        Outcome::Exit(code) => ExitCode::from(code),
    }
}
