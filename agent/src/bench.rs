//! TCP throughput between two nodes, measured for some seconds when a person asks for it at the admin endpoint: the agent of one
//! receives, that of the other sends.
//!
//! The receiver listens for this one measurement, and gives the person a token that the sender has to present before anything
//! counts. Both have a thread of their own, since the event loop has one for all else, and end when the asker goes away.

mod receiver;
mod sender;
mod token;

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    runtime::Builder,
    sync::{Semaphore, SemaphorePermit, oneshot},
    time::timeout,
};

pub use self::token::Token;

/// For how many seconds may be measured.
pub const SECONDS: RangeInclusive<u64> = 1..=30;
/// How long the sender may take until it has presented the token.
const SETUP: Duration = Duration::from_secs(2);
/// How much is written and read at a time: so much that the calls do not count, and so little that others have their turn.
const CHUNK: usize = 256 * 1024;
/// How long one that is about to end is waited for, as when its asker has just gone away.
const TURN: Duration = Duration::from_millis(500);
/// One at a time on a node, of either end: two would measure each other.
static ONE: Semaphore = Semaphore::const_new(1);

/// A measurement that waits for its sender.
#[derive(Debug)]
pub struct Receiving {
    /// The port and the token.
    pub offer: Value,
    /// What was received. Dropping it ends the measurement.
    pub ended: oneshot::Receiver<Value>,
}

/// Listens on an address of this node for a sender.
///
/// # Errors
/// Why that cannot be.
pub async fn receive(at: IpAddr, time: Duration) -> Result<Receiving, String> {
    let one = turn().await?;
    let token = Token::random()?;
    let listener = receiver::listen(at)?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port();
    let ended = apart(one, move || receiver::take(listener, token, time))?;
    Ok(Receiving {
        offer: json!({"port": port, "token": token.to_string()}),
        ended,
    })
}

/// Sends from an address of this node to a receiver that has given out this token.
///
/// # Errors
/// Why that cannot be tried. That the network carries nothing is an answer.
pub async fn send(from: IpAddr, to: SocketAddr, token: Token, time: Duration) -> Result<Value, String> {
    let one = turn().await?;
    let ended = apart(one, move || sender::send(from, to, token, time))?;
    ended
        .await
        .map_err(|_| "the measurement has ended early".to_owned())
}

async fn turn() -> Result<SemaphorePermit<'static>, String> {
    match timeout(TURN, ONE.acquire()).await {
        Ok(Ok(one)) => Ok(one),
        _ => Err("this node is busy with another measurement: try again".to_owned()),
    }
}

/// Does this in a thread of its own, for as long as the answer is waited for.
fn apart<W, F>(one: SemaphorePermit<'static>, work: W) -> Result<oneshot::Receiver<Value>, String>
where
    W: FnOnce() -> F + Send + 'static,
    F: Future<Output = Result<Value, String>>,
{
    let (mut answer, answered) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let run = move || {
        let found = runtime.block_on(async {
            tokio::select! {
                found = work() => Some(found),
                () = answer.closed() => None,
            }
        });
        // Who asks again when this is answered finds the node free.
        drop((runtime, one));
        if let Some(found) = found {
            // The asker may have gone.
            let _gone = answer.send(found.unwrap_or_else(|why| json!({"failed": why})));
        }
    };
    let thread = thread::Builder::new().name("bench".to_owned()).spawn(run);
    thread.map(|_| answered).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
