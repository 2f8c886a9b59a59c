//! Leases of leaders, and what agents say of them.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{ResourceExt as _, runtime::watcher::Event};
use serde_json::json;
use spanwire_crds::Link;

use super::{World, now};

impl World {
    pub(crate) fn renew(&mut self, second: u64) {
        self.renew_but(second, "");
    }

    /// A second passes; the operator and all leaders but one renew their Leases.
    pub(crate) fn renew_but(&mut self, second: u64, silent: &str) {
        self.renew_where(second, |node| node != silent);
    }

    /// A second passes; the operator renews its Lease, and so do these of the leaders.
    pub(crate) fn renew_where(&mut self, second: u64, renews: impl Fn(&str) -> bool) {
        self.second = second;
        let own = Lease {
            metadata: ObjectMeta {
                name: Some("spanwire-operator".to_owned()),
                ..ObjectMeta::default()
            },
            spec: None,
        };
        self.state
            .handle_lease(Event::Apply(own.into()), now(second).monotonic);
        for node in self.leaders().into_values().flatten() {
            if renews(&node) {
                self.lease(&node, second);
            }
        }
        self.state.handle_timeout(now(second).monotonic);
    }

    pub(super) fn lease(&mut self, node: &str, second: u64) {
        let time = Timestamp::from_second(1_000_000 + i64::try_from(second).unwrap()).unwrap();
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(format!("spanwire-leader-{node}")),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(node.to_owned()),
                lease_duration_seconds: Some(40),
                renew_time: Some(MicroTime(time)),
                ..LeaseSpec::default()
            }),
        };
        self.leases.insert(lease.name_any(), lease.clone());
        self.state
            .handle_lease(Event::Apply(lease.into()), now(second).monotonic);
    }

    /// A person deletes all of them.
    pub(crate) fn delete_leases(&mut self) {
        for lease in std::mem::take(&mut self.leases).into_values() {
            self.state
                .handle_lease(Event::Delete(lease.into()), now(self.second).monotonic);
        }
    }

    /// A watch that starts delivers those that there are.
    pub(super) fn list_leases(&mut self) {
        let now = now(self.second).monotonic;
        self.state.handle_lease(Event::Init, now);
        for lease in self.leases.values() {
            self.state
                .handle_lease(Event::InitApply(lease.clone().into()), now);
        }
        self.state.handle_lease(Event::InitDone, now);
    }

    /// What agents do who follow: those that lead have a tunnel to each other location, and say so; these say that their Lease is
    /// refused.
    pub(crate) fn follow(&mut self, refused: &BTreeSet<String>) {
        let leaders = self.leaders();
        let nodes: Vec<String> = self.reports.keys().cloned().collect();
        for node in nodes {
            let own = leaders.iter().find(|(_, nodes)| nodes.contains(&node));
            let others = leaders
                .keys()
                .filter(|name| own.is_some_and(|(own, _)| own != *name));
            let link = |location: &String| Link {
                location: location.clone(),
                up: true,
            };
            let links: Vec<Link> = others.map(link).collect();
            let condition = json!({
                "type": "LeaseRenewed", "status": "False", "reason": "LeaseRefused", "message": "leases is forbidden",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            let said = refused
                .contains(&node)
                .then(|| serde_json::from_value(condition).unwrap());
            let mut report = self.reports[&node].clone();
            report.links = links;
            report.conditions = said.into_iter().collect();
            if report != self.reports[&node] {
                self.reports.insert(node.clone(), report);
                self.send_report(&node);
            }
        }
    }
}
