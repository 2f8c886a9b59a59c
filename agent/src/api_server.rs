//! Puts together where the API server is: as the agent reaches it, where it really runs, and as the kubelet reaches it.

use std::{collections::BTreeSet, future::pending, net::SocketAddr};

use spanwire_core::ApiServer;
use tokio::sync::watch;

use crate::kubelet::Found;

/// Addresses, now and when they change. Empty: not known yet.
pub type Addresses = watch::Receiver<BTreeSet<SocketAddr>>;

/// What says where the API server is.
pub struct Sources {
    /// As the agent reaches it.
    pub named: Addresses,
    /// As the kubelet reaches it.
    pub kubelet: watch::Receiver<Found>,
    /// Where it runs.
    pub endpoints: Addresses,
    /// The agent reaches it by its service, and so at its endpoints, without the mesh: before there was one. Else the user
    /// named an address, and the endpoints may have no other way than the mesh.
    pub by_service: bool,
}

impl Sources {
    /// Sends what is known, and again when it changes, until nothing receives it. What was known before stays until each of the
    /// sources was read once.
    pub async fn merge(mut self, server: watch::Sender<ApiServer>) {
        let mut before = server.borrow().clone();
        loop {
            let merged = self.merged(&mut before);
            server.send_if_modified(|known| {
                let changed = *known != merged;
                *known = merged;
                changed
            });
            tokio::select! {
                () = changed(&mut self.named) => {}
                () = changed(&mut self.kubelet) => {}
                () = changed(&mut self.endpoints) => {}
                () = server.closed() => return,
            }
        }
    }

    fn merged(&mut self, before: &mut ApiServer) -> ApiServer {
        let named = self.named.borrow_and_update().clone();
        let kubelet = self.kubelet.borrow_and_update().clone();
        let endpoints = self.endpoints.borrow_and_update().clone();
        if !named.is_empty() && kubelet.whole && !endpoints.is_empty() {
            *before = ApiServer::default();
        }
        let mut exempt: BTreeSet<SocketAddr> = named.into_iter().chain(kubelet.addresses).collect();
        exempt.extend(before.exempt.iter().copied());
        if self.by_service {
            exempt.extend(endpoints.iter().copied());
        }
        let endpoints = if endpoints.is_empty() {
            before.endpoints.clone()
        } else {
            endpoints
        };
        ApiServer { exempt, endpoints }
    }
}

/// Waits for a change; for ever where there can be no more of them.
async fn changed<T>(addresses: &mut watch::Receiver<T>) {
    if addresses.changed().await.is_err() {
        pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> BTreeSet<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn endpoints_are_exempt_where_the_agent_reaches_them_by_the_service() {
        const SERVICE: &str = "10.96.0.1:443";
        const ENDPOINT: &str = "192.0.2.1:6443";
        const KUBELET: &str = "192.0.2.9:6443";
        const BEFORE: &str = "198.51.100.1:1";
        for (by_service, exempt) in [
            (true, set(&[SERVICE, KUBELET, ENDPOINT])),
            (false, set(&[SERVICE, KUBELET])),
        ] {
            let before = ApiServer {
                exempt: set(&[BEFORE]),
                endpoints: set(&["198.51.100.2:1"]),
            };
            let (server, mut merged) = watch::channel(before);
            let [(named, of_named), (endpoints, of_endpoints)] =
                [(); 2].map(|()| watch::channel(BTreeSet::new()));
            let (kubelet, of_kubelet) = watch::channel(Found::default());
            let sources = Sources {
                named: of_named,
                kubelet: of_kubelet,
                endpoints: of_endpoints,
                by_service,
            };
            let merging = tokio::spawn(sources.merge(server));
            named.send_replace(set(&[SERVICE]));
            merged.changed().await.unwrap();
            let known = merged.borrow_and_update().clone();
            assert_eq!(known.exempt, set(&[SERVICE, BEFORE]), "the old ones stay");
            endpoints.send_replace(set(&[ENDPOINT]));
            merged.changed().await.unwrap();
            let known = merged.borrow_and_update().clone();
            assert!(
                known.exempt.contains(&BEFORE.parse().unwrap()),
                "the kubelet's are not known yet"
            );
            assert_eq!(known.endpoints, set(&[ENDPOINT]));
            let found = |whole| Found {
                addresses: set(&[KUBELET]),
                whole,
            };
            kubelet.send_replace(found(false));
            merged.changed().await.unwrap();
            let known = merged.borrow_and_update().clone();
            assert!(
                known.exempt.is_superset(&set(&[BEFORE, KUBELET])),
                "one of them is"
            );
            kubelet.send_replace(found(true));
            merged.changed().await.unwrap();
            let known = merged.borrow_and_update().clone();
            assert_eq!((known.exempt, known.endpoints), (exempt, set(&[ENDPOINT])));
            drop(merged);
            merging.await.unwrap();
        }
    }
}
