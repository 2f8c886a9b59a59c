//! Where the kubelet reaches the API server, as its kubeconfig says.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use axum::http::Uri;
use serde::Deserialize;
use spanwire_cluster::backoff::jittered;
use tokio::sync::watch;

/// How often the file is read, and the names in it resolved.
const AGAIN: Duration = Duration::from_secs(60);

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

/// Sends the addresses, now and when they change, until nothing receives them. What cannot be read changes nothing.
pub async fn watch(path: PathBuf, addresses: watch::Sender<BTreeSet<SocketAddr>>) {
    let mut complaint = None;
    while !addresses.is_closed() {
        match read(&path).await {
            Ok(found) => {
                complaint = None;
                addresses.send_if_modified(|known| {
                    let changed = *known != found;
                    *known = found;
                    changed
                });
            }
            Err(cause) => {
                if complaint.as_ref() != Some(&cause) {
                    let path = path.display();
                    tracing::warn!(%path, cause, "where the kubelet reaches the API server is not known");
                }
                complaint = Some(cause);
            }
        }
        tokio::time::sleep(jittered(AGAIN)).await;
    }
}

async fn read(path: &PathBuf) -> Result<BTreeSet<SocketAddr>, String> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|error| error.to_string())?;
    let mut found = BTreeSet::new();
    for (host, port) in servers(&text)? {
        let addresses = tokio::net::lookup_host((host.as_str(), port)).await;
        let addresses = addresses.map_err(|error| format!("{host}: {error}"))?;
        // A balancer on the node itself (k3s has one) is reached without any route.
        found.extend(addresses.filter(|address| !address.ip().is_loopback()));
    }
    Ok(found)
}

/// Returns the servers of all clusters in the file: names or addresses, with ports.
fn servers(text: &str) -> Result<BTreeSet<(String, u16)>, String> {
    let config: Kubeconfig = serde_saphyr::from_str(text).map_err(|_| "it is no kubeconfig".to_owned())?;
    let server = |named: &Named| {
        let server = &named.cluster.server;
        let uri: Uri = server.parse().map_err(|_| format!("{server:?} is no URL"))?;
        let host = uri.host().ok_or_else(|| format!("{server:?} names no host"))?;
        let port = uri.port_u16().unwrap_or(443);
        Ok((host.trim_matches(['[', ']']).to_owned(), port))
    };
    config.clusters.iter().map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_servers_of_a_kubeconfig_are_found_but_for_those_on_the_node() {
        let text = "apiVersion: v1\nkind: Config\nclusters:\n\
                    - {name: a, cluster: {server: 'https://192.0.2.1:6443', certificate-authority-data: QQ==}}\n\
                    - {name: b, cluster: {server: 'https://[2001:db8::1]'}}\n\
                    - {name: c, cluster: {server: 'https://127.0.0.1:6444'}}\nusers: []\n";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let found = read(&file.path().to_owned()).await.unwrap();
        let expected = ["192.0.2.1:6443", "[2001:db8::1]:443"].map(|text| text.parse().unwrap());
        assert_eq!(found, expected.into());
    }

    #[test]
    fn what_is_no_kubeconfig_is_named() {
        for (text, cause) in [
            ("[", "it is no kubeconfig"),
            ("clusters: [{name: a}]", "it is no kubeconfig"),
            ("clusters: [{cluster: {server: 'a b'}}]", "\"a b\" is no URL"),
            ("clusters: [{cluster: {server: /x}}]", "\"/x\" names no host"),
        ] {
            assert_eq!(servers(text), Err(cause.to_owned()), "{text}");
        }
        assert_eq!(servers("kind: Config"), Ok(BTreeSet::new()));
    }
}
