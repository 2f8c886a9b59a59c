//! `migrate kilo`.

use crate::{
    answer::{Answer, formatted},
    args::MigrateArgs,
    cluster::{Reach, brief},
    migrate::report,
};

const PEERS: &str = "/apis/kilo.squat.ai/v1alpha1/peers";

pub(super) async fn kilo(reach: &Reach, args: &MigrateArgs) -> anyhow::Result<Answer> {
    let access = reach.connect().await?;
    let nodes = access.objects(&[crate::objects::Kind::Node]).await?;
    let mut notes = Vec::new();
    let peers = match access.list(PEERS, None).await {
        Ok(peers) => peers,
        // Kilo is not installed, or is without Peers.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => {
            notes.push(format!("Kilo's Peers cannot be read: {}", brief(&error)));
            Vec::new()
        }
    };
    let report = report(nodes.of(crate::objects::Kind::Node).map(|(_, node)| node), &peers);
    notes.extend(report.notes.iter().cloned());
    Ok(Answer {
        text: formatted(&report, args.output, |_| report.text())?,
        notes,
        ..Answer::default()
    })
}
