//! What `make bench-tunnel` does with figures: nothing of it needs a device.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "the benchmark uses the rest")]

use std::{fs, path::Path};

use crate::{
    engine::{Engine, tools},
    record::{Figure, Record, Sample},
};

#[path = "../benches/peers/engine.rs"]
mod engine;
#[path = "../benches/peers/record.rs"]
mod record;
#[path = "../benches/peers/tables.rs"]
mod tables;

fn sample(engine: &str, gigabits: f64) -> Sample {
    Sample {
        setup: "veth".into(),
        engine: engine.into(),
        figures: [(Figure::Tcp1, gigabits)].into(),
    }
}

fn two_machines() -> Record {
    let mut record = Record::default();
    record.add("fast", [sample("spanwire", 8.0), sample("wireguard-go", 4.0)]);
    record.add("slow", [sample("spanwire", 3.0), sample("wireguard-go", 2.0)]);
    record
}

#[test]
fn only_what_is_asked_for_is_built() {
    assert_eq!(tools(&[Engine::Spanwire, Engine::WireguardGo]), ["wireguard-go"]);
    assert!(tools(&[Engine::Spanwire, Engine::Plain, Engine::NullCipher]).is_empty());
    assert_eq!(
        tools(&[Engine::Gotatun, Engine::Boringtun1, Engine::Boringtun]),
        ["boringtun-cli", "gotatun"]
    );
}

#[test]
fn figures_of_two_machines_stand_side_by_side() {
    let tables = tables::render(&two_machines());
    assert!(tables.contains("| gate | target | fast | slow |\n"), "{tables}");
    assert!(
        tables
            .contains("| TCP×1 Gb/s, veth | wireguard-go | 1.45 | 1.8 | 2.00 target met | 1.50 gate met |\n"),
        "{tables}"
    );
    for (machine, ours, theirs) in [("fast", "8.00", "4.00"), ("slow", "3.00", "2.00")] {
        let section = tables.split(&format!("## {machine}\n")).nth(1).unwrap();
        let row = section
            .lines()
            .find(|line| line.starts_with("| TCP×1 Gb/s"))
            .unwrap();
        assert_eq!(
            row,
            format!("| TCP×1 Gb/s | {ours} ({ours}–{ours}) | {theirs} ({theirs}–{theirs}) |")
        );
    }
}

#[test]
fn samples_of_a_machine_are_added_to_its_own_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/samples.json");
    assert_eq!(Record::load(&path).unwrap(), Record::default());
    two_machines().save(&path).unwrap();
    let mut record = Record::load(&path).unwrap();
    assert_eq!(record, two_machines());
    record.add("slow", [sample("spanwire", 5.0)]);
    record.add("third", [sample("spanwire", 1.0)]);
    let counts: Vec<_> = record
        .machines()
        .map(|(machine, samples)| (machine, samples.len()))
        .collect();
    assert_eq!(counts, [("fast", 2), ("slow", 3), ("third", 1)]);
}

#[test]
fn committed_samples_stay_as_they_are_when_others_are_added() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.json");
    let mut record = Record::load(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("samples.json");
    record.save(&copy).unwrap();
    assert!(
        fs::read_to_string(&copy).unwrap() == fs::read_to_string(&path).unwrap(),
        "what is read and written again should be the same text"
    );
    // And it stays so.
    record.add("third", [sample("spanwire", 1.0 / 3.0)]);
    record.save(&copy).unwrap();
    let once = fs::read_to_string(&copy).unwrap();
    Record::load(&copy).unwrap().save(&copy).unwrap();
    assert_eq!(fs::read_to_string(&copy).unwrap(), once);
    assert!(once.contains("0.333333\n"), "rounded to six decimals");
}

#[test]
fn the_committed_tables_are_those_of_the_committed_samples() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let record = Record::load(&docs.join("benchmarks.json")).unwrap();
    let copy = tempfile::NamedTempFile::new().unwrap();
    let page = fs::read_to_string(docs.join("benchmarks.md")).unwrap();
    fs::write(copy.path(), &page).unwrap();
    tables::replace(copy.path(), &tables::render(&record)).unwrap();
    assert!(
        fs::read_to_string(copy.path()).unwrap() == page,
        "docs/benchmarks.md was written by hand: {}",
        tables::render(&record)
    );
}
