//! Where machines that join find the API server: the ConfigMap `kube-public/cluster-info`, which kubeadm writes, a kubeconfig. Behind
//! a virtual address or a balancer nothing else in the API names what kubelets use.

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

use kube::{Client, api::GetParams, core::Request};
use serde_json::Value;
use spanwire_cluster::{
    backoff::jittered,
    kubeconfig::{self, Servers},
};
use tokio::{sync::watch, time};

use crate::services::refused;

/// How often it is read, and the names in it resolved.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// The same until the API server has answered.
const AWAY: Duration = Duration::from_secs(1);

const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-public/configmaps";
const NAME: &str = "cluster-info";

/// Sends the addresses of its servers, now and when they change, until nothing receives them; the first time also where there is no such
/// object, or it cannot be read. What cannot be read changes nothing.
pub async fn follow(client: Client, interval: Duration, addresses: watch::Sender<BTreeSet<SocketAddr>>) {
    let mut info = Info::default();
    let mut answered = false;
    while !addresses.is_closed() {
        let read = read(&client).await;
        // An API server that is away is reported by the watches.
        let away = read.as_ref().is_err_and(|error| !refused(error));
        if !away {
            let read = read.map_err(|error| error.to_string());
            if let Some(cause) = info.enter(read, kubeconfig::resolve).await {
                tracing::warn!(
                    cause,
                    "where the ConfigMap kube-public/cluster-info says that the API server is reached is not known, and not \
                     guarded but for what was known before"
                );
            }
            let first = !std::mem::replace(&mut answered, true);
            addresses.send_if_modified(|known| {
                let found: BTreeSet<SocketAddr> = info.servers.addresses().collect();
                let changed = *known != found;
                *known = found;
                changed || first
            });
        }
        // The operator waits for the first answer.
        let pause = if answered { interval } else { interval.min(AWAY) };
        time::sleep(jittered(pause)).await;
    }
}

/// What the ConfigMap said.
#[derive(Default)]
struct Info {
    servers: Servers,
    complaint: Option<String>,
}

impl Info {
    /// Enters what was read, a kubeconfig where there is one; returns what is new of what is wrong.
    async fn enter<F: Future<Output = io::Result<Vec<SocketAddr>>>>(
        &mut self,
        read: Result<Option<String>, String>,
        resolve: impl Fn(String, u16) -> F,
    ) -> Option<String> {
        let cause = match read {
            Ok(Some(text)) => self.servers.read(&text, resolve).await.err(),
            Ok(None) => {
                self.servers = Servers::default();
                None
            }
            Err(cause) => Some(cause),
        };
        let news = cause.clone().filter(|_| cause != self.complaint);
        self.complaint = cause;
        news
    }
}

/// Returns the kubeconfig; none where there is no such object. Of the metadata nothing is used.
async fn read(client: &Client) -> Result<Option<String>, kube::Error> {
    let request = Request::new(CONFIG_MAPS).get(NAME, &GetParams::default());
    let request = request.map_err(kube::Error::BuildRequest)?;
    match client.request::<Value>(request).await {
        Ok(object) => Ok(object["data"]["kubeconfig"].as_str().map(str::to_owned)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(host: &str) -> Result<Option<String>, String> {
        Ok(Some(format!(
            "clusters: [{{name: '', cluster: {{server: 'https://{host}:6443'}}}}]"
        )))
    }

    async fn resolver(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        let address = match host.as_str() {
            "vip" => [192, 168, 1, 9],
            "other" => [192, 168, 1, 10],
            _ => return Err(io::Error::other("no answer")),
        };
        Ok(vec![SocketAddr::new(address.into(), port)])
    }

    #[tokio::test]
    async fn of_several_clusters_each_server_counts_and_a_name_that_is_not_resolved_keeps_what_it_was() {
        let several = Ok(Some(
            "clusters: [{cluster: {server: 'https://[2001:db8::9]:6443'}}, {cluster: {server: 'https://both'}}, \
             {cluster: {server: 'https://198.51.100.7'}}]"
                .to_owned(),
        ));
        let answers = |both: Option<[&'static str; 2]>| {
            move |host: String, port: u16| async move {
                let found = match host.parse::<std::net::IpAddr>() {
                    Ok(address) => vec![address],
                    Err(_) => both
                        .ok_or_else(|| io::Error::other("no answer"))?
                        .map(|address| address.parse().unwrap())
                        .to_vec(),
                };
                Ok(found
                    .into_iter()
                    .map(|address| SocketAddr::new(address, port))
                    .collect())
            }
        };
        let mut info = Info::default();
        for (both, news, expected) in [
            (
                None,
                Some("both: no answer"),
                "[2001:db8::9]:6443 198.51.100.7:443",
            ),
            (
                Some(["192.0.2.1", "2001:db8::1"]),
                None,
                "[2001:db8::9]:6443 198.51.100.7:443 192.0.2.1:443 [2001:db8::1]:443",
            ),
            (
                None,
                Some("both: no answer"),
                "[2001:db8::9]:6443 198.51.100.7:443 192.0.2.1:443 [2001:db8::1]:443",
            ),
            (
                Some(["192.0.2.2", "192.0.2.1"]),
                None,
                "[2001:db8::9]:6443 198.51.100.7:443 192.0.2.1:443 192.0.2.2:443",
            ),
        ] {
            let said = info.enter(several.clone(), answers(both)).await;
            let expected: BTreeSet<SocketAddr> =
                expected.split(' ').map(|text| text.parse().unwrap()).collect();
            let found: BTreeSet<SocketAddr> = info.servers.addresses().collect();
            assert_eq!((said.as_deref(), found), (news, expected));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_said_once_and_changes_nothing_and_what_is_gone_names_nothing() {
        let mut info = Info::default();
        let found = |info: &Info| {
            info.servers
                .addresses()
                .map(|found| found.to_string())
                .collect::<Vec<_>>()
        };
        for (read, news, expected) in [
            (Ok(None), None, vec![]),
            (config("vip"), None, vec!["192.168.1.9:6443"]),
            (
                Err("forbidden".to_owned()),
                Some("forbidden"),
                vec!["192.168.1.9:6443"],
            ),
            (Err("forbidden".to_owned()), None, vec!["192.168.1.9:6443"]),
            (
                Ok(Some("[".to_owned())),
                Some("it is no kubeconfig"),
                vec!["192.168.1.9:6443"],
            ),
            (config("other"), None, vec!["192.168.1.10:6443"]),
            (config("away"), Some("away: no answer"), vec![]),
            (config("away"), None, vec![]),
            (config("vip"), None, vec!["192.168.1.9:6443"]),
            (Ok(None), None, vec![]),
        ] {
            let said = info.enter(read, resolver).await;
            assert_eq!(
                (said.as_deref(), found(&info)),
                (news, expected.into_iter().map(str::to_owned).collect())
            );
        }
    }
}
