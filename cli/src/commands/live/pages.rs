//! Whole pages of agents, for a bundle.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};

use super::{AT_ONCE, agents, fetch, within};
use crate::{
    bundle::{PAGES, Pages},
    cluster::Access,
};

/// How long the pages of an agent that answers may take: it reads the machine for two of them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the agents of these nodes for their pages.
pub(in crate::commands) async fn pages(access: &Access, nodes: impl Iterator<Item = String>) -> Pages {
    // Where no agent can be asked it was said before.
    let pods = agents(access).await.unwrap_or_default();
    let paths = PAGES.map(str::to_owned);
    let asking = nodes.map(|node| {
        let (pod, paths) = (pods.get(&node), &paths);
        async move {
            let question = async |access: &Access, pod: &str| fetch(access, pod, paths).await;
            let pages = within(PATIENCE, access, pod, question).await.map(|pages| {
                let texts = pages.into_iter().map(|(status, text)| {
                    if status.is_success() {
                        text
                    } else {
                        format!("{status}: {text}")
                    }
                });
                paths.iter().cloned().zip(texts).collect::<BTreeMap<_, _>>()
            });
            (node, pages)
        }
    });
    stream::iter(asking).buffer_unordered(AT_ONCE).collect().await
}
