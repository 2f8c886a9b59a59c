//! Echo requests that a person asks for at the admin endpoint: how long the way from this node to an address is.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use spanwire_kernel::Echo;
use tokio::{
    sync::Semaphore,
    time::{sleep_until, timeout_at},
};

/// How many requests are sent, and how long after one another.
const REQUESTS: u64 = 5;
const INTERVAL: Duration = Duration::from_millis(100);
/// How long the answer to the last one is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many may be asked for at a time.
static AT_ONCE: Semaphore = Semaphore::const_new(8);

/// Sends echo requests from an address of this node; returns how many, and the round-trip times of the answers in seconds.
///
/// # Errors
/// Why none can be sent.
pub async fn ping(from: IpAddr, to: IpAddr) -> Result<Value, String> {
    let _one = AT_ONCE
        .try_acquire()
        .map_err(|_| "others ask for echo requests at the same time: try again".to_owned())?;
    let mut seed = [0; 10];
    getrandom::fill(&mut seed).map_err(|error| error.to_string())?;
    let (identifier, number) = seed.split_at(2);
    let identifier = u16::from_ne_bytes(identifier.try_into().unwrap_or_default());
    // An answer has the number of its request, which no one else can know.
    let first = u64::from_ne_bytes(number.try_into().unwrap_or_default());
    let mut echo = Echo::open(identifier).map_err(|error| error.to_string())?;
    let start = tokio::time::Instant::now();
    let mut sent = BTreeMap::new();
    let mut answered = Vec::new();
    let mut refused = None;
    for request in 0..REQUESTS {
        let due = start + INTERVAL * u32::try_from(request).unwrap_or_default();
        take_until(&echo, due, to, &mut sent, &mut answered).await;
        let number = first.wrapping_add(request);
        match echo.send(to, from, number) {
            Ok(()) => drop(sent.insert(number, Instant::now())),
            Err(error) => refused = Some(error.to_string()),
        }
    }
    let last = tokio::time::Instant::now() + PATIENCE;
    take_until(&echo, last, to, &mut sent, &mut answered).await;
    match refused.filter(|_| sent.is_empty() && answered.is_empty()) {
        Some(error) => Err(format!(
            "no echo request can be sent from {from} to {to}: {error}"
        )),
        None => Ok(json!({"sent": REQUESTS, "rtts": answered})),
    }
}

/// Takes answers until then, or until there is none left to wait for after the last request.
async fn take_until(
    echo: &Echo,
    end: tokio::time::Instant,
    to: IpAddr,
    sent: &mut BTreeMap<u64, Instant>,
    answered: &mut Vec<f64>,
) {
    while !sent.is_empty() {
        let Ok(answers) = timeout_at(end, echo.receive()).await else {
            return;
        };
        let Ok(answers) = answers else { break };
        let now = Instant::now();
        for (by, number) in answers {
            if let Some(at) = sent.remove(&number).filter(|_| by == to) {
                answered.push(now.duration_since(at).as_secs_f64());
            }
        }
    }
    if answered.len() < usize::try_from(REQUESTS).unwrap_or_default() {
        sleep_until(end).await;
    }
}

#[cfg(test)]
mod netns;
