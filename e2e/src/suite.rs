//! Runs tests one after another in one lab, which is brought up before the first and taken down after the last.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::{
    lab::Lab,
    logs::{LogWatch, Provoked, Unprovoked},
    progress::Progress,
    scenario::Scenario,
    stolen::wait_for_processors,
    up::{Options, Spanwire},
};

/// A test: what holds, and how that is seen.
pub type Test = (&'static str, fn(&Lab) -> Result<()>);

/// The test that every suite ends with.
const QUIET: &str = "no_program_warned_of_what_no_test_provoked";

/// Brings up a lab, runs the tests in their order, and takes it down. What fails is tried again ([`again`]). At the end
/// nothing may have been logged at WARN or ERROR, or said by an Event, but what is `provoked`.
///
/// `LAB_KEEP=1` leaves the lab up, and uses one that is up; for work on a single test.
pub fn run(name: &str, scenario: &str, options: &Options, tests: &[Test], provoked: &[Provoked]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let wanted = |test: &&Test| {
        arguments
            .filter
            .as_ref()
            .is_none_or(|word| test.0.contains(word.as_str()))
    };
    for Provoked { by, .. } in provoked {
        assert!(tests.iter().any(|(name, _)| name == by), "no test is called {by}");
    }
    if arguments.list || !tests.iter().any(|test| wanted(&test)) {
        let names = tests.iter().map(|(name, _)| *name).chain([QUIET]);
        let trials = names.map(|name| Trial::test(name, || Ok(())));
        return libtest_mimic::run(&arguments, trials.collect()).exit_code();
    }
    let keep = std::env::var_os("LAB_KEEP").is_some();
    let lab = match up(name, scenario, options, keep) {
        Ok(lab) => Arc::new(lab),
        Err(error) => {
            eprintln!("the lab {name} did not come up: {error:#}");
            return finish(name, keep, ExitCode::FAILURE);
        }
    };
    let logs = Arc::new(LogWatch::start(&lab));
    let times = Arc::new(Mutex::new(Vec::new()));
    let mut trials: Vec<_> = tests
        .iter()
        .map(|&(name, test)| {
            let (lab, logs, times) = (Arc::clone(&lab), Arc::clone(&logs), Arc::clone(&times));
            Trial::test(name, move || {
                logs.begin(name);
                let begun = Instant::now();
                let result = again(&lab, name, test);
                let mut times = times.lock().expect("no test panics while it holds the lock");
                times.push((begun.elapsed(), name));
                result
            })
        })
        .collect();
    let provoked = provoked.to_vec();
    let watch = Arc::clone(&logs);
    let allowed = provoked.clone();
    let of_lab = Arc::clone(&lab);
    trials.push(Trial::test(QUIET, move || {
        watch
            .take_events(&of_lab)
            .map_err(|error| Failed::from(format!("{error:#}")))?;
        quiet(&watch.unprovoked(&allowed))
    }));
    let code = libtest_mimic::run(&arguments, trials).exit_code();
    print_longest(&mut times.lock().expect("no test panics while it holds the lock"));
    // Once more as the last lines: of a long output the end is what is looked at first.
    for line in logs.unprovoked(&provoked).faults {
        eprintln!("no test provoked: {line}");
    }
    finish(name, keep, code)
}

/// Which tests are worth being cut.
fn print_longest(times: &mut [(Duration, &str)]) {
    const FEW: usize = 12;
    times.sort_unstable();
    let longest = times.iter().rev().take(FEW);
    let longest: Vec<String> = longest
        .map(|(time, name)| format!("{name} {} s", time.as_secs()))
        .collect();
    eprintln!("the longest tests: {}", longest.join(", "));
}

fn up(name: &str, scenario: &str, options: &Options, keep: bool) -> Result<Lab> {
    if keep && let Ok(lab) = Lab::attach(name) {
        return Ok(lab);
    }
    // A run that was killed may have left its lab.
    Lab::down(name)?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/lab")
        .join(scenario);
    Lab::up(name, &Scenario::load(&file)?, options)
}

fn finish(name: &str, keep: bool, code: ExitCode) -> ExitCode {
    if keep {
        return code;
    }
    match Lab::down(name).context("cannot take the lab down") {
        Ok(_) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn quiet(unprovoked: &Unprovoked) -> Result<(), Failed> {
    for line in &unprovoked.starved {
        eprintln!("\nFLAKY, a program got no processor: {line}");
        summarize(line).map_err(|error| Failed::from(format!("{error:#}")))?;
    }
    if unprovoked.faults.is_empty() {
        return Ok(());
    }
    Err(Failed::from(unprovoked.faults.join("\n")))
}

/// How often in a row what has failed must succeed, to be reported as flaky only.
const AGAIN: usize = 3;

/// Tries a test. One that fails must succeed [`AGAIN`] times in a row: then it may have been the machine, which has left a
/// processor away for seconds. It is reported all the same, for it is a bug of the code or of the test.
fn again(lab: &Lab, name: &str, test: fn(&Lab) -> Result<()>) -> Result<(), Failed> {
    let Err(error) = test(lab) else { return Ok(()) };
    let first = explained(lab, &error);
    eprintln!(
        "\nFLAKY, tried {AGAIN} times more: {name}\n{}",
        first.message().unwrap_or_default()
    );
    for _ in 0..AGAIN {
        wait_for_processors()?;
        test(lab).map_err(|error| explained(lab, &error))?;
    }
    summarize(name).map_err(|error| explained(lab, &error))
}

/// Adds a flaky test, or what a program said, to the file from which `make test` makes its last lines (scripts/summary), if it runs this one.
fn summarize(name: &str) -> Result<()> {
    let Some(path) = std::env::var_os("SPANWIRE_TEST_SUMMARY") else {
        return Ok(());
    };
    let mut file = fs::File::options().append(true).create(true).open(path)?;
    Ok(writeln!(file, "flaky {name}")?)
}

/// The error, after what helps to understand it: of a long output the end is what is looked at first.
fn explained(lab: &Lab, error: &anyhow::Error) -> Failed {
    let ask = |args: &[&str]| lab.kubectl(args).unwrap_or_else(|error| format!("{error:#}\n"));
    let pods = ask(&["get", "pods", "--all-namespaces", "-o", "wide"]);
    let locations = ask(&["get", "locations,meshnodes,locationslices,peers", "-o", "wide"]);
    let tunnels = tunnels(lab);
    let links = leaders_as_seen(lab);
    Failed::from(format!("{pods}\n{locations}\n{tunnels}\n{links}\n{error:#}"))
}

/// The tunnels of each node that has any, and what the routers have translated for them.
fn tunnels(lab: &Lab) -> String {
    let of_node = |name: &String| {
        let found = lab.node(name).ok()?.finish(["wg", "show", "spanwire0"]).ok()?;
        (found.code == 0).then(|| format!("{name}:\n{}", found.stdout))
    };
    let locations: BTreeSet<&String> = lab.layout().nodes().map(|node| &node.location).collect();
    let of_router = |name: &&String| {
        let listing = lab
            .network(name)
            .ok()?
            .finish(["conntrack", "-L", "-p", "udp"])
            .ok()?;
        let of_wireguard = listing.stdout.lines().filter(|line| line.contains("port=5182"));
        let lines: Vec<&str> = of_wireguard.collect();
        Some(format!("the router of {name}:\n{}\n", lines.join("\n")))
    };
    let nodes = lab.node_names();
    let nodes = nodes.iter().filter_map(of_node);
    nodes.chain(locations.iter().filter_map(of_router)).collect()
}

/// What each agent knows of the leaders, by node; where no agent runs it is left out.
fn leaders_as_seen(lab: &Lab) -> String {
    let ask = |name: &String| {
        let node = lab.node(name).ok()?;
        let links = [
            "curl",
            "-sS",
            "--max-time",
            "2",
            "http://127.0.0.1:9477/debug/links",
        ];
        Some(format!("{name}:\n{}", node.finish(links).ok()?.stdout))
    };
    lab.node_names().iter().filter_map(ask).collect()
}

/// Returns the options of tests: stages are reported, nothing is forwarded to the machine's own network.
#[must_use]
pub fn options(spanwire: Spanwire) -> Options {
    Options {
        spanwire,
        forward: None,
        advertise: None,
        progress: Progress::shown(),
    }
}
