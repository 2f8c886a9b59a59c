//! `verify`.

use std::time::Duration;

use anyhow::anyhow;
use serde_json::json;

use super::live::count;
use crate::{
    answer::{Answer, formatted},
    args::EncryptionArgs,
    cluster::Reach,
    encryption::{asked, report, text},
    objects::Kind,
};

pub(super) async fn encryption(reach: &Reach, args: &EncryptionArgs) -> anyhow::Result<Answer> {
    let access = reach.connect().await?;
    let objects = access.objects(&[Kind::Peer, Kind::LocationSlice]).await?;
    let mesh = objects.published();
    let asked = asked(&mesh, args.all_nodes);
    let nodes = asked.values().flatten().cloned().collect();
    let counts = count(&access, &nodes, Duration::from_secs(args.seconds)).await;
    let counts = counts.map_err(|note| anyhow!(note))?;
    let (rows, notes, verdict) = report(&mesh, &asked, &counts);
    let report = json!({"seconds": args.seconds, "rows": rows});
    Ok(Answer {
        text: formatted(&report, args.output, |wide| text(&rows, wide))?,
        notes,
        verdict,
    })
}
