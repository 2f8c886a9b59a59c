//! /healthz, /readyz and /metrics.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;

/// The loop comes by every [`TICK`](crate::eventloop::TICK); after so long it hangs.
const HANGS: Duration = Duration::from_secs(90);

/// What the endpoints serve.
#[derive(Clone)]
pub struct Health {
    state: Arc<Mutex<(Instant, bool)>>,
    registry: Arc<Registry>,
}

impl Health {
    /// Alive and not ready yet.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self {
            state: Arc::new(Mutex::new((Instant::now(), false))),
            registry: Arc::new(registry),
        }
    }

    /// Records that the loop came by.
    pub fn tick(&self, ready: bool) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), ready);
    }

    fn read(&self) -> (bool, bool) {
        let (ticked, ready) = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (ticked.elapsed() < HANGS, ready)
    }
}

/// Serves the endpoints, for ever.
///
/// # Errors
/// Where the address cannot be listened on.
pub async fn serve(address: SocketAddr, health: Health) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, router(health)).await
}

fn router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn healthz(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.read().0 {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "the loop hangs\n")
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.read().1 {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the first lists are not complete yet, or the log says what is waited for\n",
        )
    }
}

async fn metrics(State(health): State<Health>) -> (StatusCode, String) {
    let mut text = String::new();
    match encode(&mut text, &health.registry) {
        Ok(()) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
