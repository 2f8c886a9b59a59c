//! Whether another installation has this cluster. Two would decide against each other, and uninstalling one would take
//! the nodes of the other; so one neither leads nor retires where it is another's.
//!
//! Whose it is stands in what is published: the head of each location names the namespace of the installation that
//! published it, and only operators may write LocationSlices. Every installation renews the Lease `spanwire-operator` in its
//! namespace; who may write Leases in some namespace can do so too. So:
//!
//! | published is | another installation counts |
//! |---|---|
//! | by this one | never |
//! | by that one | while its Lease is renewed |
//! | by both | while its Lease is renewed and is the older one |
//! | something that names none, by a version that did not | while its Lease is renewed and is the older one |
//! | nothing yet | the same, but only for [`PATIENCE`]: an operator that leads publishes within seconds |
//!
//! The API server says when a Lease was created; of two of the same second the first by namespace is the older one. A Lease
//! that is renewed no more is left from an installation that was killed, and means nothing. An installation that has just
//! created its Lease looks again after that: so of two that start at the same moment the later one sees the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    jiff::Timestamp,
};
use kube::{Api, Client, Error, api::ListParams};
use spanwire_cluster::observed::Observed;
use spanwire_crds::{LocationSlice, names::INSTALLATION_LABEL};

/// The name of the operators' Leases.
const LEASE: &str = spanwire_crds::names::OPERATOR_LEASE;
/// The namespace of the Leases of nodes, of which one may have that name.
const NODE_LEASES: &str = "kube-node-lease";
/// A Lease that stays the same for so long is not renewed; no less than its term.
pub const RENEWED_WITHIN: Duration = Duration::from_secs(15);
/// For so long it is waited for what a renewed Lease promises, while nothing is published: long enough for images to be pulled
/// and definitions to be established.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked while it is not known.
const AGAIN: Duration = Duration::from_secs(2);

/// What is seen of installations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is no other.
    Alone,
    /// Another one has a Lease in this namespace, of which it is not known yet whether it means anything.
    Unknown(String),
    /// There is one, in this namespace.
    Rival(String),
}

/// The Lease of an installation.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenLease {
    /// When it was created.
    pub created: Option<Timestamp>,
    /// What it says.
    pub spec: LeaseSpec,
}

/// What there is of installations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// All Leases of operators, by namespace.
    pub leases: BTreeMap<String, SeenLease>,
    /// The namespaces of the installations that published something.
    pub publishers: BTreeSet<String>,
    /// Whether anything is published, by whomever.
    pub published: bool,
}

/// What was observed of the Leases of other installations than that in one namespace.
#[derive(Debug)]
pub struct Rivals {
    own: String,
    known: BTreeMap<String, (LeaseSpec, Instant)>,
    /// Since when a Lease that is renewed is all that there is.
    waiting_since: Option<Instant>,
}

impl Rivals {
    /// An observer for the installation in this namespace.
    #[must_use]
    pub fn new(own: &str) -> Self {
        Self {
            own: own.to_owned(),
            known: BTreeMap::new(),
            waiting_since: None,
        }
    }

    /// Handles what is seen now.
    pub fn handle(&mut self, seen: &Seen, now: Instant) -> Verdict {
        self.known
            .retain(|namespace, _| seen.leases.contains_key(namespace));
        let mut verdict = Verdict::Alone;
        for (namespace, lease) in &seen.leases {
            if !self.counts(namespace, seen) {
                continue;
            }
            match self.is_renewed(namespace, &lease.spec, now) {
                Some(false) => {}
                Some(true) if seen.published => return Verdict::Rival(namespace.clone()),
                Some(true) => {
                    let since = *self.waiting_since.get_or_insert(now);
                    if now.saturating_duration_since(since) < PATIENCE {
                        verdict = Verdict::Unknown(namespace.clone());
                    }
                }
                None => verdict = Verdict::Unknown(namespace.clone()),
            }
        }
        if seen.published {
            self.waiting_since = None;
        }
        verdict
    }

