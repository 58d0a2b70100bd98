//! `-f` arguments → the texts of files: files, directories, standard input.
//!
//! Reads the disk; what the texts mean is for `manifest`.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{documents::FILE_BYTES_MAX, manifest, manifest::Manifest};

/// The most files that one command reads.
const FILES_MAX: usize = 10_000;
/// How deep `-R` descends.
const DEPTH_MAX: usize = 32;
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Where manifests come from.
#[derive(Debug, Clone, Args)]
pub struct FileArgs {
    /// File or directory of manifests (.yaml, .yml, .json), or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub filenames: Vec<PathBuf>,
    /// Descend into subdirectories; hidden files and linked directories are left out
    #[arg(short = 'R', long, requires = "filenames")]
    pub recursive: bool,
}

/// Reads all manifests, in the order of the arguments and, within a directory, of the names.
///
/// # Errors
/// Everything that is wrong with any of them, one message each.
pub(crate) fn load(args: &FileArgs, stdin: &mut dyn Read) -> Result<Vec<Manifest>, Vec<String>> {
    let (mut manifests, mut problems) = (Vec::new(), Vec::new());
    let mut take = |name: &str, text: Result<String, String>| match text {
        Ok(text) => {
            let (found, wrong) = manifest::read(name, &text);
            if found.is_empty() && wrong.is_empty() {
                problems.push(format!("{name}: no manifest in it: the file is empty or all comments"));
            }
            manifests.extend(found);
            problems.extend(wrong.iter().map(ToString::to_string));
        }
        Err(problem) => problems.push(problem),
    };
    let mut has_read_stdin = false;
    for path in &args.filenames {
        if path.as_os_str() == "-" {
            if !has_read_stdin {
                take("stdin", read_text("stdin", stdin));
            }
            has_read_stdin = true;
            continue;
        }
        match list(path, args.recursive) {
            Ok(files) => files.iter().for_each(|file| take(&file.display().to_string(), read_file(file))),
            Err(problem) => take("", Err(problem)),
        }
    }
    if problems.is_empty() { Ok(manifests) } else { Err(problems) }
}

fn list(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, String> {
    let text = path.to_string_lossy();
    if text.starts_with("http://") || text.starts_with("https://") {
        return Err(format!(
            "{text}: manifests are not fetched from the web: download it, look at it, then apply the file"
        ));
    }
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    let has_folders = walk(path, recursive, 0, &mut files)?;
    if files.is_empty() {
        let hint = if has_folders && !recursive { " (it has subdirectories: try -R)" } else { "" };
        return Err(format!("{}: no .yaml, .yml or .json files in this directory{hint}", path.display()));
    }
    Ok(files)
}

/// Collects the manifests of `folder`, sorted by name; true when it has subdirectories. Hidden files are left out, and
/// links to directories are not followed.
fn walk(folder: &Path, recursive: bool, depth: usize, files: &mut Vec<PathBuf>) -> Result<bool, String> {
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(folder, &error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut has_folders = false;
    for entry in entries.iter().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            has_folders = true;
            if recursive && depth < DEPTH_MAX {
                walk(&path, recursive, depth + 1, files)?;
            }
        } else if path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
            && !path.is_dir()
        {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(format!("{}: more than {FILES_MAX} files", folder.display()));
        }
    }
    Ok(has_folders)
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut file = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    read_text(&path.display().to_string(), &mut file)
}

fn read_text(name: &str, from: &mut dyn Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    from.take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("{name}: cannot be read: {error}"))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("{name}: longer than {} MiB: split it", FILE_BYTES_MAX >> 20));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        format!("{name}: line {line}: not UTF-8 text")
    })
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    let path = path.display();
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("{path}: no such file or directory"),
        std::io::ErrorKind::PermissionDenied => format!("{path}: you may not read it (permission denied)"),
        _ => format!("{path}: cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> String {
        format!("apiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\nmetadata: {{name: {name}}}\n")
    }

    fn load_with(filenames: &[&Path], recursive: bool, stdin: &str) -> Result<Vec<String>, Vec<String>> {
        let args = FileArgs { filenames: filenames.iter().map(|path| path.to_path_buf()).collect(), recursive };
        load(&args, &mut stdin.as_bytes())
            .map(|manifests| manifests.into_iter().map(|manifest| manifest.name).collect())
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        fs::create_dir_all(folder.path().join("more")).unwrap();
        write("b.yaml", &node("b"));
        write("a.yml", &node("a"));
        write("c.json", r#"{"apiVersion":"core.apoxy.dev/v1alpha","kind":"TunnelNode","metadata":{"name":"c"}}"#);
        write("notes.txt", "not a manifest");
        write(".hidden.yaml", "not: [a manifest");
        write("more/d.yaml", &node("d"));
        folder
    }

    #[test]
    fn directories_are_read_in_the_order_of_names() {
        let folder = folder();
        assert_eq!(load_with(&[folder.path()], false, ""), Ok(vec!["a".into(), "b".into(), "c".into()]));
        let all = load_with(&[folder.path(), Path::new("-")], true, &node("e")).unwrap();
        assert_eq!(all, ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn every_problem_of_every_file_is_reported() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("empty")).unwrap();
        fs::create_dir_all(path("outer/inner")).unwrap();
        fs::write(path("latin.yaml"), b"a: 1\nb: \xe9\n").unwrap();
        fs::write(path("long.yaml"), vec![b'#'; FILE_BYTES_MAX + 1]).unwrap();
        let names = ["missing.yaml", "empty", "outer", "latin.yaml", "long.yaml", "b.yaml"].map(path);
        let paths: Vec<&Path> = names.iter().map(PathBuf::as_path).collect();
        let problems = load_with(&paths, false, "").unwrap_err();
        let wanted = [
            "missing.yaml: no such file or directory",
            "empty: no .yaml, .yml or .json files in this directory",
            "outer: no .yaml, .yml or .json files in this directory (it has subdirectories: try -R)",
            "latin.yaml: line 2: not UTF-8 text",
            "long.yaml: longer than 3 MiB: split it",
        ];
        assert_eq!(problems.len(), wanted.len(), "{problems:?}");
        for (problem, want) in problems.iter().zip(wanted) {
            assert!(problem.ends_with(want), "{problem}");
        }
    }

    #[test]
    fn empty_input_and_web_addresses_are_refused() {
        assert_eq!(
            load_with(&[Path::new("-")], false, "# nothing\n"),
            Err(vec!["stdin: no manifest in it: the file is empty or all comments".into()])
        );
        assert!(load_with(&[Path::new("https://x.example/y.yaml")], false, "").unwrap_err()[0].contains("download it"));
    }
}
