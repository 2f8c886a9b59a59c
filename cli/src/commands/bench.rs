//! `bench`.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{bail, ensure};
use serde_json::json;
use spanwire_host::Protocol;

use super::{
    explain::Named,
    live::transfer,
    ping::{Course, course},
};
use crate::{
    answer::{Answer, formatted},
    args::BenchArgs,
    bench::{Outcome, Stream, report, text},
    cluster::Reach,
    ping::{self, node_of},
};

pub(super) async fn run(reach: &Reach, args: &BenchArgs) -> anyhow::Result<Answer> {
    let named = Named {
        from: &args.from,
        to: &args.to,
        v6: args.ipv6,
        // The port is chosen when it is sent.
        transport: Some(Protocol::Tcp.into()),
    };
    let course = course(reach, &named).await?;
    let mut notes = course.notes.clone();
    let streams = streams(&course)?;
    let nodes = nodes(&course);
    let time = Duration::from_secs(args.seconds);
    // One after the other: they would be in each other's way.
    let (legs, more, of_legs) = course.measured().await;
    notes.extend(more);
    let mut outcomes: Vec<(Stream, Outcome)> = Vec::new();
    for stream in streams {
        let all = nodes.iter().cloned().collect();
        let outcome = transfer(&course.access, &course.agents, &stream, &all, time).await;
        outcomes.push((stream, outcome));
    }
    let (rows, more, of_streams) = report(&outcomes, &nodes, time);
    notes.extend(more);
    let all = json!({"seconds": args.seconds, "legs": legs, "streams": rows});
    Ok(Answer {
        text: formatted(&all, args.output, |wide| {
            format!("{}\n{}", ping::text(&legs), text(&rows, wide))
        })?,
        notes,
        verdict: of_legs.max(of_streams),
    })
}

/// Returns the two directions.
fn streams(course: &Course) -> anyhow::Result<[Stream; 2]> {
    let (from, to) = (course.from, course.to);
    let [near, far] = [from, to].map(|address| node_of(&course.mesh, address));
    let (Some(near), Some(far)) = (near, far) else {
        bail!("{to} is no address of a node: an agent has to receive there, so name a node or a location");
    };
    ensure!(near != far, "both ends are node {near}: name two nodes");
    let there = Stream {
        from: near.to_string(),
        to: far.to_string(),
        source: from,
        destination: to,
    };
    let back = Stream {
        from: there.to.clone(),
        to: there.from.clone(),
        source: to,
        destination: from,
    };
    Ok([there, back])
}

/// Returns the nodes that packets and answers pass.
fn nodes(course: &Course) -> Vec<String> {
    let hops = course.explained.hops();
    let mut known = BTreeSet::new();
    hops.map(|hop| hop.node.clone())
        .filter(|node| known.insert(node.clone()))
        .collect()
}
