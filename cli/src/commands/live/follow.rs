//! One agent, asked again and again over one connection.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{Agents, PATIENCE, connection::Connection, figures_over, in_time};
use crate::{cluster::Access, figures::Figures};

/// What an agent answered; an error says why it did not. `None`: agents cannot be asked.
pub(in crate::commands) type Said = Option<Result<Figures, String>>;

/// How agents are asked.
#[derive(Clone)]
pub(in crate::commands) struct Asking {
    /// The cluster.
    pub(in crate::commands) access: Access,
    /// The pods of agents; an error says why none can be asked.
    pub(in crate::commands) pods: watch::Receiver<Result<Agents, String>>,
    /// Is notified where one does not answer: its pod may be another now.
    pub(in crate::commands) missing: Arc<Notify>,
    /// Gets what each node's agent answers.
    pub(in crate::commands) answers: mpsc::Sender<(String, Said)>,
}

/// Asks the agent of a node each `every`, until the receiver of its answers is dropped.
pub(in crate::commands) async fn follow(asking: Asking, node: String, every: Duration) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    loop {
        tick.tick().await;
        let pod = asking
            .pods
            .borrow()
            .as_ref()
            .ok()
            .map(|pods| pods.get(&node).cloned());
        let said = match pod {
            None => None,
            Some(None) => Some(Err("it has no running pod".to_owned())),
            Some(Some(pod)) => Some(in_time(PATIENCE, ask(&asking.access, &pod, &mut connection)).await),
        };
        if !matches!(said, Some(Ok(_))) {
            // What a connection that failed still brings is not to be taken for the next answer.
            connection = None;
            asking.missing.notify_one();
        }
        if asking.answers.send((node.clone(), said)).await.is_err() {
            return;
        }
    }
}

async fn ask(
    access: &Access,
    pod: &str,
    connection: &mut Option<(String, Connection)>,
) -> Result<Figures, String> {
    let open = match connection.take() {
        Some((of, open)) if of == pod => open,
        _ => Connection::open(access, pod).await?,
    };
    let (_, open) = connection.insert((pod.to_owned(), open));
    figures_over(open).await
}
