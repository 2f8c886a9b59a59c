//! The admin endpoint: `/healthz`, `/readyz`, `/metrics` and `/debug`, answered by the agent's event loop, so that an answer
//! shows that it runs.

mod measure;

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{Path, RawQuery, State},
    http::StatusCode,
    routing::{MethodRouter, get},
};
use spanwire_host::{Protocol, Transport};
use spanwire_kernel::Packet;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

use self::measure::{addresses, unreadable};
use crate::encryption::SECONDS;

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
    /// Which way the kernel sends this packet.
    Way(Packet),
    /// What is encrypted of that which goes between locations, counted for so many seconds.
    Encryption(u64),
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
    let router = router
        .route("/debug/way/{from}/{to}", get(way))
        .route("/debug/way/{from}/{to}/{by}", get(way_by))
        .route("/debug/ping/{from}/{to}", get(measure::ping_from))
        .route("/debug/encryption/{seconds}", get(encryption))
        .route("/debug/processors/{seconds}", get(measure::processors));
    let throughput: [(&str, MethodRouter<_>); 2] = [
        ("/debug/bench/receive/{at}/{seconds}", get(measure::receive)),
        (
            "/debug/bench/send/{from}/{to}/{port}/{token}/{seconds}",
            get(measure::send),
        ),
    ];
    let guarded = |router: Router<_>, (path, answer)| {
        let is_private = address.ip().is_loopback();
        router.route(path, if is_private { answer } else { get(measure::refused) })
    };
    let service = throughput.into_iter().fold(router, guarded).with_state(queries);
    tokio::spawn(async move { axum::serve(listener, service).await });
    Ok(())
}

