//! Resolves the names of endpoints in the background, periodically. A name that cannot be resolved affects no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use spanwire_cluster::backoff::{Backoff, jittered};
use spanwire_topology::DnsName;
use tokio::{sync::mpsc, task::AbortHandle};

/// getaddrinfo(3) does not return the time to live of a record; names of dynamic addresses have a minute or less.
const AGAIN: Duration = Duration::from_secs(30);
/// A resolver that is down answers after 5 s by itself, twice (resolv.conf(5)).
const PATIENCE: Duration = Duration::from_secs(12);

/// The result for one name: its addresses, or why there are none.
pub type Resolved = (DnsName, Result<BTreeSet<IpAddr>, String>);

/// One task per name.
#[derive(Debug)]
pub struct Resolver {
    tasks: BTreeMap<DnsName, AbortHandle>,
    sender: mpsc::Sender<Resolved>,
}

impl Resolver {
    /// Returns a resolver without names, and the receiver of what changes.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Resolved>) {
        let (sender, receiver) = mpsc::channel(16);
        let tasks = BTreeMap::new();
        (Self { tasks, sender }, receiver)
    }

    /// Resolves these names from now on, and no others.
    pub fn want(&mut self, names: &BTreeSet<DnsName>) {
        self.tasks.retain(|name, task| {
            let wanted = names.contains(name);
            if !wanted {
                task.abort();
            }
            wanted
        });
        for name in names {
            let sender = &self.sender;
            let start = || tokio::spawn(resolve(name.clone(), sender.clone())).abort_handle();
            self.tasks.entry(name.clone()).or_insert_with(start);
        }
    }
}

async fn resolve(name: DnsName, sender: mpsc::Sender<Resolved>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), AGAIN);
    let mut last_reported = None;
    loop {
        let result = look_up(&name).await;
        let wait = match &result {
            Ok(_) => {
                backoff.reset();
                jittered(AGAIN)
            }
            Err(_) => jittered(backoff.wait()),
        };
        if last_reported.as_ref() != Some(&result) {
            last_reported = Some(result.clone());
            if sender.send((name.clone(), result)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(wait).await;
    }
}

async fn look_up(name: &DnsName) -> Result<BTreeSet<IpAddr>, String> {
    let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name.as_str(), 0))).await;
    let addresses: BTreeSet<IpAddr> = match found {
        Err(_) => return Err("the resolver does not answer".to_owned()),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
    };
    if addresses.is_empty() {
        Err("it has no address".to_owned())
    } else {
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_without_address_harms_no_other() {
        let (mut resolver, mut resolved) = Resolver::new();
        // An endpoint is not called localhost. So the resolver of the C library reads 127.0.0.1 (inet_aton(3)).
        let good = name("0x7f000001");
        let bad = name("nothing.invalid");
        resolver.want(&[good.clone(), bad.clone()].into());
        let mut results = BTreeMap::new();
        while results.len() < 2 {
            let (name, result) = resolved.recv().await.unwrap();
            results.insert(name, result);
        }
        assert!(results[&good].as_ref().unwrap().iter().all(IpAddr::is_loopback));
        assert!(results[&bad].is_err());
        resolver.want(&BTreeSet::new());
        assert!(resolver.tasks.is_empty());
    }

    fn name(text: &str) -> DnsName {
        let spanwire_topology::Endpoint {
            host: spanwire_topology::EndpointHost::Name(name),
            ..
        } = format!("{text}:1").parse().unwrap()
        else {
            unreachable!()
        };
        name
    }
}
