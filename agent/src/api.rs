//! How the API server is reached.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use kube::{Client, Config};
use spanwire_topology::Endpoint;
use thiserror::Error;
use tokio::sync::watch;

use crate::chance::{Backoff, jittered};

/// The name in every API server's certificate, whatever address it is reached at.
const CERTIFICATE_NAME: &str = "kubernetes.default.svc";

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ApiError {
    /// Neither a service account nor a kubeconfig.
    #[error("found neither a service account nor a kubeconfig")]
    Config(#[source] kube::config::InferConfigError),
    /// The address makes no URL.
    #[error("{0} makes no URL")]
    Url(String),
    /// The configuration makes no client.
    #[error("the configuration for the API server cannot be used")]
    Client(#[source] kube::Error),
}

/// A client, and the host and port that it connects to.
///
/// # Errors
/// Where there is no usable configuration.
pub async fn connect(address: Option<&Endpoint>) -> Result<(Client, String, u16), ApiError> {
    let in_cluster = Config::incluster();
    let is_in_cluster = in_cluster.is_ok();
    let mut config = match in_cluster {
        Ok(config) => config,
        Err(_) => Config::infer().await.map_err(ApiError::Config)?,
    };
    if let Some(address) = address {
        let url = format!("https://{address}/");
        config.cluster_url = url.parse().map_err(|_| ApiError::Url(url))?;
        if is_in_cluster {
            config.tls_server_name = Some(CERTIFICATE_NAME.to_owned());
        }
    }
    config.connect_timeout = Some(Duration::from_secs(5));
    let url = &config.cluster_url;
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_u16().unwrap_or(443);
    let client = Client::try_from(config).map_err(ApiError::Client)?;
    Ok((client, host, port))
}

/// Tells the addresses behind the host, now and when they change.
pub async fn watch_addresses(host: String, port: u16, addresses: watch::Sender<BTreeSet<SocketAddr>>) {
    if let Ok(address) = host.parse::<IpAddr>() {
        addresses.send_replace([SocketAddr::new(address, port)].into());
        return;
    }
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    while !addresses.is_closed() {
        if let Ok(found) = tokio::net::lookup_host((host.as_str(), port)).await {
            let found: BTreeSet<SocketAddr> = found.collect();
            addresses.send_if_modified(|known| {
                let changed = *known != found;
                *known = found;
                changed
            });
        }
        tokio::time::sleep(jittered(backoff.wait())).await;
    }
}
