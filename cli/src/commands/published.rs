//! `graph` and `showconf`: what is published, and nothing else.

use anyhow::{anyhow, ensure};

use super::source::read;
use crate::{
    answer::Answer,
    args::{Device, GraphArgs, ShowconfArgs},
    cluster::Reach,
    graph::draw,
    objects::Kind,
    showconf::{of_node, of_peer},
};

const KINDS: [Kind; 2] = [Kind::Peer, Kind::LocationSlice];

pub(super) async fn graph(reach: &Reach, args: &GraphArgs) -> anyhow::Result<Answer> {
    let source = read(reach, &args.filename, &KINDS).await?;
    Ok(Answer {
        text: draw(&source.objects.published(), args.output),
        ..Answer::default()
    })
}

pub(super) async fn showconf(reach: &Reach, args: &ShowconfArgs) -> anyhow::Result<Answer> {
    let mesh = read(reach, &args.filename, &KINDS).await?.objects.published();
    let name = &args.name;
    ensure!(
        args.leader.is_empty() || args.of == Device::Peer,
        "--leader is for the device of a Peer: a node has one with all others"
    );
    let bad = |error: &dyn std::fmt::Display| format!("{name:?} {error}");
    let config = match args.of {
        Device::Node => name
            .parse()
            .map_err(|error| bad(&error))
            .and_then(|node| of_node(&mesh, &node)),
        Device::Peer => name
            .parse()
            .map_err(|error| bad(&error))
            .and_then(|peer| of_peer(&mesh, &peer, &args.leader)),
    };
    Ok(Answer {
        text: config
            .map_err(|problem| anyhow!(problem))?
            .formatted(args.output)?,
        ..Answer::default()
    })
}
