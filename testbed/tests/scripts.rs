//! The scripts of this project start no program that `scripts/programs` does not list: `scripts/check programs`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use spanwire_testbed::programs::{self, script};

/// Where scripts lie, beside the tests' own.
const FOLDERS: [&str; 10] = [
    ".ci",
    "scripts",
    "images",
    "e2e/conformance",
    "e2e/tools",
    "e2e/uml",
    "e2e/src/node",
    "tunnel/benches",
    "tunnel/fuzz",
    "charts",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The shell scripts of the tree, each with its text.
fn scripts() -> Vec<(PathBuf, String)> {
    FOLDERS
        .iter()
        .flat_map(|folder| fs::read_dir(root().join(folder)).expect(folder))
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.is_file())
        .filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)))
        .filter(|(path, text)| {
            let shell = text
                .lines()
                .next()
                .is_some_and(|line| line.starts_with("#!") && line.ends_with("sh"));
            shell || path.extension().is_some_and(|end| end == "sh")
        })
        .collect()
}

#[test]
fn scripts_start_listed_programs_alone() {
    let scripts: Vec<_> = scripts()
        .into_iter()
        .map(|(path, text)| (path, script::read(&text)))
        .collect();
    // One script reads another, so they share their functions.
    let functions: BTreeSet<_> = scripts.iter().flat_map(|(_, script)| &script.functions).collect();
    let mut unlisted = Vec::new();
    for (path, script) in &scripts {
        let foreign = script
            .commands
            .iter()
            .filter(|(_, name)| !functions.contains(name));
        for (line, name) in foreign {
            if let Err(error) = programs::check(name) {
                unlisted.push(format!("{}:{line}: {error}", path.display()));
            }
        }
    }
    assert!(unlisted.is_empty(), "\n{}", unlisted.join("\n"));
}

#[test]
fn every_script_is_read_and_its_commands_are_seen() {
    let names: Vec<_> = scripts()
        .into_iter()
        .map(|(path, text)| {
            let commands = script::read(&text).commands.len();
            let name = path
                .file_name()
                .expect("it is a file")
                .to_string_lossy()
                .into_owned();
            assert!(commands > 0 || name == "run", "{name} seems to start nothing");
            name
        })
        .collect();
    for expected in ["setup", "check", "tests", "demo", "build", "run", "init.sh"] {
        assert!(names.iter().any(|name| name == expected), "{expected}: {names:?}");
    }
}
