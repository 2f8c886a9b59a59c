//! Every folder of `cases` has a command and objects; `expected` has what is answered. `UPDATE=1` writes what is answered.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod completion;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use clap::Parser as _;
use spanwire_cli::{
    answer::{Answer, Verdict},
    args::Args,
    run,
};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/answers")
}

async fn answer(words: &[String]) -> anyhow::Result<Answer> {
    let program = "kubectl-spanwire".to_owned();
    run(Args::try_parse_from(std::iter::once(&program).chain(words))?).await
}

async fn plan(words: &[&str]) -> anyhow::Result<Answer> {
    let words: Vec<String> = ["plan"]
        .iter()
        .chain(words)
        .map(|&word| word.to_owned())
        .collect();
    answer(&words).await
}

fn shown(answer: &Answer) -> String {
    let notes: String = answer
        .notes
        .iter()
        .map(|note| format!("note: {note}\n"))
        .collect();
    format!("{}{notes}exit code {}\n", answer.text, answer.verdict.code())
}

/// The file `command` has a word in each line; `CASE` is the folder.
#[tokio::test]
async fn cases_are_answered_as_expected() {
    let update = std::env::var_os("UPDATE").is_some();
    let cases = names(&here().join("cases"));
    let mut wrong = Vec::new();
    for name in &cases {
        let folder = here().join("cases").join(name);
        let folder = folder.to_str().unwrap();
        let command = fs::read_to_string(Path::new(folder).join("command")).unwrap();
        let words: Vec<String> = command.lines().map(|word| word.replace("CASE", folder)).collect();
        let shown = match answer(&words).await {
            Ok(answer) => shown(&answer),
            Err(error) => format!("error: {error:#}\n").replace(folder, "CASE"),
        };
        let path = here().join("expected").join(name).with_extension("txt");
        if update {
            fs::write(&path, &shown).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != shown {
            wrong.push(format!("{name:?} answers\n{shown}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nif this is right: UPDATE=1 cargo test",
        wrong.join("\n")
    );
    let expected = names(&here().join("expected")).into_iter();
    let stems: BTreeSet<OsString> = expected
        .map(|name| Path::new(&name).file_stem().unwrap().to_owned())
        .collect();
    assert_eq!(cases, stems);
}

fn names(folder: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

#[tokio::test]
async fn scenarios_of_the_decisions_tests_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../topology/tests/scenarios");
    for (name, verdict, says) in [
        ("moving.txt", Verdict::Clean, "# In the end:\nLOCATION"),
        ("peers-rejected.txt", Verdict::Errors, "Not granted:\n"),
    ] {
        let path = folder.join(name);
        let answer = plan(&["-f", path.to_str().unwrap()]).await.unwrap();
        assert!(answer.text.contains("> decide\ngeneration 1"), "{}", answer.text);
        assert!(answer.text.contains(says), "{}", answer.text);
        assert_eq!(answer.verdict, verdict, "{}", answer.text);
        let json = plan(&["-f", path.to_str().unwrap(), "-o", "json"]).await.unwrap();
        let json: serde_json::Value = serde_json::from_str(&json.text).unwrap();
        assert!(json["locations"].is_array(), "{json}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.yaml");
    let missing = plan(&["-f", path.to_str().unwrap()]).await.unwrap_err();
    assert!(missing.to_string().contains("x.yaml"), "{missing:#}");
    fs::write(&path, "a: [").unwrap();
    let broken = plan(&["-f", path.to_str().unwrap()]).await.unwrap_err();
    assert!(broken.to_string().ends_with("x.yaml is no YAML"), "{broken:#}");
    let script = folder.path().join("x.txt");
    fs::write(&script, "nonsense").unwrap();
    let broken = plan(&["-f", script.to_str().unwrap()]).await.unwrap_err();
    assert!(
        broken.to_string().contains("x.txt: line 1: nonsense"),
        "{broken:#}"
    );
}

#[tokio::test]
async fn names_are_written_as_kubectl_takes_them() {
    let of = async |command: &str, case: &str| {
        let folder = here().join("cases").join(case);
        let words = [command, "-o", "name", "-f", folder.to_str().unwrap()];
        answer(&words.map(str::to_owned)).await.unwrap()
    };
    let status = of("status", "status-broken").await;
    assert!(
        status.text.starts_with("location.spanwire.dev/a\n"),
        "{}",
        status.text
    );
    assert_eq!(status.verdict, Verdict::Clean, "a list of names judges nothing");
    let diagnose = of("diagnose", "diagnose-broken").await;
    assert!(
        diagnose.text.contains("meshnode.spanwire.dev/"),
        "{}",
        diagnose.text
    );
    assert_eq!(diagnose.verdict, Verdict::Errors);
    let plan = of("plan", "plan-three-locations").await;
    let lines: Vec<&str> = plan.text.lines().collect();
    let expected = [
        "location.spanwire.dev/a",
        "location.spanwire.dev/b",
        "location.spanwire.dev/c",
    ];
    assert_eq!(lines[..3], expected, "{}", plan.text);
    for answer in [&status, &diagnose, &plan] {
        let plain = |line: &str| line.split('/').count() == 2 && !line.contains(' ');
        assert!(answer.text.lines().all(plain), "{}", answer.text);
    }
}
