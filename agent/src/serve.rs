//! `/healthz`, `/readyz`, `/metrics` and `/debug`, answered by the agent's own loop: who gets an answer knows that it
//! turns.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

/// A loop that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Does the loop turn?
    Health,
    /// Has the machine been made as wanted once?
    Ready,
    /// What is counted.
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
}

/// An answer: whether all is well, and a text.
pub type Answer = (bool, String);

/// A question and where the answer goes.
pub type Query = (Question, oneshot::Sender<Answer>);

const PATHS: [(&str, Question); 8] = [
    ("/healthz", Question::Health),
    ("/readyz", Question::Ready),
    ("/metrics", Question::Metrics),
    ("/debug/snapshot", Question::Snapshot),
    ("/debug/plan", Question::Plan),
    ("/debug/wanted", Question::Wanted),
    ("/debug/actual", Question::Actual),
    ("/debug/diff", Question::Diff),
];

/// Listens, and passes the questions on.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(address: SocketAddr, queries: mpsc::Sender<Query>) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let router = PATHS.iter().fold(Router::new(), |router, (path, question)| {
        let question = *question;
        router.route(path, get(move |State(queries)| ask(queries, question)))
    });
    let service = router.with_state(queries);
    tokio::spawn(async move { axum::serve(listener, service).await });
    Ok(())
}

async fn ask(queries: mpsc::Sender<Query>, question: Question) -> (StatusCode, String) {
    let (sender, receiver) = oneshot::channel();
    let asked = async {
        queries.send((question, sender)).await.ok()?;
        receiver.await.ok()
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Some((true, text))) => (StatusCode::OK, text),
        Ok(Some((false, text))) => (StatusCode::SERVICE_UNAVAILABLE, text),
        Ok(None) | Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent's loop does not turn\n".to_owned(),
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
    async fn every_path_asks_its_question_and_the_answer_decides_the_status() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let (sender, mut queries) = mpsc::channel::<Query>(4);
        serve(address, sender).await.unwrap();
        let answering = tokio::spawn(async move {
            while let Some((question, answer)) = queries.recv().await {
                answer
                    .send((question != Question::Ready, format!("{question:?}")))
                    .unwrap();
            }
        });
        for (path, question) in PATHS {
            let text = fetch(address, path).await;
            assert!(text.ends_with(&format!("{question:?}")), "{text}");
            let status = if question == Question::Ready { "503" } else { "200" };
            assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
        }
        answering.abort();
        let _ended = answering.await;
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 503"));
    }
}
