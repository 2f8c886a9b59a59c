//! `migrate kilo`.

use crate::{
    answer::{Answer, formatted},
    args::MigrateArgs,
    cluster::{Reach, explained},
    migrate::{Found, Installation, report},
};

const NODES: &str = "/api/v1/nodes";
const PEERS: &str = "/apis/kilo.squat.ai/v1alpha1/peers";
const DAEMON_SETS: &str = "/apis/apps/v1/daemonsets";

pub(super) async fn kilo(reach: &Reach, args: &MigrateArgs) -> anyhow::Result<Answer> {
    let access = reach.connect().await?;
    // With less than all of it the script would leave something out.
    let list = async |path: &str, what: &str| {
        let found = access.list(path, None).await;
        match found {
            // Kilo is not installed, or is without Peers.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
            found => found.map_err(|error| explained(error, &format!("list {what}"), false)),
        }
    };
    let (nodes, peers, daemon_sets) = tokio::try_join!(
        list(NODES, "nodes"),
        list(PEERS, "peers.kilo.squat.ai"),
        list(DAEMON_SETS, "daemonsets")
    )?;
    let found = Found {
        nodes: &nodes,
        peers: &peers,
        daemon_sets: &daemon_sets,
    };
    let report = report(&found, args.image.as_deref()).map_err(anyhow::Error::msg)?;
    let installation = Installation {
        namespace: access.namespace.clone(),
        chart: args.chart.clone(),
    };
    Ok(Answer {
        text: formatted(&report, args.output.map(Into::into), |_| {
            report.text(&installation)
        })?,
        notes: report.notes.clone(),
        ..Answer::default()
    })
}
