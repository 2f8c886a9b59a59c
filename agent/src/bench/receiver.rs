//! The end that listens and counts.

use std::net::IpAddr;

use futures::stream::{FuturesUnordered, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::{Duration, Instant, sleep, timeout, timeout_at},
};

use super::{
    CHUNK,
    token::{LENGTH, Token},
};

/// How long a sender is waited for, which a person has to be given the token for.
const WAIT: Duration = Duration::from_secs(5);
/// How long one that has connected may take to present it.
const PRESENT: Duration = Duration::from_secs(1);
/// How many may be about to present it at a time; others wait to be accepted.
const CALLERS: usize = 16;

/// Listens at a port that the kernel chooses.
pub(super) fn listen(at: IpAddr) -> Result<std::net::TcpListener, String> {
    if at.is_unspecified() || at.is_loopback() || at.is_multicast() {
        return Err(format!(
            "{at} is no address by which another node reaches this one: name one of the node's addresses"
        ));
    }
    let listener = std::net::TcpListener::bind((at, 0));
    listener.map_err(|error| format!("this node cannot listen on {at}: {error}"))
}

/// Takes what the one that has the token sends, for so long.
pub(super) async fn take(
    listener: std::net::TcpListener,
    token: Token,
    time: Duration,
) -> Result<Value, String> {
    let open = listener.set_nonblocking(true);
    let listener = open.and_then(|()| TcpListener::from_std(listener));
    let listener = listener.map_err(|error| error.to_string())?;
    let sender = timeout(WAIT, admit(&listener, token)).await;
    drop(listener);
    match sender {
        Ok(sender) => Ok(count(sender, time).await),
        Err(_) => Err(format!("no sender came within {} s", WAIT.as_secs())),
    }
}

/// Returns the first connection that presents the token.
async fn admit(listener: &TcpListener, token: Token) -> TcpStream {
    let mut callers = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if callers.len() < CALLERS => match accepted {
                Ok((stream, _)) => callers.push(timeout(PRESENT, present(stream, token))),
                // There are too many open files, say.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(presented) = callers.next() => if let Ok(Some(stream)) = presented {
                return stream;
            },
        }
    }
}

/// Returns the connection, where it begins with the token.
async fn present(mut stream: TcpStream, token: Token) -> Option<TcpStream> {
    let mut presented = [0; LENGTH];
    stream.read_exact(&mut presented).await.ok()?;
    if !token.is(presented) {
        return None;
    }
    stream.write_all(&token.answer()).await.ok()?;
    Some(stream)
}

/// Counts what comes in that time, or until the sender ends.
async fn count(mut sender: TcpStream, time: Duration) -> Value {
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0_u64;
    let start = Instant::now();
    let end = start + time;
    let mut now = start;
    while now < end {
        let read = timeout_at(end, sender.read(&mut buffer)).await;
        now = Instant::now().min(end);
        match read {
            Ok(Ok(length)) if length > 0 => bytes += u64::try_from(length).unwrap_or_default(),
            // The time is over, or the sender has ended.
            Ok(_) | Err(_) => break,
        }
        yield_now().await;
    }
    json!({"bytes": bytes, "seconds": now.duration_since(start).as_secs_f64()})
}
