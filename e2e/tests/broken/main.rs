//! A cluster that is broken in one way after the other, and what `kubectl spanwire diagnose` and `explain` say of it: what is wrong while
//! it is, and nothing before and afterwards.

mod hosts;
mod objects;
mod programs;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use spanwire_e2e::{
    Background, Lab, Progress, Provoked, Spanwire,
    expect::{SOON, all_reach_all},
    plugin, plugin_says, suite, wait_until,
};

/// A way in which a cluster is broken.
pub(crate) struct Broken {
    /// What is wrong.
    pub(crate) name: &'static str,
    /// Breaks it. What is returned runs for as long as it is to be broken.
    pub(crate) inflict: fn(&Lab) -> Result<Option<Background>>,
    pub(crate) mend: fn(&Lab) -> Result<()>,
    pub(crate) found: Found,
    pub(crate) explained: Option<Explained>,
    /// What programs warn of meanwhile, each with the words in the line.
    pub(crate) warns: &'static [Warns],
}

/// What `diagnose` names.
pub(crate) struct Found {
    pub(crate) object: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) words: &'static [&'static str],
}

/// What `explain` says of the way between two nodes, and the code it ends with.
pub(crate) struct Explained {
    pub(crate) code: i32,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) words: &'static [&'static str],
}

/// A program that warns.
pub(crate) enum Warns {
    Agent(&'static str),
    Operator(&'static str),
    Event(&'static str),
    /// Programs that do not reach the API server, or are refused by it.
    WithoutApiServer,
}

const BROKEN: [&[Broken]; 3] = [hosts::BROKEN, objects::BROKEN, programs::BROKEN];

fn main() -> ExitCode {
    let broken = || BROKEN.into_iter().flatten();
    let mut tests: Vec<suite::Test> = vec![("a_healthy_cluster_has_no_findings", installs)];
    assert_eq!(broken().count(), SUFFERED.len());
    tests.extend(broken().zip(SUFFERED).map(|(broken, test)| (broken.name, test)));
    let provoked: Vec<Provoked> = broken()
        .flat_map(|broken| broken.warns.iter().map(|warns| warns.of(broken.name)))
        .collect();
    suite::run(
        "t-broken",
        "broken.yaml",
        &suite::options(Spanwire::Image),
        &tests,
        &provoked,
    )
}

impl Warns {
    fn of(&self, by: &'static str) -> Provoked {
        match self {
            Self::Agent(says) => Provoked::agent(by, says),
            Self::Operator(says) => Provoked::operator(by, says),
            Self::Event(says) => Provoked::event(by, says),
            Self::WithoutApiServer => Provoked::without_api_server(by),
        }
    }
}

const SUFFERED: [fn(&Lab) -> Result<()>; 19] = [
    suffered::<0>,
    suffered::<1>,
    suffered::<2>,
    suffered::<3>,
    suffered::<4>,
    suffered::<5>,
    suffered::<6>,
    suffered::<7>,
    suffered::<8>,
    suffered::<9>,
    suffered::<10>,
    suffered::<11>,
    suffered::<12>,
    suffered::<13>,
    suffered::<14>,
    suffered::<15>,
    suffered::<16>,
    suffered::<17>,
    suffered::<18>,
];

fn installs(lab: &Lab) -> Result<()> {
    lab.install_spanwire(&Progress::shown())?;
    lab.wait_mesh_ready()?;
    all_reach_all(lab)?;
    nothing_is_wrong(lab)?;
    plugin_says(lab, 0, &["explain", "a2", "b2"]).map(drop)
}

fn suffered<const INDEX: usize>(lab: &Lab) -> Result<()> {
    let broken = BROKEN.into_iter().flatten().nth(INDEX).context("no such way")?;
    let named = (broken.inflict)(lab).and_then(|_held| {
        let named = broken.found.is_named(lab);
        let explained = broken.explained.as_ref().map(|explained| explained.is_said(lab));
        named.and(explained.unwrap_or(Ok(())))
    });
    // In any case: what follows needs a whole lab.
    let mended = (broken.mend)(lab);
    named?;
    mended.context("mending")?;
    nothing_is_wrong(lab)
}

fn nothing_is_wrong(lab: &Lab) -> Result<()> {
    wait_until("nothing is wrong", 2 * SOON, || {
        let said = plugin(lab, &["diagnose"])?;
        ensure!(said.stdout.contains("Nothing is wrong."), "{}", said.stdout);
        Ok(true)
    })
}

impl Found {
    fn is_named(&self, lab: &Lab) -> Result<()> {
        let Self {
            object,
            reason,
            words,
        } = self;
        wait_until(&format!("{object} is named for {reason}"), 2 * SOON, || {
            let said = plugin(lab, &["diagnose", "-o", "json"])?.stdout;
            let found: Vec<Value> = serde_json::from_str(&said).with_context(|| said.clone())?;
            let is_named = found.iter().any(|finding| {
                let evidence = finding["evidence"].as_str().unwrap_or_default();
                finding["object"] == *object
                    && finding["reason"] == *reason
                    && words.iter().all(|word| evidence.contains(word))
            });
            ensure!(is_named, "diagnose finds {found:#?}");
            Ok(true)
        })
    }
}

impl Explained {
    fn is_said(&self, lab: &Lab) -> Result<()> {
        let Self {
            code,
            from,
            to,
            words,
        } = self;
        wait_until(&format!("explain {from} {to} says what is wrong"), SOON, || {
            let said = plugin(lab, &["explain", from, to])?;
            let is_said = said.code == *code && words.iter().all(|word| said.stdout.contains(word));
            ensure!(
                is_said,
                "explain {from} {to} ends with {}:\n{}{}",
                said.code,
                said.stdout,
                said.stderr
            );
            Ok(true)
        })
    }
}
