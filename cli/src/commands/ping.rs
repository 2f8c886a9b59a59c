//! `ping`.

use std::net::IpAddr;

use anyhow::{anyhow, bail, ensure};
use spanwire_host::Protocol;
use spanwire_topology::Mesh;

use super::{
    explain::{Ends, Named, ends, way_of},
    live::{Agents, agents, measure},
};
use crate::{
    answer::{Answer, Verdict, formatted},
    args::PingArgs,
    cluster::{Access, Reach},
    explain::Report,
    objects::Kind,
    ping::{Leg, MeasuredLeg, legs, node_of, report, text},
};

pub(super) async fn run(reach: &Reach, args: &PingArgs) -> anyhow::Result<Answer> {
    let named = Named {
        from: &args.from,
        to: &args.to,
        v6: args.ipv6,
        transport: Some(Protocol::Icmp.into()),
    };
    let course = course(reach, &named).await?;
    let mut notes = course.notes.clone();
    let (rows, more, verdict) = course.measured().await;
    notes.extend(more);
    Ok(Answer {
        text: formatted(&rows, args.output.map(Into::into), |_| text(&rows))?,
        notes,
        verdict,
    })
}

/// What there is to measure between two addresses.
pub(super) struct Course {
    pub(super) access: Access,
    pub(super) agents: Agents,
    pub(super) mesh: Mesh,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) explained: Report,
    pub(super) legs: Vec<Leg>,
    /// What is not known of it.
    pub(super) notes: Vec<String>,
}

/// Finds what is to be measured between two targets, of which the first is a node.
pub(super) async fn course(reach: &Reach, named: &Named<'_>) -> anyhow::Result<Course> {
    let access = reach.connect().await?;
    let kinds = [Kind::Location, Kind::Peer, Kind::MeshNode, Kind::LocationSlice];
    let objects = access.objects(&kinds).await?;
    let mesh = objects.published();
    let mut notes = Vec::new();
    let found = ends(Some(&access), &objects, named, &mut notes).await?;
    let Ends { from, to, .. } = found;
    ensure!(
        node_of(&mesh, from).is_some(),
        "{from} is no address of a node: agents send from their own nodes alone, so name a node or a location"
    );
    let (explained, more) = way_of(Some(&access), &objects, &found).await?;
    notes.extend(more);
    let legs = legs(&mesh, &explained.there, from, to);
    if legs.is_empty() {
        bail!("{from} to {to}: {}", explained.there.end);
    }
    let agents = agents(&access).await.map_err(|note| anyhow!(note))?;
    Ok(Course {
        access,
        agents,
        mesh,
        from,
        to,
        explained,
        legs,
        notes,
    })
}

impl Course {
    /// Has the agents send echo requests on each leg.
    pub(super) async fn measured(&self) -> (Vec<MeasuredLeg>, Vec<String>, Verdict) {
        let measurements = measure(&self.access, &self.agents, &self.legs).await;
        report(&self.legs, &measurements)
    }
}
