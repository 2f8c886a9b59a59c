//! By how much this node's clock differs from the API server's, which says in every answer what time it has.

use std::time::{Duration, Instant, SystemTime};

use axum::http::{HeaderMap, Request, header::DATE};
use k8s_openapi::jiff::{Timestamp, fmt::rfc2822};
use kube::{Client, client::Body};
use spanwire_cluster::backoff::jittered;
use spanwire_core::state::CLOCK_TOLERANCE;
use tokio::sync::watch;

/// How often a clock that is right is compared.
const SELDOM: Duration = Duration::from_secs(6 * 60 * 60);
/// How often one that is wrong, or that could not be compared.
const AGAIN: Duration = Duration::from_secs(30);
/// How often it is looked whether the clock was set.
const LOOK: Duration = Duration::from_secs(10);
/// A clock that differs from itself by more has been set, or the node has slept.
const STEP: i64 = 5;

/// Sends by how many seconds the clock is behind (ahead, where negative), when it starts and when that changes, until
/// nothing receives it.
pub async fn watch(client: Client, behind: watch::Sender<Option<i64>>) {
    let began = Instant::now();
    let mut was_set = false;
    while !behind.is_closed() {
        let asked = ask(&client).await;
        behind.send_if_modified(|known| {
            let now = known_after(*known, asked, was_set);
            std::mem::replace(known, now) != now
        });
        let is_right = asked.is_some_and(|behind| behind.abs() <= CLOCK_TOLERANCE);
        let longest = jittered(if is_right { SELDOM } else { AGAIN });
        let (start, offset) = (Instant::now(), difference(began));
        let moved = || (difference(began) - offset).abs() > STEP;
        while start.elapsed() < longest && !moved() {
            tokio::time::sleep(LOOK.min(longest)).await;
        }
        was_set = moved();
    }
}

/// Returns what is known of the clock after an attempt to compare it. What was known before it was set says nothing of it
/// any more, also where the API server cannot be asked.
fn known_after(known: Option<i64>, asked: Option<i64>, was_set: bool) -> Option<i64> {
    asked.or(known.filter(|_| !was_set))
}

/// The wall clock less one that is never set.
fn difference(began: Instant) -> i64 {
    let elapsed = i64::try_from(began.elapsed().as_secs()).unwrap_or_default();
    Timestamp::now().as_second() - elapsed
}

async fn ask(client: &Client) -> Option<i64> {
    let request = Request::get("/version").body(Body::empty()).ok()?;
    let before = SystemTime::now();
    let answer = client.send(request).await;
    let answer = answer
        .inspect_err(|error| {
            let error = error as &dyn std::error::Error;
            tracing::debug!(error, "the clock cannot be compared with the API server's");
        })
        .ok()?;
    let (asked, answered) = (Timestamp::try_from(before).ok()?, Timestamp::now());
    Some(beside(
        time_of(answer.headers())?.as_second(),
        asked.as_second(),
        answered.as_second(),
    ))
}

/// Returns how far a time is from those between two others. An answer may have been long on its way.
fn beside(time: i64, first: i64, last: i64) -> i64 {
    if time < first {
        time - first
    } else {
        (time - last).max(0)
    }
}

fn time_of(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    rfc2822::parse(text).ok().map(|time| time.timestamp())
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::HeaderName};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_that_was_long_on_its_way_says_nothing_against_the_clock() {
        for (time, difference) in [(90, -10), (100, 0), (130, 0), (160, 0), (170, 10)] {
            assert_eq!(beside(time, 100, 160), difference, "{time}");
        }
    }

    #[test]
    fn of_a_clock_that_was_set_nothing_is_known_until_it_can_be_compared_again() {
        assert_eq!(
            known_after(Some(86_400), None, false),
            Some(86_400),
            "the API server is away"
        );
        assert_eq!(known_after(Some(86_400), None, true), None);
        assert_eq!(known_after(Some(86_400), Some(0), true), Some(0));
        assert_eq!(known_after(None, Some(-5), false), Some(-5));
    }

    #[tokio::test]
    async fn the_clock_is_compared_with_the_date_of_an_answer() {
        for (date, seconds) in [
            (Some(3_600), Some(3_600)),
            (Some(-86_400), Some(-86_400)),
            (None, None),
        ] {
            let answer = async move || {
                let at = Timestamp::from_second(Timestamp::now().as_second() + date.unwrap_or_default());
                let text = at.unwrap().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                let name = if date.is_some() { "date" } else { "x-date" };
                ([(HeaderName::from_static(name), text)], "{}")
            };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
            let config = kube::Config::new(format!("http://{address}").parse().unwrap());
            let behind = ask(&Client::try_from(config).unwrap()).await;
            match seconds {
                Some(seconds) => assert!((behind.unwrap() - seconds).abs() <= 2, "{behind:?}"),
                // The server of this test puts its own in, and it is right.
                None => assert!(behind.is_none_or(|behind| behind.abs() <= 2), "{behind:?}"),
            }
        }
    }
}
