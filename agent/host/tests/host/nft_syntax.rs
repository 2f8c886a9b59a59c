//! Every table is one that Debian's nft takes, checked in a network namespace of its own.

use std::{io::Write as _, process::Stdio};

use spanwire_host::render;
use spanwire_testbed::command;

use crate::samples;

#[test]
fn nft_loads_and_replaces_the_table_of_every_kind_of_node() {
    for (name, (plan, facts)) in samples::all() {
        let Some(table) = render(&plan, &facts).nft else {
            continue;
        };
        if let Err(error) = load(&table.to_string()) {
            panic!("{name}: {error}\n{table}");
        }
    }
}

/// Loads the text twice: the second time it has a table to replace.
fn load(text: &str) -> Result<(), String> {
    let mut child = command("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-e"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("unshare: {error}"))?;
    let script = "nft -f /dev/stdin <<END\nTEXT\nEND\n"
        .replace("TEXT", text)
        .repeat(2);
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    stdin
        .write_all(script.as_bytes())
        .map_err(|error| format!("sh: {error}"))?;
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| format!("sh: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
