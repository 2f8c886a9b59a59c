//! What the operator keeps at the API server beside the mesh: its memory.

use std::{collections::BTreeSet, fs::File, io::Read as _};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use spanwire_topology::{ClusterFacts, Family, Prefix};
use thiserror::Error;

/// The ConfigMap in which the operator remembers what it made up.
const MEMORY: &str = spanwire_crds::names::OPERATOR_MEMORY;
/// Where it remembers the pool of IPv6 overlay addresses.
const OVERLAY6: &str = spanwire_crds::names::OVERLAY6;

/// Why the memory cannot be used.
#[derive(Debug, Error)]
pub enum ApiError {
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
        pools.insert(ClusterFacts::default_overlay());
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
