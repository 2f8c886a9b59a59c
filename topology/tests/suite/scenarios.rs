//! Every `tests/scenarios/NAME.txt` prints what stands in `tests/expected/NAME.txt`. `UPDATE=1` writes what it prints.

#![allow(clippy::disallowed_methods, reason = "scenarios are files")]

use std::{collections::BTreeSet, ffi::OsString, fs, path::Path};

use spanwire_topology::scenario::{World, run};

use crate::walk;

#[test]
fn scenarios_print_what_is_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let update = std::env::var_os("UPDATE").is_some();
    let names = names(&folder.join("scenarios"));
    assert!(names.len() >= 20, "only {} scenarios", names.len());
    let mut wrong = Vec::new();
    for name in &names {
        let script = fs::read_to_string(folder.join("scenarios").join(name)).unwrap();
        let (printed, _) = run(&script, more).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        let path = folder.join("expected").join(name);
        if update {
            fs::write(&path, &printed).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != printed {
            wrong.push(format!("{name:?} prints\n{printed}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nif this is right: UPDATE=1 cargo test",
        wrong.join("\n")
    );
    assert_eq!(names, self::names(&folder.join("expected")));
}

/// `walk`: every ordered pair of addresses, see `walk.rs`.
fn more(world: &World, words: &[&str]) -> Option<String> {
    (words == ["walk"]).then(|| walk::report(&world.mesh))
}

fn names(folder: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}