    /// Returns whether the installation in a namespace would have the cluster if its Lease is renewed.
    fn counts(&self, namespace: &str, seen: &Seen) -> bool {
        if namespace == self.own || namespace == NODE_LEASES {
            return false;
        }
        let age = |namespace: &str| {
            let lease = seen.leases.get(namespace)?;
            Some((lease.created, namespace.to_owned()))
        };
        let older = || age(&self.own).is_none_or(|own| age(namespace).is_some_and(|other| other < own));
        let [theirs, ours] = [namespace, &self.own].map(|of| seen.publishers.contains(of));
        match (theirs, ours) {
            (true, false) => true,
            (true, true) => older(),
            (false, _) => seen.publishers.is_empty() && older(),
        }
    }

    /// Returns whether a Lease is renewed; `None`: it is not known yet.
    fn is_renewed(&mut self, namespace: &str, lease: &LeaseSpec, now: Instant) -> Option<bool> {
        if lease.holder_identity.as_deref().unwrap_or_default().is_empty() {
            self.known.remove(namespace);
            return Some(false);
        }
        let Some((known, since)) = self.known.get(namespace) else {
            self.known.insert(namespace.to_owned(), (lease.clone(), now));
            return None;
        };
        if known != lease {
            return Some(true);
        }
        (now.saturating_duration_since(*since) >= RENEWED_WITHIN).then_some(false)
    }