/// Which way a packet of the node itself or of one of its neighbours goes.
async fn way(
    State(queries): State<mpsc::Sender<Query>>,
    Path((from, to)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> (StatusCode, String) {
    ask_way(queries, packet(&from, &to, None, query.as_deref())).await
}

/// Which way a packet goes that has come by the tunnel.
async fn way_by(
    State(queries): State<mpsc::Sender<Query>>,
    Path((from, to, by)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> (StatusCode, String) {
    ask_way(queries, packet(&from, &to, Some(&by), query.as_deref())).await
}

async fn ask_way(queries: mpsc::Sender<Query>, packet: Result<Packet, String>) -> (StatusCode, String) {
    match packet {
        Ok(packet) => ask(queries, Request::Way(packet)).await,
        Err(why) => unreadable(&why),
    }
}

/// Counts beside the event loop, which says what is to be counted.
async fn encryption(
    State(queries): State<mpsc::Sender<Query>>,
    Path(seconds): Path<String>,
) -> (StatusCode, String) {
    match measure::seconds(&seconds, SECONDS) {
        Ok(time) => {
            let request = Request::Encryption(time.as_secs());
            ask_for(queries, request, PATIENCE + time).await
        }
        Err(why) => unreadable(&why),
    }
}

/// Reads what the path says of a packet: `?hop&answer` of one that a hop brings and that answers another, and what it carries. Older
/// agents do not read that.
fn packet(from: &str, to: &str, by: Option<&str>, query: Option<&str>) -> Result<Packet, String> {
    let (source, destination) = addresses(from, to)?;
    if by.is_some_and(|by| by != "tunnel") {
        return Err("the last part of the path is `tunnel`, or there is none".to_owned());
    }
    let says = |word: &str| query.is_some_and(|query| query.split('&').any(|part| part == word));
    Ok(Packet {
        source,
        destination,
        transport: transport(query.unwrap_or_default())?,
        from_tunnel: by.is_some(),
        from_hop: says("hop"),
        answers: says("answer"),
    })
}

/// Reads what a packet carries: `?protocol=tcp&sport=443`, `?protocol=udp&dport=53`, `?protocol=icmp`.
fn transport(query: &str) -> Result<Option<Transport>, String> {
    let value = |name: &str| {
        let mut parts = query.split('&').filter_map(|part| part.split_once('='));
        parts.find(|(found, _)| *found == name).map(|(_, value)| value)
    };
    let port = |name: &str| match value(name).map(|text| (text, text.parse::<u16>())) {
        None => Ok(None),
        Some((_, Ok(port))) if port > 0 => Ok(Some(port)),
        Some((text, _)) => Err(format!("{name}={text} is no number from 1 to 65535")),
    };
    let (source_port, destination_port) = (port("sport")?, port("dport")?);
    let has_port = source_port.or(destination_port).is_some();
    let Some(protocol) = value("protocol") else {
        return match has_port {
            true => Err("a port is one of protocol=tcp or protocol=udp".to_owned()),
            false => Ok(None),
        };
    };
    let protocol: Protocol = protocol.parse()?;
    if has_port && !protocol.has_ports() {
        return Err(format!("packets of {} have no ports", protocol.name()));
    }
    Ok(Some(Transport {
        protocol,
        source_port,
        destination_port,
    }))
}

async fn ask(queries: mpsc::Sender<Query>, request: Request) -> (StatusCode, String) {
    ask_for(queries, request, PATIENCE).await
}

async fn ask_for(queries: mpsc::Sender<Query>, request: Request, patience: Duration) -> (StatusCode, String) {
    let (sender, receiver) = oneshot::channel();
    let asked = async {
        queries.send((request, sender)).await.ok()?;
        receiver.await.ok()
    };
    match tokio::time::timeout(patience, asked).await {
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

    pub(super) async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// An address at which nothing listens.
    pub(super) fn free(address: &str) -> SocketAddr {
        let free = std::net::TcpListener::bind((address, 0)).unwrap();
        free.local_addr().unwrap()
    }

    #[tokio::test]
    async fn every_path_has_its_request_and_the_response_decides_the_status() {
        let address = free("127.0.0.1");
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
        let text = fetch(address, "/debug/way/fd00::1/fd00::2/tunnel").await;
        assert!(
            text.contains(
                "source: fd00::1, destination: fd00::2, transport: None, from_tunnel: true, from_hop: false, answers: false"
            ),
            "{text}"
        );
        for path in [
            "/debug/way/10.0.0.1/10.0.0.2?answer",
            "/debug/way/10.0.0.1/10.0.0.2/tunnel?answer",
        ] {
            let text = fetch(address, path).await;
            assert!(text.contains("from_hop: false, answers: true"), "{text}");
        }
        let text = fetch(address, "/debug/way/10.0.0.1/10.0.0.2?hop&answer").await;
        assert!(
            text.contains("from_tunnel: false, from_hop: true, answers: true"),
            "{text}"
        );
        for (query, carried) in [
            (
                "protocol=tcp&dport=443",
                "Tcp, source_port: None, destination_port: Some(443)",
            ),
            (
                "hop&answer&protocol=udp&sport=53",
                "Udp, source_port: Some(53), destination_port: None",
            ),
            ("protocol=icmp", "Icmp, source_port: None, destination_port: None"),
        ] {
            let text = fetch(address, &format!("/debug/way/10.0.0.1/10.0.0.2?{query}")).await;
            assert!(text.contains(carried), "{text}");
        }
        let text = fetch(address, "/debug/encryption/60").await;
        assert!(text.ends_with("Encryption(60)"), "{text}");
        for (path, why) in [
            ("/debug/way/10.0.0.1/x", "x is no address"),
            ("/debug/way/10.0.0.1/fd00::2", "two families"),
            ("/debug/way/10.0.0.1/10.0.0.2/wg0", "`tunnel`"),
            ("/debug/way/10.0.0.1/10.0.0.2?protocol=sctp", "sctp is none of"),
            ("/debug/way/10.0.0.1/10.0.0.2?dport=80", "protocol=tcp"),
            (
                "/debug/way/10.0.0.1/10.0.0.2?protocol=icmp&dport=80",
                "icmp have no ports",
            ),
            (
                "/debug/way/10.0.0.1/10.0.0.2?protocol=tcp&dport=0",
                "dport=0 is no number",
            ),
            (
                "/debug/way/10.0.0.1/10.0.0.2?protocol=tcp&sport=65536",
                "sport=65536 is no number",
            ),
            ("/debug/ping/10.0.0.1/x", "x is no address"),
            ("/debug/ping/fd00::1/10.0.0.2", "two families"),
            ("/debug/encryption/0", "0 is no number of seconds from 1 to 60"),
            ("/debug/encryption/61", "61 is no number"),
            ("/debug/encryption/x", "x is no number"),
            ("/debug/processors/31", "31 is no number of seconds from 1 to 30"),
        ] {
            let text = fetch(address, path).await;
            assert!(text.starts_with("HTTP/1.1 400") && text.contains(why), "{text}");
        }
        answering.abort();
        let _ended = answering.await;
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 503"));
    }
}
