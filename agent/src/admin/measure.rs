//! What is measured when a person asks for it, beside the event loop, which waits for nothing.

use std::{
    convert::Infallible,
    future::ready,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use axum::{
    body::Body,
    extract::Path,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use crate::{
    bench::{self, SECONDS},
    ping::ping,
    processors,
};

/// A status and a text.
pub(super) type Page = (StatusCode, String);

/// Sends echo requests.
pub(super) async fn ping_from(Path((from, to)): Path<(String, String)>) -> Page {
    match addresses(&from, &to) {
        Ok((from, to)) => page(ping(from, to).await),
        Err(why) => unreadable(&why),
    }
}

/// What share of the processors is spent in so many seconds.
pub(super) async fn processors(Path(time): Path<String>) -> Page {
    match seconds(&time, SECONDS) {
        Ok(time) => page(processors::measure(time).await),
        Err(why) => unreadable(&why),
    }
}

/// Receives what another agent sends. One line says at once where and with which token, a second one what came; a client that
/// goes away in between ends it.
pub(super) async fn receive(Path((at, time)): Path<(String, String)>) -> Response {
    let asked = address(&at).and_then(|at| Ok((at, seconds(&time, SECONDS)?)));
    let receiving = match asked {
        Ok((at, time)) => bench::receive(at, time).await,
        Err(why) => return unreadable(&why).into_response(),
    };
    let receiving = match receiving {
        Ok(receiving) => receiving,
        Err(why) => return page(Err(why)).into_response(),
    };
    let ended = async {
        let ended = receiving.ended.await;
        ended.unwrap_or_else(|_| json!({"failed": "the measurement has ended early"}))
    };
    let lines = stream::once(ready(receiving.offer)).chain(stream::once(ended));
    let lines = lines.map(|line| Ok::<_, Infallible>(format!("{line}\n")));
    Body::from_stream(lines).into_response()
}

/// Sends to another agent that receives.
pub(super) async fn send(
    Path((from, to, port, token, time)): Path<(String, String, String, String, String)>,
) -> Page {
    let asked = || {
        let (from, to) = addresses(&from, &to)?;
        let port = port.parse::<u16>().ok().filter(|&port| port > 0);
        let port = port.ok_or("the port is no number from 1 to 65535")?;
        Ok::<_, String>((
            from,
            SocketAddr::new(to, port),
            token.parse()?,
            seconds(&time, SECONDS)?,
        ))
    };
    match asked() {
        Ok((from, to, token, time)) => page(bench::send(from, to, token, time).await),
        Err(why) => unreadable(&why),
    }
}

/// Instead of a measurement that loads the network, where not only the node itself and the API server's port-forward can ask.
pub(super) async fn refused() -> Page {
    let why = "throughput is measured only where the admin endpoint is on the loopback: start the agent with --status-address \
               127.0.0.1:9477";
    (StatusCode::FORBIDDEN, format!("{why}\n"))
}

fn page(found: Result<Value, String>) -> Page {
    match found {
        Ok(found) => (StatusCode::OK, format!("{found}\n")),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

pub(super) fn unreadable(why: &str) -> Page {
    (StatusCode::BAD_REQUEST, format!("{why}\n"))
}

/// Reads a number of seconds.
pub(super) fn seconds(text: &str, range: RangeInclusive<u64>) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| range.contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        format!("{text} is no number of seconds from {least} to {most}")
    })
}

/// Reads two addresses of one family.
pub(super) fn addresses(from: &str, to: &str) -> Result<(IpAddr, IpAddr), String> {
    let (source, destination) = (address(from)?, address(to)?);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(format!(
            "{source} and {destination} are of two families: name two of one"
        ));
    }
    Ok((source, destination))
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("{text} is no address: write one of IPv4 or IPv6, without a port"))
}

#[cfg(test)]
mod netns;
