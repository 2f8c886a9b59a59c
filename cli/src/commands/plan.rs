//! `plan`.

use anyhow::{anyhow, bail, ensure};
use spanwire_topology::{decide, scenario};

use crate::{
    answer::{Answer, of_objects},
    args::PlanArgs,
    cluster::Reach,
    files::{self, Found},
    objects::{Kind, Objects},
    plan::{Report, of_decision, report},
};

pub(super) async fn run(reach: &Reach, args: &PlanArgs) -> anyhow::Result<Answer> {
    let found = files::read(&args.filename)?;
    if !found.scenarios.is_empty() {
        return of_scenario(&found, args);
    }
    if args.diff {
        return differences(reach, found, args).await;
    }
    let objects = found.objects;
    // Of a bundle the operator's settings are known.
    let settings = args.settings.clone().over(found.operator.settings.clone());
    let cluster = found.operator.facts(&settings);
    let reading = objects.read(&settings, cluster, &Objects::default());
    let mut notes = of_others(found.others);
    if !reading.assumed.is_empty() {
        notes.push(format!(
            "no MeshNode says that an agent runs on {} of {} nodes; it is assumed that one does",
            reading.assumed.len(),
            reading.facts.nodes.len()
        ));
    }
    answer(&report(&reading, &objects.published(), false), notes, args)
}

async fn differences(reach: &Reach, found: Found, args: &PlanArgs) -> anyhow::Result<Answer> {
    let access = reach.connect().await?;
    let mut objects = access.objects(&Kind::ALL).await?;
    let operator = access.operator().await;
    let known = objects.clone();
    let settings = args.settings.clone().over(operator.settings.clone());
    objects.apply(found.objects);
    let reading = objects.read(&settings, operator.facts(&settings), &known);
    let mut notes = of_others(found.others);
    notes.extend(operator.notes);
    answer(&report(&reading, &known.published(), true), notes, args)
}

fn of_scenario(found: &Found, args: &PlanArgs) -> anyhow::Result<Answer> {
    ensure!(
        !args.diff,
        "--diff compares objects with a cluster; a scenario has none"
    );
    let [(file, script)] = &found.scenarios[..] else {
        bail!("a scenario is read alone: name one file");
    };
    ensure!(
        found.objects.is_empty(),
        "a scenario is read alone: name no other file"
    );
    let (said, world) = scenario::run(script, of_tests).map_err(|problem| anyhow!("{file}: {problem}"))?;
    let report = of_decision(&decide(&world.facts, &world.mesh), &world.facts, &[], None);
    let text = |wide| format!("{said}\n# In the end:\n{}", report.text(wide));
    Ok(Answer {
        text: of_objects(&report, args.output, &report.objects(), text)?,
        verdict: report.verdict(),
        ..Answer::default()
    })
}

/// What a scenario has for the tests alone.
fn of_tests(_: &scenario::World, words: &[&str]) -> Option<String> {
    (words == ["walk"]).then(|| "judged by the tests of the decisions alone\n".to_owned())
}

fn answer(report: &Report, notes: Vec<String>, args: &PlanArgs) -> anyhow::Result<Answer> {
    Ok(Answer {
        text: of_objects(report, args.output, &report.objects(), |wide| report.text(wide))?,
        notes,
        verdict: report.verdict(),
    })
}

fn of_others(others: usize) -> Vec<String> {
    match others {
        0 => Vec::new(),
        1 => vec!["an object of another kind was passed over".to_owned()],
        _ => vec![format!("{others} objects of other kinds were passed over")],
    }
}
