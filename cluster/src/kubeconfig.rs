//! The API servers that a kubeconfig names.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    time::Duration,
};

use kube::Config;
use serde::Deserialize;

use crate::connect::Server;

/// A resolver that does not answer tries for longer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Kubeconfig {
    #[serde(default)]
    clusters: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    cluster: Cluster,
}

#[derive(Deserialize)]
struct Cluster {
    server: String,
}

/// The servers that a kubeconfig names, each with its last known addresses.
#[derive(Debug, Default)]
pub struct Servers {
    known: BTreeMap<(String, u16), Option<BTreeSet<SocketAddr>>>,
    named: bool,
}

impl Servers {
    /// Takes the servers of a kubeconfig, and resolves each name in it. What is none changes nothing, and for a name that is not
    /// resolved the last answer stays.
    ///
    /// # Errors
    /// What of that failed.
    pub async fn read<F: Future<Output = io::Result<Vec<SocketAddr>>>>(
        &mut self,
        text: &str,
        resolve: impl Fn(String, u16) -> F,
    ) -> Result<(), String> {
        let named = servers(text)?;
        self.named = true;
        self.known.retain(|server, _| named.contains(server));
        let mut causes = Vec::new();
        for (host, port) in named {
            let found = resolve(host.clone(), port).await;
            let known = self.known.entry((host.clone(), port)).or_default();
            match found {
                Ok(addresses) => *known = Some(addresses.into_iter().collect()),
                Err(error) => causes.push(format!("{host}: {error}")),
            }
        }
        if causes.is_empty() {
            return Ok(());
        }
        Err(causes.join("; "))
    }

    /// Returns their addresses.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.known.values().flatten().flatten().copied()
    }

    /// Returns whether a kubeconfig has been read and each of its servers been resolved once.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.named && self.known.values().all(Option::is_some)
    }
}

/// Returns the addresses of a name; those of an address are itself.
///
/// # Errors
/// Where the resolver has no answer, or none within 5 s.
pub async fn resolve(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    let lookup = tokio::net::lookup_host((host.as_str(), port));
    let addresses = tokio::time::timeout(PATIENCE, lookup).await??;
    Ok(addresses.collect())
}

/// Returns the servers of all clusters in a kubeconfig: names or addresses, with ports.
fn servers(text: &str) -> Result<BTreeSet<(String, u16)>, String> {
    let config: Kubeconfig = serde_saphyr::from_str(text).map_err(|_| "it is no kubeconfig".to_owned())?;
    let server = |named: &Named| {
        let server = &named.cluster.server;
        let config = server.parse().map(Config::new);
        let (host, port) = Server::of(&config.map_err(|_| format!("{server:?} is no URL"))?).into_parts();
        if host.is_empty() {
            return Err(format!("{server:?} names no host"));
        }
        Ok((host, port))
    };
    config.clusters.iter().map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kubeconfig_is_named() {
        for (text, cause) in [
            ("[", "it is no kubeconfig"),
            ("clusters: [{name: a}]", "it is no kubeconfig"),
            ("clusters: [{cluster: {server: 'a b'}}]", "\"a b\" is no URL"),
            ("clusters: [{cluster: {server: /x}}]", "\"/x\" names no host"),
        ] {
            assert_eq!(servers(text).unwrap_err(), cause);
        }
        assert!(servers("clusters: []").unwrap().is_empty());
    }

    #[test]
    fn a_server_without_a_port_is_at_that_of_https() {
        let named = servers(
            "clusters: [{cluster: {server: 'https://[2001:db8::1]'}}, {cluster: {server: 'https://api:6443/'}}]",
        );
        let expected = [("2001:db8::1".to_owned(), 443), ("api".to_owned(), 6443)];
        assert_eq!(named.unwrap(), expected.into());
    }
}
