//! The fuzz targets' corpora, replayed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path};

#[path = "../fuzz/bodies.rs"]
mod bodies;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Seen when it panics.
        eprintln!("{}", path.display());
        body(&fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 5, "{target} has no corpus");
}

#[test]
fn no_datagram_or_packet_harms_a_device() {
    replay("intake", bodies::intake);
}

#[test]
fn no_super_packet_harms_the_cutter() {
    replay("segment", bodies::segment);
}

#[test]
fn what_is_joined_and_cut_is_what_it_was() {
    replay("coalesce", bodies::coalesce);
}

#[test]
fn no_request_harms_a_device() {
    replay("uapi", bodies::uapi);
}
