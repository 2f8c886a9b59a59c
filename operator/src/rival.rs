//! Whether another installation runs in this cluster. Two would decide against each other, and uninstalling one would take
//! the nodes of the other; so the one that comes later neither leads nor retires.
//!
//! Every installation has the Lease `spanwire-operator` in its namespace. One in another namespace that is older than the own
//! and is renewed is the sign of an installation that was here before; one that is renewed no more is left from one
//! that was killed, and means nothing. The API server says when a Lease was created. So who may write Leases in some other
//! namespace does not keep an installation that runs from leading again, or from retiring its nodes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, Client, Error,
    api::{ListParams, ObjectMeta},
};
use spanwire_cluster::observed::Observed;

/// The name of the operators' Leases.
const LEASE: &str = spanwire_crds::names::OPERATOR_LEASE;
/// The namespace of the Leases of nodes, of which one may have that name.
const NODE_LEASES: &str = "kube-node-lease";
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
        let leases = api.list(&named).await?.items;
        Ok(self.handle_leases(before(leases, namespace), Instant::now()))
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

/// Returns what the Leases say that were there before the one in `namespace`, by namespace: all where there is none.
fn before(leases: Vec<Observed<Lease>>, namespace: &str) -> BTreeMap<String, LeaseSpec> {
    // Of two created in the same second the first by name.
    let age = |lease: &Observed<Lease>| {
        let ObjectMeta {
            creation_timestamp,
            namespace,
            ..
        } = &lease.metadata;
        (creation_timestamp.as_ref().map(|time| time.0), namespace.clone())
    };
    let is_own = |lease: &Observed<Lease>| lease.metadata.namespace.as_deref() == Some(namespace);
    let own = leases.iter().find(|lease| is_own(lease)).map(age);
    let older = leases
        .into_iter()
        .filter(|lease| !is_own(lease) && own.as_ref().is_none_or(|own| age(lease) < *own));
    let spec = |lease: Observed<Lease>| Some((lease.metadata.namespace?, lease.object?.spec?));
    older
        .filter_map(spec)
        .filter(|(of, _)| of != NODE_LEASES)
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    fn created(namespace: &str, second: i64) -> Observed<Lease> {
        Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                namespace: Some(namespace.to_owned()),
                creation_timestamp: Some(Time(Timestamp::from_second(second).unwrap())),
                ..ObjectMeta::default()
            },
            spec: Some(lease(namespace, 0)),
        }
        .into()
    }

    #[test]
    fn what_came_later_and_what_a_node_renews_is_no_rival() {
        let rivals = |others: &[(&str, i64)]| -> Vec<String> {
            let leases = others
                .iter()
                .map(|(namespace, second)| created(namespace, *second));
            before(leases.collect(), "own").into_keys().collect()
        };
        let others = [("first", 1), ("forged", 3), (NODE_LEASES, 1)];
        assert_eq!(
            rivals(&others),
            ["first", "forged"],
            "there is none of its own yet"
        );
        assert_eq!(rivals(&[&others[..], &[("own", 2)]].concat()), ["first"]);
        assert_eq!(rivals(&[("mine", 2), ("own", 2), ("zone", 2)]), ["mine"]);
    }

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
