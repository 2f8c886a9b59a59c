//! The end that connects and sends.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::yield_now,
    time::{Duration, Instant, timeout, timeout_at},
};

use super::{
    CHUNK, SETUP,
    token::{LENGTH, Token},
};

/// How long the receiver, which ends the measurement, may do so later than it should.
const GRACE: Duration = Duration::from_millis(500);

/// Sends until the receiver has enough.
pub(super) async fn send(
    from: IpAddr,
    to: SocketAddr,
    token: Token,
    time: Duration,
) -> Result<Value, String> {
    // Nothing on the way can make less of it.
    let mut chunk = vec![0; CHUNK];
    getrandom::fill(&mut chunk).map_err(|error| error.to_string())?;
    let mut receiver = match timeout(SETUP, connect(from, to, token)).await {
        Ok(connected) => connected?,
        Err(_) => {
            return Err(format!(
                "no TCP connection from {from} to {to} within {} s: the packets are lost, or a firewall of that host drops \
                 them (chain INPUT)",
                SETUP.as_secs()
            ));
        }
    };
    let end = Instant::now() + time + GRACE;
    let mut sent = 0_u64;
    while Instant::now() < end {
        match timeout_at(end, receiver.write(&chunk)).await {
            Ok(Ok(length)) if length > 0 => sent += u64::try_from(length).unwrap_or_default(),
            // The receiver closes when its time is over; when that was it knows best.
            Ok(_) | Err(_) => break,
        }
        yield_now().await;
    }
    Ok(json!({"sent": sent}))
}

/// Connects, and presents the token. Only who answers to that is sent anything more.
async fn connect(from: IpAddr, to: SocketAddr, token: Token) -> Result<TcpStream, String> {
    let socket = match from {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    };
    let bound = socket.and_then(|socket| socket.bind((from, 0).into()).map(|()| socket));
    let socket = bound.map_err(|error| format!("nothing can be sent from {from}: {error}"))?;
    let mut stream = socket
        .connect(to)
        .await
        .map_err(|error| format!("no TCP connection from {from} to {to}: {error}"))?;
    let mut answer = [0; LENGTH];
    let presented = async {
        stream.write_all(&token.bytes()).await?;
        stream.read_exact(&mut answer).await
    };
    match presented.await {
        Ok(_) if answer == token.answer() => Ok(stream),
        Ok(_) | Err(_) => Err(format!("what listens at {to} does not take the token")),
    }
}
