//! How the API server is reached, and what is prepared there.

use std::{collections::BTreeSet, fs::File, io::Read as _, net::SocketAddr, time::Duration};

use k8s_openapi::{
    api::core::v1::ConfigMap,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
};
use spanwire_topology::{Endpoint, Family, Prefix};
use thiserror::Error;

use crate::writer::FIELD_MANAGER;

/// The name in every API server's certificate, whatever address it is reached at.
const CERTIFICATE_NAME: &str = "kubernetes.default.svc";
/// The ConfigMap in which the operator remembers what it made up.
const MEMORY: &str = spanwire_crds::names::OPERATOR_MEMORY;
/// Where it remembers the pool of IPv6 overlay addresses.
const OVERLAY6: &str = "overlay6";

/// Why the API server cannot be used.
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
    /// The pool of overlay addresses cannot be remembered.
    #[error("the ConfigMap {MEMORY} with the pool of overlay addresses cannot be read or written")]
    Memory(#[source] kube::Error),
    /// What was remembered is no pool.
    #[error("the ConfigMap {MEMORY} has {OVERLAY6} {0:?}, which is no network; delete that key")]
    Remembered(String),
    /// There is no randomness.
    #[error("/dev/urandom cannot be read")]
    Random(#[source] std::io::Error),
}

/// A client, the namespace of the service account, and where the API server is reached.
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The namespace of the service account.
    pub namespace: String,
    host: String,
    port: u16,
}

/// Makes a client.
///
/// # Errors
/// Where there is no usable configuration.
pub async fn connect(address: Option<&Endpoint>) -> Result<Connection, ApiError> {
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
    Ok(Connection {
        host: url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        port: url.port_u16().unwrap_or(443),
        namespace: config.default_namespace.clone(),
        client: Client::try_from(config).map_err(ApiError::Client)?,
    })
}

impl Connection {
    /// The addresses behind the API server's name, which nothing may claim for the mesh.
    pub async fn addresses(&self) -> BTreeSet<SocketAddr> {
        match tokio::net::lookup_host((self.host.as_str(), self.port)).await {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                let host = &self.host;
                tracing::warn!(%error, %host, "the API server's name cannot be resolved, so its address is not guarded");
                BTreeSet::new()
            }
        }
    }
}

/// Returns the pools that serve where the user named none: of IPv4 only where nothing at all is named; of IPv6 a generated
/// one, which is remembered.
///
/// # Errors
/// Where it cannot be read or written.
pub async fn automatic_pools(
    client: &Client,
    namespace: &str,
    named: &BTreeSet<Prefix>,
) -> Result<BTreeSet<Prefix>, ApiError> {
    let mut pools = BTreeSet::new();
    if named.iter().any(|pool| pool.family() == Family::V6) {
        return Ok(pools);
    }
    if named.is_empty() {
        pools.insert(default_pool());
    }
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    if let Some(text) = remembered(&api).await? {
        pools.insert(text.parse().map_err(|_| ApiError::Remembered(text))?);
        return Ok(pools);
    }
    let made = unique_local().map_err(ApiError::Random)?;
    let memory = ConfigMap {
        metadata: ObjectMeta {
            name: Some(MEMORY.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([(OVERLAY6.to_owned(), made.to_string())].into()),
        ..ConfigMap::default()
    };
    match api.create(&PostParams::default(), &memory).await {
        Ok(_) => {
            tracing::info!(pool = %made, "made a pool of IPv6 overlay addresses");
            pools.insert(made);
        }
        // The other replica was faster, or the ConfigMap was there without the key.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let text = match remembered(&api).await? {
                Some(text) => text,
                None => {
                    let data = serde_json::json!({"data": {OVERLAY6: made.to_string()}});
                    let patch = Patch::Merge(data);
                    api.patch(MEMORY, &PatchParams::default(), &patch)
                        .await
                        .map_err(ApiError::Memory)?;
                    made.to_string()
                }
            };
            pools.insert(text.parse().map_err(|_| ApiError::Remembered(text))?);
        }
        Err(error) => return Err(ApiError::Memory(error)),
    }
    Ok(pools)
}

async fn remembered(api: &Api<ConfigMap>) -> Result<Option<String>, ApiError> {
    let memory = api.get_opt(MEMORY).await.map_err(ApiError::Memory)?;
    Ok(memory.and_then(|memory| memory.data?.get(OVERLAY6).cloned()))
}

/// The IPv4 pool of a cluster for which none is named.
fn default_pool() -> Prefix {
    Prefix::new(std::net::Ipv4Addr::new(10, 4, 0, 0).into(), 16).expect("16 bits are less than 32")
}

/// Makes a pool that no other cluster has.
fn unique_local() -> Result<Prefix, std::io::Error> {
    let mut random = [0; 5];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(local(random))
}

/// A network as RFC 4193 section 3.2 has it made: fd00::/8, 40 random bits, subnet 0.
fn local(random: [u8; 5]) -> Prefix {
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[1..6].copy_from_slice(&random);
    Prefix::new(std::net::Ipv6Addr::from(bytes).into(), 64).expect("64 bits are less than 128")
}

/// Makes the CustomResourceDefinitions what this version knows them to be.
///
/// # Errors
/// What the API server says.
pub async fn apply_definitions(client: &Client) -> Result<(), kube::Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    for definition in spanwire_crds::definitions() {
        let name = definition.metadata.name.clone().unwrap_or_default();
        api.patch(&name, &params, &Patch::Apply(&definition)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_pool_is_unique_and_local() {
        let (one, other) = (unique_local().unwrap(), unique_local().unwrap());
        assert!(one.is_private() && one.length() == 64);
        assert_ne!(one, other);
    }
}
