//! How the API server is reached.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use kube::{Client, Config};
use spanwire_topology::Endpoint;
use thiserror::Error;
use tokio::sync::watch;

use crate::{
    backoff::{Backoff, jittered},
    client::client,
};

/// The name in every API server's certificate, whatever address it is reached at.
const CERTIFICATE_NAME: &str = "kubernetes.default.svc";

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ConnectError {
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

/// A client, the namespace of the service account, and where the API server is.
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The namespace of the service account.
    pub namespace: String,
    /// Where the API server is reached.
    pub server: Server,
    /// In the cluster, where the API server is reached elsewhere: the address of its service, which pods use.
    pub service: Option<IpAddr>,
}

/// Where the API server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    host: String,
    port: u16,
}

/// Makes a client. In the cluster it is that of the service account, else that of the kubeconfig; `address` stands in for
/// the address that these name.
///
/// # Errors
/// Where there is no usable configuration.
pub async fn connect(address: Option<&Endpoint>) -> Result<Connection, ConnectError> {
    let in_cluster = Config::incluster();
    let is_in_cluster = in_cluster.is_ok();
    let service = in_cluster.as_ref().ok().filter(|_| address.is_some());
    let service = service.and_then(|config| Some(Server::of(config).address()?.ip()));
    let mut config = match in_cluster {
        Ok(config) => config,
        Err(_) => Config::infer().await.map_err(ConnectError::Config)?,
    };
    if let Some(address) = address {
        let url = format!("https://{address}/");
        config.cluster_url = url.parse().map_err(|_| ConnectError::Url(url))?;
        if is_in_cluster {
            config.tls_server_name = Some(CERTIFICATE_NAME.to_owned());
        }
    }
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(Connection {
        server: Server::of(&config),
        service,
        namespace: config.default_namespace.clone(),
        client: client(config).map_err(ConnectError::Client)?,
    })
}

impl Server {
    pub(crate) fn of(config: &Config) -> Self {
        let url = &config.cluster_url;
        Self {
            host: url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
            port: url.port_u16().unwrap_or(443),
        }
    }

    /// Returns its name or address, and its port.
    pub(crate) fn into_parts(self) -> (String, u16) {
        (self.host, self.port)
    }

    /// Returns where it is, if that is no name.
    fn address(&self) -> Option<SocketAddr> {
        let address: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(address, self.port))
    }

    /// Sends the addresses behind the API server's name, now and when they change, until nothing receives them. While the name
    /// cannot be resolved its last answer stays.
    pub async fn watch_addresses(self, addresses: watch::Sender<BTreeSet<SocketAddr>>) {
        if let Some(address) = self.address() {
            addresses.send_replace([address].into());
            return;
        }
        self.follow(addresses, || self.resolve()).await;
    }

    async fn follow<F: Future<Output = io::Result<BTreeSet<SocketAddr>>>>(
        &self,
        addresses: watch::Sender<BTreeSet<SocketAddr>>,
        resolve: impl Fn() -> F,
    ) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut failing = false;
        while !addresses.is_closed() {
            let found = resolve().await;
            let failed_before = std::mem::replace(&mut failing, found.is_err());
            match found {
                Ok(found) => {
                    addresses.send_if_modified(|known| {
                        let changed = *known != found;
                        *known = found;
                        changed
                    });
                }
                Err(_) if failed_before => {}
                Err(error) => {
                    let host = &self.host;
                    if addresses.borrow().is_empty() {
                        tracing::warn!(%error, %host, "resolving the API server failed, its address is not guarded yet");
                    } else {
                        tracing::warn!(%error, %host, "resolving the API server failed, its last known addresses count");
                    }
                }
            }
            tokio::time::sleep(jittered(backoff.wait())).await;
        }
    }

    async fn resolve(&self) -> io::Result<BTreeSet<SocketAddr>> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        Ok(found.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use super::*;

    fn server(host: &str) -> Server {
        Server {
            host: host.to_owned(),
            port: 6443,
        }
    }

    #[test]
    fn the_server_of_a_url_has_an_address_or_a_name() {
        for (url, address) in [
            ("https://10.96.0.1", Some("10.96.0.1:443")),
            ("https://[fd00:96::1]:6443/", Some("[fd00:96::1]:6443")),
            ("https://api.example.com:6443", None),
        ] {
            let server = Server::of(&Config::new(url.parse().unwrap()));
            assert_eq!(
                server.address().map(|address| address.to_string()).as_deref(),
                address
            );
        }
    }

    #[tokio::test]
    async fn an_address_stands_for_itself() {
        for text in ["192.0.2.1", "2001:db8::1"] {
            let expected: BTreeSet<SocketAddr> = [SocketAddr::new(text.parse().unwrap(), 6443)].into();
            let (sender, receiver) = watch::channel(BTreeSet::new());
            server(text).watch_addresses(sender).await;
            assert_eq!(*receiver.borrow(), expected);
        }
    }

    #[tokio::test]
    async fn a_name_is_resolved_until_nothing_receives_its_addresses() {
        let (sender, mut receiver) = watch::channel(BTreeSet::new());
        let task = tokio::spawn(server("localhost").watch_addresses(sender));
        tokio::time::timeout(Duration::from_secs(10), receiver.changed())
            .await
            .unwrap()
            .unwrap();
        assert!(receiver.borrow().iter().all(|address| address.ip().is_loopback()));
        drop(receiver);
        tokio::time::timeout(Duration::from_secs(10), task)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn a_name_that_is_resolved_late_is_known_then_and_its_last_answer_stays() {
        let first: BTreeSet<SocketAddr> = ["192.0.2.1:6443".parse().unwrap()].into();
        let second: BTreeSet<SocketAddr> = ["192.0.2.2:6443".parse().unwrap()].into();
        let answers = [None, Some(first.clone()), None, Some(second.clone())];
        let answers = Mutex::new(answers.into_iter().collect::<VecDeque<_>>());
        let resolve = || {
            let answer = answers.lock().unwrap().pop_front().flatten();
            std::future::ready(answer.ok_or_else(|| io::Error::other("no answer")))
        };
        let (sender, mut receiver) = watch::channel(BTreeSet::new());
        let server = server("api.example.com");
        let following = server.follow(sender, resolve);
        let seen = async {
            for expected in [first, second] {
                receiver.changed().await.unwrap();
                assert_eq!(*receiver.borrow_and_update(), expected);
            }
        };
        tokio::select! {
            () = following => panic!("it follows as long as something receives"),
            seen = tokio::time::timeout(Duration::from_secs(60), seen) => seen.unwrap(),
        }
    }
}
