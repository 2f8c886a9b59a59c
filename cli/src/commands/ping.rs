//! `ping`.

use anyhow::{anyhow, bail, ensure};

use super::{
    explain::{addresses, way_of},
    live::measure,
};
use crate::{
    answer::{Answer, formatted},
    args::PingArgs,
    cluster::Reach,
    objects::Kind,
    ping::{legs, report, text},
};

pub(super) async fn run(reach: &Reach, args: &PingArgs) -> anyhow::Result<Answer> {
    let access = reach.connect().await?;
    let kinds = [Kind::Location, Kind::Peer, Kind::MeshNode, Kind::LocationSlice];
    let objects = access.objects(&kinds).await?;
    let mesh = objects.published();
    let mut notes = Vec::new();
    let (from, to) = addresses(
        Some(&access),
        &objects,
        &args.from,
        &args.to,
        args.ipv6,
        &mut notes,
    )
    .await?;
    let own = mesh
        .locations
        .values()
        .flat_map(|location| location.members.iter());
    let mut own =
        own.filter(|(_, member)| member.addresses.contains(&from) || member.overlay.contains(&from));
    ensure!(
        own.next().is_some(),
        "{from} is no address of a node: agents send from their own nodes alone, so name a node or a location"
    );
    let (explained, more) = way_of(Some(&access), &objects, from, to).await?;
    notes.extend(more);
    let legs = legs(&mesh, &explained.there, from, to);
    if legs.is_empty() {
        bail!("{from} to {to}: {}", explained.there.end);
    }
    let measurements = measure(&access, &legs).await.map_err(|note| anyhow!(note))?;
    let (rows, more, verdict) = report(&legs, &measurements);
    notes.extend(more);
    Ok(Answer {
        text: formatted(&rows, args.output, |_| text(&rows))?,
        notes,
        verdict,
    })
}
