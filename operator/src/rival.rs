//! Whether another installation runs in this cluster. Two would decide against each other, and uninstalling one would take
//! the nodes of the other; so the one that comes later neither leads nor retires.
//!
//! Every installation has the Lease `spanwire-operator` in its namespace. One in another namespace that is renewed is the
//! sign of another installation; one that nobody renews any more is left from one that was killed, and means nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{Api, Client, Error, api::ListParams};
use spanwire_cluster::observed::Observed;

/// The name of the operators' Leases.
const LEASE: &str = spanwire_crds::names::OPERATOR_LEASE;
/// A Lease that stays the same for so long is not renewed; no less than its term.
pub const RENEWED_WITHIN: Duration = Duration::from_secs(15);
/// How often it is looked while it is not known.
const AGAIN: Duration = Duration::from_secs(2);

/// What the Leases of other installations show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is no other.
    Alone,
    /// A Lease is there of which it is not known yet whether it is renewed.
    Unknown,
    /// There is one, in this namespace.
    Rival(String),
}

/// What was observed of the Leases of other installations.
#[derive(Debug, Default)]
pub struct Rivals {
    seen: BTreeMap<String, (LeaseSpec, Instant)>,
}

impl Rivals {
    /// Handles all Leases of operators in other namespaces, by namespace.
    pub fn handle_leases(&mut self, leases: BTreeMap<String, LeaseSpec>, now: Instant) -> Verdict {
        self.seen.retain(|namespace, _| leases.contains_key(namespace));
        let mut verdict = Verdict::Alone;
        for (namespace, lease) in leases {
            if lease.holder_identity.as_deref().unwrap_or_default().is_empty() {
                self.seen.remove(&namespace);
                continue;
            }
            let Some((known, since)) = self.seen.get(&namespace) else {
                self.seen.insert(namespace, (lease, now));
                verdict = Verdict::Unknown;
                continue;
            };
            if *known != lease {
                return Verdict::Rival(namespace);
            }
            if now.saturating_duration_since(*since) < RENEWED_WITHIN {
                verdict = Verdict::Unknown;
            }
        }
        verdict
    }

    /// Reads the Leases of other installations than that in `namespace`.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn look(&mut self, client: &Client, namespace: &str) -> Result<Verdict, Error> {
        let api: Api<Observed<Lease>> = Api::all(client.clone());
        // What may be listed is this name alone.
        let named = ListParams::default().fields(&format!("metadata.name={LEASE}"));
        let leases = api.list(&named).await?.items.into_iter();
        let others = leases.filter_map(|lease| {
            let of = lease.metadata.namespace?;
            Some((of, lease.object?.spec?)).filter(|(of, _)| of != namespace)
        });
        Ok(self.handle_leases(others.collect(), Instant::now()))
    }

    /// Looks until it is known whether there is another installation; returns its namespace.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn find(client: &Client, namespace: &str) -> Result<Option<String>, Error> {
        let mut rivals = Self::default();
        loop {
            match rivals.look(client, namespace).await? {
                Verdict::Alone => return Ok(None),
                Verdict::Rival(namespace) => return Ok(Some(namespace)),
                Verdict::Unknown => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    fn leases(leases: &[(&str, LeaseSpec)]) -> BTreeMap<String, LeaseSpec> {
        let leases = leases.iter().cloned();
        leases.map(|(of, lease)| (of.to_owned(), lease)).collect()
    }

    #[test]
    fn a_lease_that_is_renewed_elsewhere_is_a_rival() {
        let (mut rivals, start) = (Rivals::default(), Instant::now());
        assert_eq!(rivals.handle_leases(leases(&[]), start), Verdict::Alone);
        let first = leases(&[("dead", lease("x", 0)), ("first", lease("a", 0))]);
        assert_eq!(rivals.handle_leases(first.clone(), start), Verdict::Unknown);
        let later = start + Duration::from_secs(2);
        assert_eq!(rivals.handle_leases(first, later), Verdict::Unknown);
        let renewed = leases(&[("dead", lease("x", 0)), ("first", lease("a", 1))]);
        let rival = Verdict::Rival("first".to_owned());
        assert_eq!(rivals.handle_leases(renewed, later), rival);
    }

    #[test]
    fn a_lease_that_was_given_up_or_is_not_renewed_means_nothing() {
        let (mut rivals, start) = (Rivals::default(), Instant::now());
        let released = leases(&[("first", lease("", 0))]);
        assert_eq!(rivals.handle_leases(released, start), Verdict::Alone);
        let left = leases(&[("first", lease("a", 0))]);
        assert_eq!(rivals.handle_leases(left.clone(), start), Verdict::Unknown);
        assert_eq!(rivals.handle_leases(left, start + RENEWED_WITHIN), Verdict::Alone);
    }
}