    /// Looks for other installations.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn look(&mut self, client: &Client) -> Result<Verdict, Error> {
        let seen = see(client).await?;
        Ok(self.handle(&seen, Instant::now()))
    }

    /// Looks until it is known whether the cluster is another installation's, to be left alone by the one in this namespace,
    /// which is uninstalled; returns its namespace. What another one published is that one's also where it does not run just now.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn find(client: &Client, namespace: &str) -> Result<Option<String>, Error> {
        let mut rivals = Self::new(namespace);
        loop {
            let seen = see(client).await?;
            if !seen.published {
                return Ok(None);
            }
            if !seen.publishers.contains(namespace)
                && let Some(other) = seen.publishers.first()
            {
                return Ok(Some(other.clone()));
            }
            match rivals.handle(&seen, Instant::now()) {
                Verdict::Alone => return Ok(None),
                Verdict::Rival(namespace) => return Ok(Some(namespace)),
                Verdict::Unknown(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

async fn see(client: &Client) -> Result<Seen, Error> {
    let api: Api<Observed<Lease>> = Api::all(client.clone());
    // What may be listed is this name alone.
    let named = ListParams::default().fields(&format!("metadata.name={LEASE}"));
    let leases = api.list(&named).await?.items.into_iter();
    let lease = |lease: Observed<Lease>| {
        let created = lease.metadata.creation_timestamp.map(|time| time.0);
        let spec = lease.object?.spec?;
        Some((lease.metadata.namespace?, SeenLease { created, spec }))
    };
    let leases = leases.filter_map(lease).collect();
    let api: Api<LocationSlice> = Api::all(client.clone());
    let heads = missing_is_empty(
        api.list_metadata(&ListParams::default().labels(INSTALLATION_LABEL))
            .await,
    )?;
    let labels = heads.into_iter().filter_map(|head| head.metadata.labels);
    let publishers: BTreeSet<String> = labels
        .filter_map(|mut labels| labels.remove(INSTALLATION_LABEL))
        .collect();
    let published = !publishers.is_empty()
        || !missing_is_empty(api.list_metadata(&ListParams::default().limit(1)).await)?.is_empty();
    Ok(Seen {
        leases,
        publishers,
        published,
    })
}

/// Where the definition is missing nothing is published.
fn missing_is_empty<T: Clone>(listed: Result<kube::core::ObjectList<T>, Error>) -> Result<Vec<T>, Error> {
    match listed {
        Ok(list) => Ok(list.items),
        Err(Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A holder of a Lease, the number of its renewals, when the Lease was created.
    type Leased<'a> = (&'a str, i32, i64);

    fn seen(leases: &[Leased<'_>], publishers: &[&str], published: bool) -> Seen {
        let lease = |(namespace, renewals, created): &Leased<'_>| {
            let spec = LeaseSpec {
                holder_identity: Some("x".to_owned()).filter(|_| *renewals >= 0),
                lease_transitions: Some(*renewals),
                ..LeaseSpec::default()
            };
            let created = Some(Timestamp::from_second(*created).unwrap());
            ((*namespace).to_owned(), SeenLease { created, spec })
        };
        Seen {
            leases: leases.iter().map(lease).collect(),
            publishers: publishers.iter().map(|of| (*of).to_owned()).collect(),
            published: published || !publishers.is_empty(),
        }
    }

    /// What is found of another Lease that is renewed all the time.
    fn found(other: (&str, i64), own: Option<i64>, publishers: &[&str], published: bool) -> Verdict {
        let (mut rivals, start) = (Rivals::new("own"), Instant::now());
        let at = |renewals| {
            let own = own.map(|created| ("own", 0, created));
            let leases: Vec<Leased<'_>> = own.into_iter().chain([(other.0, renewals, other.1)]).collect();
            seen(&leases, publishers, published)
        };
        rivals.handle(&at(0), start);
        rivals.handle(&at(1), start + AGAIN)
    }

    #[test]
    fn whose_the_cluster_is_stands_in_what_is_published() {
        let rival = Verdict::Rival("b".to_owned());
        for own in [None, Some(1), Some(3)] {
            assert_eq!(found(("b", 2), own, &["own"], true), Verdict::Alone, "{own:?}");
            assert_eq!(found(("b", 2), own, &["b"], true), rival, "{own:?}");
            assert_eq!(found(("b", 2), own, &["c"], true), Verdict::Alone, "{own:?}");
        }
        for publishers in [&["b", "own"][..], &[]] {
            assert_eq!(found(("b", 2), Some(3), publishers, true), rival);
            assert_eq!(found(("b", 2), Some(1), publishers, true), Verdict::Alone);
            assert_eq!(
                found(("b", 2), Some(2), publishers, true),
                rival,
                "the first by name"
            );
            assert_eq!(found(("z", 2), Some(2), publishers, true), Verdict::Alone);
        }
        assert_eq!(found(("b", 2), None, &[], true), rival, "an older version");
        assert_eq!(found((NODE_LEASES, 2), None, &[], true), Verdict::Alone);
    }

    #[test]
    fn a_lease_that_is_renewed_while_nothing_is_published_delays_and_does_not_prevent() {
        let (mut rivals, start) = (Rivals::new("own"), Instant::now());
        let forged = |renewals| seen(&[("forged", renewals, 1)], &[], false);
        let unknown = Verdict::Unknown("forged".to_owned());
        for second in 0..60 {
            let now = start + Duration::from_secs(u64::try_from(second).unwrap());
            assert_eq!(rivals.handle(&forged(second), now), unknown, "{second}");
        }
        let later = start + PATIENCE + AGAIN;
        assert_eq!(rivals.handle(&forged(61), later), Verdict::Alone);
        let created = seen(&[("forged", 62, 1), ("own", 0, 60)], &[], false);
        assert_eq!(rivals.handle(&created, later + AGAIN), Verdict::Alone);
        let published = seen(&[("forged", 63, 1), ("own", 0, 60)], &["own"], true);
        assert_eq!(rivals.handle(&published, later + 2 * AGAIN), Verdict::Alone);
        assert_eq!(
            Rivals::new("own").handle(&published, later),
            Verdict::Alone,
            "started again"
        );
    }

    #[test]
    fn of_two_that_start_at_the_same_moment_one_leads() {
        for (one, other) in [(1, 2), (2, 1), (1, 1)] {
            let (mut a, mut b) = (Rivals::new("a"), Rivals::new("b"));
            let start = Instant::now();
            let both = |renewals| seen(&[("a", renewals, one), ("b", renewals, other)], &[], false);
            let [a, b] = [&mut a, &mut b].map(|rivals| {
                rivals.handle(&both(0), start);
                rivals.handle(&both(1), start + AGAIN)
            });
            let leads = [&a, &b].map(|verdict| *verdict == Verdict::Alone);
            assert_eq!(leads, [one <= other, one > other], "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_lease_that_was_given_up_or_is_not_renewed_means_nothing() {
        let (mut rivals, start) = (Rivals::new("own"), Instant::now());
        let released = seen(&[("first", -1, 1)], &["first"], true);
        assert_eq!(rivals.handle(&released, start), Verdict::Alone);
        let left = seen(&[("first", 0, 1)], &["first"], true);
        let unknown = Verdict::Unknown("first".to_owned());
        assert_eq!(rivals.handle(&left, start), unknown);
        assert_eq!(rivals.handle(&left, start + RENEWED_WITHIN / 2), unknown);
        assert_eq!(rivals.handle(&left, start + RENEWED_WITHIN), Verdict::Alone);
    }
}
