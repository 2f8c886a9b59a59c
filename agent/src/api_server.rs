//! Puts together where the API server is: as the agent reaches it, where it really runs, and as the kubelet reaches it.

use std::{collections::BTreeSet, future::pending, net::SocketAddr};

use spanwire_core::ApiServer;
use tokio::sync::watch;

/// Addresses, now and when they change. Empty: not known yet.
pub type Addresses = watch::Receiver<BTreeSet<SocketAddr>>;

/// What says where the API server is.
pub struct Sources {
    /// As the agent reaches it.
    pub named: Addresses,
    /// As the kubelet reaches it.
    pub kubelet: Addresses,
    /// Where it runs.
    pub endpoints: Addresses,
    /// The agent reaches it by its service, and so at its endpoints, without the mesh: before there was one. Else the user
    /// named an address, and the endpoints may have no other way than the mesh.
    pub by_service: bool,
}

impl Sources {
    /// Sends what is known, and again when it changes, until nothing receives it. What was known before stays until the
    /// endpoints are known.
    pub async fn merge(mut self, server: watch::Sender<ApiServer>) {
        let before = server.borrow().clone();
        loop {
            let merged = self.merged(&before);
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

    fn merged(&mut self, before: &ApiServer) -> ApiServer {
        let mut exempt = self.named.borrow_and_update().clone();
        exempt.extend(self.kubelet.borrow_and_update().iter().copied());
        let endpoints = self.endpoints.borrow_and_update().clone();
        if endpoints.is_empty() {
            exempt.extend(before.exempt.iter().copied());
            return ApiServer {
                exempt,
                endpoints: before.endpoints.clone(),
            };
        }
        if self.by_service {
            exempt.extend(endpoints.iter().copied());
        }
        ApiServer { exempt, endpoints }
    }
}

/// Waits for a change; for ever where there can be no more of them.
async fn changed(addresses: &mut Addresses) {
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
        for (by_service, exempt) in [
            (true, set(&[SERVICE, KUBELET, ENDPOINT])),
            (false, set(&[SERVICE, KUBELET])),
        ] {
            let before = ApiServer {
                exempt: set(&["198.51.100.1:1"]),
                endpoints: set(&["198.51.100.2:1"]),
            };
            let (server, mut merged) = watch::channel(before);
            let [
                (named, of_named),
                (kubelet, of_kubelet),
                (endpoints, of_endpoints),
            ] = [(); 3].map(|()| watch::channel(BTreeSet::new()));
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
            assert_eq!(
                known.exempt,
                set(&[SERVICE, "198.51.100.1:1"]),
                "the old ones stay"
            );
            kubelet.send_replace(set(&[KUBELET]));
            merged.changed().await.unwrap();
            merged.mark_unchanged();
            endpoints.send_replace(set(&[ENDPOINT]));
            merged.changed().await.unwrap();
            let known = merged.borrow_and_update().clone();
            assert_eq!((known.exempt, known.endpoints), (exempt, set(&[ENDPOINT])));
            drop(merged);
            merging.await.unwrap();
        }
    }
}
