//! The HTTP client that asks the API server, which notices when a connection is dead.
//!
//! A watch says nothing while nothing changes. Where the machine behind its connection has gone without a word (a virtual
//! address that moved to another one, a load balancer or a firewall that forgot the connection), it would stay silent until
//! kube-runtime gives it up, 5 minutes later, and what changed since then would not be known. So the kernel asks connections at
//! rest whether the other side is there.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config, Error,
    client::{ConfigExt as _, retry::RetryPolicy},
};
use tower::{BoxError, ServiceBuilder, retry::RetryLayer};

/// A connection at rest for so long is asked (`TCP_KEEPIDLE`, tcp(7)).
const REST: Duration = Duration::from_secs(10);
/// After so long it is asked again (`TCP_KEEPINTVL`).
const AGAIN: Duration = Duration::from_secs(5);
/// That many questions without an answer end it (`TCP_KEEPCNT`).
const QUESTIONS: u32 = 4;
/// So does what was sent and not acknowledged for so long (`TCP_USER_TIMEOUT`), which is as long as all the questions take.
const SILENCE: Duration = Duration::from_secs(30);

/// Makes a client of this configuration. What it does is what [`Client::try_from`] makes does, but that its connections end
/// within 30 s when the other side has gone without a word.
///
/// # Errors
/// Where the configuration makes no client: certificates and tokens that cannot be read, or a proxy, of which kube has none
/// built in.
pub fn client(config: Config) -> Result<Client, Error> {
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(REST));
    tcp.set_keepalive_interval(Some(AGAIN));
    tcp.set_keepalive_retries(Some(QUESTIONS));
    tcp.set_tcp_user_timeout(Some(SILENCE));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let retries = config
        .default_retry
        .then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(retries)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures::TryStreamExt as _;
    use k8s_openapi::api::core::v1::Node;
    use kube::{
        Api,
        api::{WatchEvent, WatchParams},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

    async fn read_request(stream: &mut TcpStream) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            request.push(byte[0]);
        }
        String::from_utf8(request).unwrap()
    }

    /// Whether the kernel's timer of the connection that comes from this port is that of questions at rest (proc_net_tcp.txt of the
    /// kernel's documentation: `tr` is 2).
    fn is_asked_at_rest(port: u16) -> bool {
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let from = format!(":{port:04X}");
        table.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[1].ends_with(&from) && fields[5].starts_with("02:")
        })
    }

    #[tokio::test]
    async fn a_watch_at_rest_is_asked_whether_it_is_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = client(Config::new(url.parse().unwrap())).unwrap();
        let watched = tokio::spawn(async move {
            let nodes: Api<Node> = Api::all(client);
            let events = nodes.watch(&WatchParams::default(), "0").await.unwrap();
            let mut events = std::pin::pin!(events);
            events.try_next().await.unwrap()
        });
        let (mut stream, peer) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        assert!(request.starts_with("GET /api/v1/nodes?&watch=true"), "{request}");
        let begun = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
        stream.write_all(begun.as_bytes()).await.unwrap();
        let start = Instant::now();
        while !is_asked_at_rest(peer.port()) {
            assert!(start.elapsed() < REST, "nothing is asked of a connection at rest");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let event = r#"{"type":"ADDED","object":{"apiVersion":"v1","kind":"Node","metadata":{"name":"a1"}}}"#;
        let chunk = format!("{:x}\r\n{event}\n\r\n", event.len() + 1);
        stream.write_all(chunk.as_bytes()).await.unwrap();
        let Some(WatchEvent::Added(node)) = watched.await.unwrap() else {
            panic!("no node was added");
        };
        assert_eq!(node.metadata.name.as_deref(), Some("a1"));
    }

    #[tokio::test]
    async fn what_the_api_server_refuses_for_a_moment_is_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = client(Config::new(url.parse().unwrap())).unwrap();
        let asked = tokio::spawn(async move { Api::<Node>::all(client).get("a1").await });
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        let busy = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(busy.as_bytes()).await.unwrap();
        let request = read_request(&mut stream).await;
        assert!(request.starts_with("GET /api/v1/nodes/a1"), "{request}");
        let node = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"a1"}}"#;
        let answer = format!("{HEAD}content-length: {}\r\n\r\n{node}", node.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        assert_eq!(asked.await.unwrap().unwrap().metadata.name.as_deref(), Some("a1"));
    }
}
