//! One agent sends to another one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::try_join;

use super::{
    PATIENCE, all,
    connection::{Connection, Lines},
    fetch, in_time, parsed, within,
};
use crate::{
    bench::{Ended, Failure, Measured, Offer, Outcome, Processors, Received, Sent, Stream, processors_path},
    cluster::Access,
};

/// How long agents take besides for what goes before a measurement: to connect, and to wait for that.
const SETUP: Duration = Duration::from_secs(5);

/// The running pods of agents, by their nodes.
pub(in crate::commands) type Agents = BTreeMap<String, String>;

/// Has the agent of one end send to that of the other one, and those of all these nodes watch their processors meanwhile.
pub(in crate::commands) async fn transfer(
    access: &Access,
    agents: &Agents,
    stream: &Stream,
    nodes: &BTreeSet<String>,
    time: Duration,
) -> Outcome {
    // Before the receiver waits for it: whether the sender answers.
    let mut sender = connect(access, agents, &stream.from).await?;
    let mut receiver = connect(access, agents, &stream.to).await?;
    let (offer, lines) = listen(&mut receiver, stream, time).await?;
    let ((), received, processors) = try_join!(
        send(&mut sender, stream, &offer, time),
        receive(lines, stream, time),
        async { Ok(watch(access, agents, nodes, time).await) },
    )?;
    Ok(Measured { received, processors })
}

fn unanswered(node: &str) -> impl Fn(String) -> Failure {
    move |why| Failure::Unanswered(format!("{node}: {why}"))
}

async fn connect(access: &Access, agents: &Agents, node: &str) -> Result<Connection, Failure> {
    let question = async |access: &Access, pod: &str| {
        let mut connection = Connection::open(access, pod).await?;
        connection.page("/healthz").await?;
        Ok(connection)
    };
    let connection = within(PATIENCE, access, agents.get(node), question).await;
    connection.map_err(unanswered(node))
}

/// Has the receiver listen.
async fn listen(
    receiver: &mut Connection,
    stream: &Stream,
    time: Duration,
) -> Result<(Offer, Lines), Failure> {
    let listening = async {
        let mut lines = receiver.lines(&stream.receive_path(time)).await?;
        let offer: Offer = parsed(&lines.next().await?)?;
        Ok((offer.checked()?, lines))
    };
    in_time(PATIENCE, listening).await.map_err(unanswered(&stream.to))
}

async fn send(
    sender: &mut Connection,
    stream: &Stream,
    offer: &Offer,
    time: Duration,
) -> Result<(), Failure> {
    let path = stream.send_path(offer, time);
    let sending = async { parsed(&sender.page(&path).await?) };
    let ended = in_time(time + SETUP + PATIENCE, sending).await;
    match ended.map_err(unanswered(&stream.from))? {
        Ended::Done(Sent { .. }) => Ok(()),
        Ended::Failed { failed } => Err(Failure::Lost(failed)),
    }
}

async fn receive(mut lines: Lines, stream: &Stream, time: Duration) -> Result<Received, Failure> {
    let receiving = async { parsed(&lines.next().await?) };
    let ended = in_time(time + SETUP + PATIENCE, receiving).await;
    match ended.map_err(unanswered(&stream.to))? {
        Ended::Done(received) => Ok(received),
        Ended::Failed { failed } => Err(Failure::Lost(failed)),
    }
}

async fn watch(
    access: &Access,
    agents: &Agents,
    nodes: &BTreeSet<String>,
    time: Duration,
) -> BTreeMap<String, Result<Processors, String>> {
    let paths = [processors_path(time)];
    let watching = nodes.iter().map(|node| {
        let paths = &paths;
        async move {
            let question = async |access: &Access, pod: &str| fetch(access, pod, paths).await;
            let answer = within(time + PATIENCE, access, agents.get(node), question).await;
            (node.clone(), answer.and_then(|pages| parsed(&pages[0])))
        }
    });
    all(watching).await
}
