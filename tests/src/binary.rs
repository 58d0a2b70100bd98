//! Where the programs under test are: beside the running test, in the folder of the same profile.

use std::{env, path::PathBuf};

/// The path of the program `name` in the profile's folder that this test runs from.
///
/// # Panics
/// When it is not built, naming the command that builds it.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    let own = env::current_exe().expect("a running program has a path");
    let folder = own
        .ancestors()
        .find(|folder| folder.join(name).is_file() || folder.file_name().is_some_and(|last| last == "deps"))
        .map(|folder| if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder })
        .expect("cargo puts test programs in a folder `deps`");
    let program = folder.join(name);
    let profile = if folder.ends_with("release") { " --release" } else { "" };
    assert!(
        program.is_file(),
        "{name} is not built: run `cargo build{profile} -p underpass-relay -p underpass-agent --bins` first \
         (looked for {})",
        program.display()
    );
    program
}
