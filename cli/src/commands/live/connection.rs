//! A connection to the admin endpoint of one agent, through the API server's port-forward.

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::Portforwarder};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};

use crate::cluster::{Access, brief};

/// Where agents listen, on the node itself.
const PORT: u16 = 9477;
/// No line of an answer is as long.
const LONG: usize = 64 * 1024;

/// A page of an agent's admin endpoint.
pub(super) type Page = (StatusCode, String);

/// A connection, which ends when it is dropped, and with it what the agent does for it.
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    carrier: JoinHandle<()>,
}

/// A port-forward, which ends when it is dropped.
struct Forward(Portforwarder);

impl Drop for Forward {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Connects to the agent in this pod.
    pub(super) async fn open(access: &Access, pod: &str) -> Result<Self, String> {
        let pods: Api<Pod> = Api::namespaced(access.client.clone(), &access.namespace);
        let forward = pods.portforward(pod, &[PORT]).await;
        let mut forward = Forward(forward.map_err(|error| brief(&error))?);
        let stream = forward.0.take_stream(PORT).ok_or("there is no stream")?;
        Self::over(stream, forward).await
    }

    /// Speaks HTTP over a stream, for which something else has to be there.
    async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        besides: impl Send + 'static,
    ) -> Result<Self, String> {
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| error.to_string())?;
        let carry = async move {
            // What goes wrong is said to the one that asks.
            let _ended = connection.await;
            drop(besides);
        };
        Ok(Self {
            sender,
            carrier: tokio::spawn(carry),
        })
    }

    /// Asks for a page.
    pub(super) async fn page(&mut self, path: &str) -> Result<Page, String> {
        let response = self.ask(path).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| error.to_string())?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }

    /// Asks for lines that the agent writes one after the other, as it knows them.
    pub(super) async fn lines(&mut self, path: &str) -> Result<Lines, String> {
        let response = self.ask(path).await?;
        Ok(Lines {
            status: response.status(),
            body: response.into_body(),
            read: Vec::new(),
        })
    }

    async fn ask(&mut self, path: &str) -> Result<Response<Incoming>, String> {
        let request = Request::get(path)
            .header("host", "agent")
            .body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let response = self.sender.send_request(request).await;
        response.map_err(|error| error.to_string())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

/// What of an answer is still to come.
pub(super) struct Lines {
    status: StatusCode,
    body: Incoming,
    read: Vec<u8>,
}

impl Lines {
    /// Waits for the next line.
    pub(super) async fn next(&mut self) -> Result<Page, String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok((self.status, String::from_utf8_lossy(&line).into_owned()));
            }
            if self.read.len() > LONG {
                return Err("its agent's answer is too long".to_owned());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self
                    .read
                    .extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => return Err(error.to_string()),
                // What a router of HTTP answers has no line.
                None if !self.status.is_success() => return Ok((self.status, String::new())),
                None => return Err("its agent's answer has ended early".to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::timeout,
    };

    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

    /// A connection, and the agent's end of it, which has been asked and has answered this.
    async fn asked(answer: &str) -> (Connection, Lines, DuplexStream) {
        let (here, mut agent) = duplex(1 << 20);
        let mut connection = Connection::over(here, ()).await.unwrap();
        let answering = async {
            let mut request = [0; 12];
            agent.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"GET /x HTTP/");
            agent.write_all(answer.as_bytes()).await.unwrap();
        };
        let (lines, ()) = tokio::join!(connection.lines("/x"), answering);
        let lines = lines.unwrap();
        (connection, lines, agent)
    }

    #[tokio::test]
    async fn a_line_is_there_before_the_next_one_is_written() {
        let (_connection, mut lines, mut agent) = asked(&format!("{HEAD}3\r\none\r\n1\r\n\n\r\n")).await;
        assert_eq!(lines.next().await, Ok((StatusCode::OK, "one\n".to_owned())));
        agent.write_all(b"a\r\ntwo\nthree\n\r\n").await.unwrap();
        assert_eq!(lines.next().await.unwrap().1, "two\n");
        assert_eq!(lines.next().await.unwrap().1, "three\n");
    }

    #[tokio::test]
    async fn an_answer_that_ends_early_or_never_is_none() {
        let (_connection, mut lines, _agent) = asked(&format!("{HEAD}3\r\none\r\n0\r\n\r\n")).await;
        assert_eq!(
            lines.next().await,
            Err("its agent's answer has ended early".to_owned())
        );
        let (_connection, mut lines, agent) = asked(&format!("{HEAD}3\r\none\r\n")).await;
        drop(agent);
        assert!(lines.next().await.is_err());
        let long = format!("{HEAD}{:x}\r\n{}\r\n", LONG + 1, "x".repeat(LONG + 1));
        let (_connection, mut lines, _agent) = asked(&long).await;
        assert_eq!(
            lines.next().await,
            Err("its agent's answer is too long".to_owned())
        );
    }

    #[tokio::test]
    async fn the_status_of_an_agent_that_does_not_know_the_question_is_read() {
        let (_connection, mut lines, _agent) =
            asked("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(lines.next().await, Ok((StatusCode::NOT_FOUND, String::new())));
    }

    #[tokio::test]
    async fn the_agent_sees_that_the_asker_is_gone() {
        let (connection, _lines, mut agent) = asked(HEAD).await;
        drop(connection);
        let mut rest = Vec::new();
        let end = timeout(Duration::from_secs(5), agent.read_to_end(&mut rest));
        assert!(end.await.is_ok());
    }
}
