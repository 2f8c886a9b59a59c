//! Where the kubelet reaches the API server, as its kubeconfig says.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    time::Duration,
};

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
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|error| {
        // What is mounted and is not there is made a directory by the container runtime.
        if error.kind() == io::ErrorKind::IsADirectory {
            "this node has no such file, only a directory of that name, which the container runtime makes where there is none; \
             correct the chart's agent.kubeletConfig for nodes of this kind, or leave it empty, and remove the directory \
             from the node"
                .to_owned()
        } else {
            error.to_string()
        }
    })?;
    let mut found = BTreeSet::new();
    for (host, port) in servers(&text)? {
        let addresses = tokio::net::lookup_host((host.as_str(), port)).await;
        let addresses = addresses.map_err(|error| format!("{host}: {error}"))?;
        // A balancer on the node itself (k3s has one) is reached without any route, and so is an API server here: what it
        // answers to others goes as they asked.
        found.extend(addresses.filter(|address| !address.ip().is_loopback() && !is_here(*address)));
    }
    Ok(found)
}

/// Whether an address is one of this machine, which is what Linux sends from to it. To bind it says less: keepalived has that
/// allowed for any address (`ip_nonlocal_bind`).
fn is_here(address: SocketAddr) -> bool {
    let unspecified: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((unspecified, 0)).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address.ip())
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

    #[tokio::test]
    async fn a_directory_in_its_place_is_said_to_be_the_runtimes() {
        let directory = tempfile::tempdir().unwrap();
        let cause = read(&directory.path().to_owned()).await.unwrap_err();
        assert!(
            cause.contains("correct the chart's agent.kubeletConfig"),
            "{cause}"
        );
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

#[cfg(test)]
mod netns {
    use super::*;

    #[test]
    fn an_api_server_on_the_node_itself_is_none_to_reach() {
        spanwire_testbed::isolated(|| {
            let machine = "ip link set lo up; ip link add lan0 type bridge; ip link set lan0 up
                           ip address add 192.0.2.1/24 dev lan0; ip -6 address add 2001:db8::1/64 dev lan0 nodad
                           sysctl -qw net.ipv4.ip_nonlocal_bind=1";
            spanwire_testbed::Command::shell(machine).run();
            let is_here = |address: &str| super::is_here(address.parse().unwrap());
            assert!(is_here("192.0.2.1:6443") && is_here("[2001:db8::1]:6443"));
            assert!(!is_here("192.0.2.2:6443") && !is_here("[2001:db8::2]:6443"));
            assert!(!is_here("198.51.100.1:6443"), "without a route");
        });
    }

    #[test]
    fn the_file_of_a_control_plane_node_names_nothing_to_reach_past_the_mesh() {
        spanwire_testbed::isolated(|| {
            let machine = "ip link set lo up; ip link add lan0 type bridge; ip link set lan0 up
                           ip address add 192.0.2.1/24 dev lan0";
            spanwire_testbed::Command::shell(machine).run();
            let text = "clusters: [{cluster: {server: 'https://192.0.2.1:6443'}}, \
                        {cluster: {server: 'https://192.0.2.9:6443'}}]";
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let found = runtime.block_on(read(&file.path().to_owned())).unwrap();
            assert_eq!(found, ["192.0.2.9:6443".parse().unwrap()].into());
        });
    }
}
