//! What the agents answer, through the API server's port-forward: no port is opened for it, and RBAC decides.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::time::timeout;

use crate::{
    cluster::{Access, brief},
    figures::Figures,
    findings::Answers,
};

/// Where agents listen, on the node itself.
const PORT: u16 = 9477;
/// How long an agent is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many agents are asked at a time.
const AT_ONCE: usize = 32;

/// Asks the agents of these nodes, all at once. A note says why none can be asked, where that is so.
pub(super) async fn ask(access: &Access, nodes: &BTreeSet<String>) -> (Answers, Vec<String>) {
    let pods = match agents(access).await {
        Ok(pods) => pods,
        Err(note) => return (Answers::new(), vec![note]),
    };
    let asking = nodes.iter().map(|node| {
        let pod = pods.iter().find(|(of, _)| of == node).map(|(_, pod)| pod.clone());
        let access = access.clone();
        async move {
            let answer = match pod {
                None => Err("it has no running pod".to_owned()),
                Some(pod) => match timeout(PATIENCE, figures(&access, &pod)).await {
                    Ok(answer) => answer,
                    Err(_) => Err(format!("not within {} s", PATIENCE.as_secs())),
                },
            };
            (node.clone(), answer)
        }
    });
    let answers = stream::iter(asking).buffer_unordered(AT_ONCE).collect().await;
    (answers, Vec::new())
}

/// Returns the running pods of agents, each with its node.
async fn agents(access: &Access) -> Result<Vec<(String, String)>, String> {
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
            "the namespace {} has no agent, so what agents measure is unknown; name Spanwire's namespace with -n",
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
    let [metrics, links] = fetch(access, pod, ["/metrics", "/debug/links"]).await?;
    Ok(Figures::read(&metrics, &links))
}

/// Fetches pages of an agent, one after the other over one connection.
async fn fetch<const N: usize>(access: &Access, pod: &str, pages: [&str; N]) -> Result<[String; N], String> {
    let pods: Api<Pod> = Api::namespaced(access.client.clone(), &access.namespace);
    let mut forward = pods
        .portforward(pod, &[PORT])
        .await
        .map_err(|error| brief(&error))?;
    let stream = forward.take_stream(PORT).ok_or("there is no stream")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let mut texts = [const { String::new() }; N];
    for (text, page) in texts.iter_mut().zip(pages) {
        let request = Request::get(page)
            .header("host", "agent")
            .body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        // What is not ready is no news; the rest may be.
        if status.is_success() {
            *text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        }
    }
    connection.abort();
    forward.abort();
    Ok(texts)
}
