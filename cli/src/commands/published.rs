//! `graph` and `showconf`: what is published, and nothing else.

use anyhow::anyhow;

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
    let bad = |error: &dyn std::fmt::Display| format!("{name:?} {error}");
    let config = match args.of {
        Device::Node => name
            .parse()
            .map_err(|error| bad(&error))
            .and_then(|node| of_node(&mesh, &node)),
        Device::Peer => name
            .parse()
            .map_err(|error| bad(&error))
            .and_then(|peer| of_peer(&mesh, &peer)),
    };
    Ok(Answer {
        text: config
            .map_err(|problem| anyhow!(problem))?
            .formatted(args.output)?,
        ..Answer::default()
    })
}
