//! Requests to an API server that may never answer.

use std::time::Duration;

/// The API server itself waits no longer for etcd in a request that is no watch.
pub const ANSWER: Duration = Duration::from_secs(10);

/// Waits for an answer so long at most. A server that lost its power, or is behind a balancer that forgot the connection, refuses
/// nothing, and Linux gives such a connection up after a quarter of an hour (`tcp_retries2`, ip-sysctl.rst). A request that is
/// given up takes its connection with it: the next one is made on another.
///
/// # Errors
/// Those of the request, and [`kube::Error::Service`] where there was no answer.
pub async fn answered<T>(
    patience: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> kube::Result<T> {
    let answer = tokio::time::timeout(patience, request).await;
    answer.unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())))
}
