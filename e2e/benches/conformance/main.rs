//! Kubernetes' own network tests in a cluster of three locations, and which of their failures are Spanwire's: `make conformance`.

mod skipped;
mod table;
mod trial;

use std::{
    path::{Path, PathBuf},
    process::{Child, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use spanwire_e2e::{Cmd, Lab, Outcome, Progress, Scenario, Selection, Spanwire, scenario::Cni, suite};

use crate::{
    table::{Row, Verdict},
    trial::Trial,
};

#[derive(Debug, Parser)]
struct Args {
    /// The CNI of the lab.
    #[arg(long, default_value = "vxlan")]
    cni: Cni,
    /// One set of tests, and not both.
    #[arg(long, value_enum)]
    set: Option<Set>,
    /// Only tests whose name has a match for this regular expression in it.
    #[arg(long)]
    only: Option<String>,
    /// How many tests run at once.
    #[arg(long, default_value_t = 4)]
    at_once: usize,
    /// After how many minutes a set is given up.
    #[arg(long, default_value_t = 40)]
    limit: u64,
    /// Name of the lab; one of that name that is up is used, and stays up.
    #[arg(long, default_value = "conf")]
    lab: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// Returns the CNI as it is typed.
    fn cni_name(&self) -> String {
        let value = self.cni.to_possible_value();
        value.map_or(String::new(), |value| value.get_name().to_owned())
    }
}

/// A set of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Set {
    /// Those that every cluster has to pass.
    Conformance,
    /// All others of the network but those that cannot be run here.
    Wide,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let spanwire = in_lab(&args, &args.lab, Spanwire::Installed, |lab| {
        let sets = [Set::Conformance, Set::Wide];
        let wanted = sets
            .into_iter()
            .filter(|set| args.set.is_none_or(|only| only == *set));
        wanted
            .map(|set| Ok((set, first(lab, &args, set)?)))
            .collect::<Result<Vec<_>>>()
    })?;
    let mut failed: Vec<String> = spanwire
        .iter()
        .flat_map(|(_, run)| run.first.failed_and_not_passed_in(&run.again))
        .collect();
    failed.sort();
    let without = if failed.is_empty() {
        Outcome::default()
    } else {
        // The lab's name is at most so long.
        let name: String = args.lab.chars().take(16).collect();
        in_lab(&args, &format!("{name}-one"), Spanwire::Absent, |lab| {
            trial(&args, "without").run(lab, &all_of(failed))
        })?
    };
    let rows: Vec<Row> = spanwire
        .into_iter()
        .map(|(set, run)| row(&args, set, run, &without))
        .collect();
    table::print(&rows, &skipped::reasons())?;
    let broken = rows
        .iter()
        .any(|row| row.is_conformance && (row.ours() > 0 || !row.unfinished.is_empty()));
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

impl Set {
    fn name(self) -> &'static str {
        match self {
            Self::Conformance => "conformance",
            Self::Wide => "wider",
        }
    }

    fn selection(self, args: &Args) -> Selection {
        let only = args.only.iter().cloned().collect();
        match self {
            Self::Conformance => Selection {
                labels: "sig-network && Conformance".to_owned(),
                only,
                without: Vec::new(),
            },
            Self::Wide => Selection {
                labels: skipped::labels(),
                only,
                without: skipped::names(),
            },
        }
    }
}

/// What became of a set, and of what failed when it was run once more in the same lab.
#[derive(Debug)]
struct Twice {
    first: Outcome,
    again: Outcome,
}

fn first(lab: &Lab, args: &Args, set: Set) -> Result<Twice> {
    let first = trial(args, set.name()).run(lab, &set.selection(args))?;
    let tried = first.passed.len() + first.failed.len();
    ensure!(tried > 0, "no test was run: {:?}", first.unfinished);
    let failed = first.failed_names();
    let again = if failed.is_empty() {
        Outcome::default()
    } else {
        trial(args, &format!("{}-again", set.name())).run(lab, &all_of(failed))?
    };
    Ok(Twice { first, again })
}

/// Returns the selection of these tests.
fn all_of(only: Vec<String>) -> Selection {
    Selection {
        labels: "sig-network".to_owned(),
        only,
        without: Vec::new(),
    }
}

fn trial(args: &Args, name: &str) -> Trial {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("conformance")
        .join(args.cni_name());
    Trial {
        report: folder.join(name).with_extension("json"),
        at_once: args.at_once,
        limit: Duration::from_mins(args.limit),
    }
}

fn row(args: &Args, set: Set, run: Twice, without: &Outcome) -> Row {
    let verdict = |name: &String| {
        if run.again.passed.contains(name) {
            Verdict::SecondTry
        } else if without.failed.contains_key(name) {
            Verdict::WithoutSpanwire
        } else {
            Verdict::Ours
        }
    };
    let failed = run.first.failed.iter();
    Row {
        cni: args.cni_name(),
        set: set.name(),
        is_conformance: set == Set::Conformance,
        passed: run.first.passed.len(),
        took: run.first.took,
        failed: failed
            .map(|(name, why)| (name.clone(), why.clone(), verdict(name)))
            .collect(),
        declined: run.first.declined,
        unfinished: [
            run.first.unfinished,
            run.again.unfinished,
            without.unfinished.clone(),
        ]
        .concat(),
    }
}

/// Does something in a lab, which goes down afterwards, also if this program is killed.
fn in_lab<T>(args: &Args, name: &str, spanwire: Spanwire, run: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
    if let Ok(lab) = Lab::attach(name) {
        return run(&lab);
    }
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/lab/conformance.yaml");
    let mut scenario = Scenario::load(&file)?.with_cni(args.cni)?;
    if spanwire == Spanwire::Absent {
        scenario = scenario.in_one_location()?;
    }
    let _guard = guard(name)?;
    let lab = Lab::up(name, &scenario, &suite::options(spanwire));
    let result = lab.and_then(|lab| run(&lab));
    Progress::shown().stage("lab down", || Lab::down(name))?;
    result
}

/// Starts a program that waits for the end of this one and takes the lab down, if it is there then.
fn guard(lab: &str) -> Result<Child> {
    let script = "cat >/dev/null; exec \"$0\" --name \"$1\" down";
    Cmd::of(["setsid", "sh", "-c", script, env!("CARGO_BIN_EXE_lab"), lab])
        .into_command()?
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start what takes the lab down")
}
