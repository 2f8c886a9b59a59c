//! What each kind of node should look like, as committed text. `UPDATE=1` writes them again.

use std::{env, fs, path::Path};

use spanwire_host::{conflicts, render};

use crate::samples;

#[test]
fn every_kind_of_node_looks_as_committed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let mut differing = Vec::new();
    for (name, (plan, facts)) in samples::all() {
        let mut text = String::new();
        for conflict in conflicts(&plan, &facts) {
            text += &format!("conflict {conflict}\n");
        }
        text += &render(&plan, &facts).to_string();
        let file = folder.join(format!("{name}.txt"));
        if env::var_os("UPDATE").is_some() {
            fs::write(&file, &text).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != text {
            differing.push(format!("{name}:\n{text}"));
        }
    }
    assert!(
        differing.is_empty(),
        "not as committed (UPDATE=1 writes them again):\n{}",
        differing.join("\n")
    );
}
