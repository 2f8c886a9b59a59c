//! Where the kubelet reaches the API server, as its kubeconfig says.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use spanwire_cluster::{
    backoff::jittered,
    kubeconfig::{Servers, resolve},
};
use tokio::sync::watch;

/// How often the file is read, and the names in it resolved.
const AGAIN: Duration = Duration::from_secs(60);

/// What the file names, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The addresses of its servers.
    pub addresses: BTreeSet<SocketAddr>,
    /// The addresses of all its servers were known once, or there is no such file.
    pub whole: bool,
}

/// Sends the addresses, now and when they change, until nothing receives them. What cannot be read changes nothing.
pub async fn watch(path: PathBuf, found: watch::Sender<Found>) {
    let mut complaint = None;
    let mut servers = Named::default();
    while !found.is_closed() {
        let cause = servers.read(&path, resolve).await.err();
        if let Some(cause) = &cause
            && complaint.as_ref() != Some(cause)
        {
            let path = path.display();
            tracing::warn!(%path, cause, "where the kubelet reaches the API server is not known");
        }
        complaint = cause;
        let now = servers.found();
        found.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        tokio::time::sleep(jittered(AGAIN)).await;
    }
}

/// The servers that the file names.
#[derive(Debug, Default)]
struct Named {
    servers: Servers,
    whole: bool,
}

impl Named {
    /// Reads the file and resolves each name in it; returns what of that failed.
    async fn read<F: Future<Output = io::Result<Vec<SocketAddr>>>>(
        &mut self,
        path: &Path,
        resolve: impl Fn(String, u16) -> F,
    ) -> Result<(), String> {
        let text = tokio::fs::read_to_string(path).await;
        let text = text.map_err(|error| {
            // What is mounted and is not there is made a directory by the container runtime.
            if error.kind() == io::ErrorKind::IsADirectory {
                self.whole = true;
                "this node has no such file, only a directory of that name, which the container runtime makes where there is \
                 none; correct the chart's agent.kubeletConfig for nodes of this kind, or leave it empty, and remove the \
                 directory from the node"
                    .to_owned()
            } else {
                error.to_string()
            }
        })?;
        let read = self.servers.read(&text, resolve).await;
        self.whole |= self.servers.are_known();
        read
    }

    /// A balancer on the node itself (k3s has one) is reached without any route, and so is an API server here: what it answers to
    /// others goes as they asked.
    fn found(&self) -> Found {
        let elsewhere = |address: &SocketAddr| !address.ip().is_loopback() && !is_here(*address);
        Found {
            addresses: self.servers.addresses().filter(elsewhere).collect(),
            whole: self.whole,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str], whole: bool) -> Found {
        Found {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            whole,
        }
    }

    #[tokio::test]
    async fn the_servers_of_a_kubeconfig_are_found_but_for_those_on_the_node() {
        let text = "apiVersion: v1\nkind: Config\nclusters:\n\
                    - {name: a, cluster: {server: 'https://192.0.2.1:6443', certificate-authority-data: QQ==}}\n\
                    - {name: b, cluster: {server: 'https://[2001:db8::1]'}}\n\
                    - {name: c, cluster: {server: 'https://127.0.0.1:6444'}}\nusers: []\n";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut servers = Named::default();
        servers.read(file.path(), resolve).await.unwrap();
        assert_eq!(
            servers.found(),
            found(&["192.0.2.1:6443", "[2001:db8::1]:443"], true)
        );
    }

    #[tokio::test]
    async fn a_name_that_is_not_resolved_takes_nothing_from_the_others_and_is_no_answer() {
        let config = |names: &[&str]| {
            let cluster =
                |name: &&str| format!("- {{name: {name}, cluster: {{server: 'https://{name}:6443'}}}}\n");
            let clusters: String = names.iter().map(cluster).collect();
            format!("clusters:\n{clusters}")
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config(&["203.0.113.1", "0.example"])).unwrap();
        let away = async |host: String, port: u16| match host.parse::<IpAddr>() {
            Ok(address) => Ok(vec![SocketAddr::new(address, port)]),
            Err(_) => Err(io::Error::other("no answer")),
        };
        let there = async |_: String, port: u16| Ok(vec![SocketAddr::new([203, 0, 113, 9].into(), port)]);
        let mut servers = Named::default();
        let cause = servers.read(file.path(), away).await.unwrap_err();
        assert_eq!(cause, "0.example: no answer");
        assert_eq!(servers.found(), found(&["203.0.113.1:6443"], false));
        std::fs::write(file.path(), config(&["0.example"])).unwrap();
        servers.read(file.path(), there).await.unwrap();
        assert_eq!(servers.found(), found(&["203.0.113.9:6443"], true));
        std::fs::write(file.path(), config(&["203.0.113.2", "0.example"])).unwrap();
        servers.read(file.path(), away).await.unwrap_err();
        let last = found(&["203.0.113.2:6443", "203.0.113.9:6443"], true);
        assert_eq!(servers.found(), last, "the last answer stays");
        std::fs::remove_file(file.path()).unwrap();
        servers.read(file.path(), away).await.unwrap_err();
        assert_eq!(servers.found(), last, "so does the last file");
    }

    #[tokio::test]
    async fn a_directory_in_its_place_is_said_to_be_the_runtimes() {
        let directory = tempfile::tempdir().unwrap();
        let mut servers = Named::default();
        let cause = servers.read(directory.path(), resolve).await.unwrap_err();
        assert_eq!(
            servers.found(),
            found(&[], true),
            "it is known that there is none"
        );
        assert!(
            cause.contains("correct the chart's agent.kubeletConfig"),
            "{cause}"
        );
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
            let mut servers = Named::default();
            runtime.block_on(servers.read(file.path(), resolve)).unwrap();
            assert_eq!(
                servers.found().addresses,
                ["192.0.2.9:6443".parse().unwrap()].into()
            );
        });
    }
}
