//! The admin endpoint: `/healthz`, `/readyz`, `/metrics` and `/debug`, answered by the agent's event loop, so that an answer
//! shows that it runs.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

/// An event loop that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Does the event loop run?
    Health,
    /// Has the machine been reconciled once?
    Ready,
    /// The metrics.
    Metrics,
    /// The published objects.
    Snapshot,
    /// What this node has to do.
    Plan,
    /// What the machine should look like.
    Wanted,
    /// What it looks like.
    Actual,
    /// The steps between the two.
    Diff,
    /// What is known of the leaders.
    Links,
}

/// A response: whether all is well, and a text.
pub type Response = (bool, String);

/// A request and where the response goes.
pub type Query = (Request, oneshot::Sender<Response>);

const PATHS: [(&str, Request); 9] = [
    ("/healthz", Request::Health),
    ("/readyz", Request::Ready),
    ("/metrics", Request::Metrics),
    ("/debug/snapshot", Request::Snapshot),
    ("/debug/plan", Request::Plan),
    ("/debug/wanted", Request::Wanted),
    ("/debug/actual", Request::Actual),
    ("/debug/diff", Request::Diff),
    ("/debug/links", Request::Links),
];

/// Listens, and passes requests on to the event loop.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(address: SocketAddr, queries: mpsc::Sender<Query>) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let router = PATHS.iter().fold(Router::new(), |router, (path, request)| {
        let request = *request;
        router.route(path, get(move |State(queries)| ask(queries, request)))
    });
    let service = router.with_state(queries);
    tokio::spawn(async move { axum::serve(listener, service).await });
    Ok(())
}

async fn ask(queries: mpsc::Sender<Query>, request: Request) -> (StatusCode, String) {
    let (sender, receiver) = oneshot::channel();
    let asked = async {
        queries.send((request, sender)).await.ok()?;
        receiver.await.ok()
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Some((true, text))) => (StatusCode::OK, text),
        Ok(Some((false, text))) => (StatusCode::SERVICE_UNAVAILABLE, text),
        Ok(None) | Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent's event loop does not answer\n".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn every_path_has_its_request_and_the_response_decides_the_status() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let (sender, mut queries) = mpsc::channel::<Query>(4);
        serve(address, sender).await.unwrap();
        let answering = tokio::spawn(async move {
            while let Some((request, answer)) = queries.recv().await {
                answer
                    .send((request != Request::Ready, format!("{request:?}")))
                    .unwrap();
            }
        });
        for (path, request) in PATHS {
            let text = fetch(address, path).await;
            assert!(text.ends_with(&format!("{request:?}")), "{text}");
            let status = if request == Request::Ready { "503" } else { "200" };
            assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
        }
        answering.abort();
        let _ended = answering.await;
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 503"));
    }
}
