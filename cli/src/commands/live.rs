//! What the agents answer, through the API server's port-forward: no port is opened for it, and RBAC decides.

mod connection;
mod follow;
mod pages;
mod transfer;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use hyper::StatusCode;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use self::connection::{Connection, Page};
pub(super) use self::{
    follow::{Asking, Said, follow},
    pages::pages,
    transfer::{Agents, transfer},
};
use crate::{
    cluster::{Access, brief},
    encryption::Counts,
    figures::Figures,
    findings::Answers,
    ping::{Leg, Measurements},
    ways::{Question, Ways},
};

/// How long an agent is waited for; it sends echo requests for a second and a half at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many agents are asked at a time: so many that the leaders of a hundred locations that do not answer are waited for once.
const AT_ONCE: usize = 128;

/// Asks the agents of these nodes, all at once; also returns why none can be asked, where that is so.
pub(super) async fn ask(access: &Access, nodes: &BTreeSet<String>) -> (Answers, Option<String>) {
    let pods = match agents(access).await {
        Ok(pods) => pods,
        Err(why) => return (Answers::new(), Some(why)),
    };
    let asking = nodes.iter().map(|node| {
        let answer = patiently(access, pods.get(node), figures);
        async move { (node.clone(), answer.await) }
    });
    (all(asking).await, None)
}

/// Asks which way the kernels of nodes send packets, each agent for all of its packets at once.
pub(super) async fn ask_ways(access: &Access, questions: Vec<Question>) -> Ways {
    let mut by_node: BTreeMap<String, Vec<Question>> = BTreeMap::new();
    for question in questions {
        by_node.entry(question.node.clone()).or_default().push(question);
    }
    // Where no agent can be asked it was said before.
    let pods = agents(access).await.unwrap_or_default();
    let asking = by_node.into_iter().map(|(node, questions)| {
        let pod = pods.get(&node);
        async move {
            let paths: Vec<String> = questions.iter().map(Question::path).collect();
            let answers = patiently(access, pod, async |access, pod| fetch(access, pod, &paths).await).await;
            let of = |index: usize| match &answers {
                Ok(pages) => parsed(&pages[index]),
                Err(why) => Err(why.clone()),
            };
            let answers = (0..questions.len()).map(of).collect::<Vec<_>>();
            questions.into_iter().zip(answers).collect::<Vec<_>>()
        }
    });
    let answers: Vec<Vec<_>> = all(asking).await;
    answers.into_iter().flatten().collect()
}

/// Has agents send echo requests.
pub(super) async fn measure(access: &Access, pods: &Agents, legs: &[Leg]) -> Measurements {
    let asking = legs.iter().map(|leg| {
        let pod = pods.get(&leg.from);
        async move {
            let paths = [leg.path()];
            let answer = patiently(access, pod, async |access, pod| fetch(access, pod, &paths).await).await;
            (leg.clone(), answer.and_then(|pages| parsed(&pages[0])))
        }
    });
    all(asking).await
}

/// Has agents count for so long what is encrypted. The error says why no agent can be asked.
pub(super) async fn count(
    access: &Access,
    nodes: &BTreeSet<String>,
    time: Duration,
) -> Result<Counts, String> {
    let pods = agents(access).await?;
    let paths = [format!("/debug/encryption/{}", time.as_secs())];
    let asking = nodes.iter().map(|node| {
        let (pod, paths) = (pods.get(node), &paths);
        async move {
            let question = async |access: &Access, pod: &str| fetch(access, pod, paths).await;
            let answer = within(time + PATIENCE, access, pod, question).await;
            (node.clone(), answer.and_then(|pages| parsed(&pages[0])))
        }
    });
    Ok(all(asking).await)
}

/// Waits for all of these questions, many of them at a time.
async fn all<T, C>(asking: impl IntoIterator<Item = impl Future<Output = T>>) -> C
where
    C: Default + Extend<T>,
{
    stream::iter(asking).buffer_unordered(AT_ONCE).collect().await
}

fn parsed<T: DeserializeOwned>((status, text): &Page) -> Result<T, String> {
    if *status == StatusCode::NOT_FOUND {
        return Err(
            "its agent is of another version, which cannot say it: have all nodes run the version of kubectl-spanwire"
                .to_owned(),
        );
    }
    if !status.is_success() {
        return Err(text.trim_end().to_owned());
    }
    serde_json::from_str(text).map_err(|error| format!("its agent's answer cannot be read: {error}"))
}

/// Asks one agent, for no longer than there is patience.
async fn patiently<T>(
    access: &Access,
    pod: Option<&String>,
    question: impl AsyncFnOnce(&Access, &str) -> Result<T, String>,
) -> Result<T, String> {
    within(PATIENCE, access, pod, question).await
}

async fn within<T>(
    patience: Duration,
    access: &Access,
    pod: Option<&String>,
    question: impl AsyncFnOnce(&Access, &str) -> Result<T, String>,
) -> Result<T, String> {
    let pod = pod.ok_or("it has no running pod")?;
    in_time(patience, question(access, pod)).await
}

async fn in_time<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match timeout(patience, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("not within {} s", patience.as_secs())),
    }
}

/// Returns the running pods of agents, by their nodes.
pub(super) async fn agents(access: &Access) -> Result<Agents, String> {
    let path = format!("/api/v1/namespaces/{}/pods", access.namespace);
    let pods = access
        .list(&path, Some("app.kubernetes.io/component=agent"))
        .await
        .map_err(|error| {
            format!(
                "agents are not asked, so what they measure is unknown: {}",
                brief(&error)
            )
        })?;
    if pods.is_empty() {
        return Err(format!(
            "the namespace {} has no agent, so what agents measure is unknown; name Spanwire's namespace with \
             --spanwire-namespace",
            access.namespace
        ));
    }
    let of = |pod: &serde_json::Value| {
        let running = pod["status"]["phase"] == "Running";
        let node = pod["spec"]["nodeName"].as_str().filter(|_| running)?;
        Some((node.to_owned(), pod["metadata"]["name"].as_str()?.to_owned()))
    };
    Ok(pods.iter().filter_map(of).collect())
}

async fn figures(access: &Access, pod: &str) -> Result<Figures, String> {
    figures_over(&mut Connection::open(access, pod).await?).await
}

async fn figures_over(connection: &mut Connection) -> Result<Figures, String> {
    let mut texts = [String::new(), String::new()];
    for (path, text) in ["/metrics", "/debug/links"].into_iter().zip(&mut texts) {
        let (status, page) = connection.page(path).await?;
        // What is not ready is no news; the rest may be.
        if status.is_success() {
            *text = page;
        }
    }
    let [metrics, links] = texts;
    Ok(Figures::read(&metrics, &links))
}

/// Fetches pages of an agent, one after the other over one connection; returns as many.
async fn fetch(access: &Access, pod: &str, paths: &[String]) -> Result<Vec<Page>, String> {
    let mut connection = Connection::open(access, pod).await?;
    let mut pages = Vec::new();
    for path in paths {
        pages.push(connection.page(path).await?);
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::pending};

    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_hundred_agents_are_asked_before_one_of_them_has_answered() {
        let asked = Cell::new(0);
        let asking = (0..100).map(|_| async {
            asked.set(asked.get() + 1);
            pending::<()>().await;
        });
        let answers = all::<_, Vec<()>>(asking).now_or_never();
        assert_eq!((answers, asked.get()), (None, 100));
    }
}
