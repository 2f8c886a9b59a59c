//! Whether another installation has this cluster. Two would decide against each other, and uninstalling one would take
//! the nodes of the other; so one neither leads nor retires where it is another's.
//!
//! Whose it is stands in what is published: the head of each location names the installation that published it, by namespace and
//! name, and only operators may write LocationSlices. Every installation renews the Lease `spanwire-operator` in its namespace;
//! who may write Leases in some namespace can do so too. In one namespace there is one such Lease, which names the installation
//! that has it. So:
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
//! created its Lease looks again after that: so of two that start at the same moment the later one sees the other. Of two in one
//! namespace the one whose Lease it is is the older one; the other takes it when it has not been renewed for
//! [`RENEWED_WITHIN`], also where it was given up, for an operator that is replaced by another of its installation gives it up.

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

use crate::installation::Installation;

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
    /// This one has a Lease, of which it is not known yet whether it means anything.
    Unknown(Installation),
    /// There is this one.
    Rival(Installation),
}

/// The Lease of an installation.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenLease {
    /// Whose it is.
    pub owner: Installation,
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
    /// The installations that published something.
    pub publishers: BTreeSet<Installation>,
    /// Whether anything is published, by whomever.
    pub published: bool,
}

/// What was observed of the Leases of other installations than one.
#[derive(Debug)]
pub struct Rivals {
    own: Installation,
    known: BTreeMap<String, (LeaseSpec, Instant)>,
    /// Since when a Lease that is renewed is all that there is.
    waiting_since: Option<Instant>,
}

impl Rivals {
    /// An observer for this installation.
    #[must_use]
    pub fn new(own: Installation) -> Self {
        Self {
            own,
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
            if namespace == NODE_LEASES || !self.counts(&lease.owner, seen) {
                continue;
            }
            match self.is_renewed(namespace, &lease.spec, now) {
                Some(false) => {}
                Some(true) if seen.published => return Verdict::Rival(lease.owner.clone()),
                Some(true) => {
                    let since = *self.waiting_since.get_or_insert(now);
                    if now.saturating_duration_since(since) < PATIENCE {
                        verdict = Verdict::Unknown(lease.owner.clone());
                    }
                }
                None => verdict = Verdict::Unknown(lease.owner.clone()),
            }
        }
        if seen.published {
            self.waiting_since = None;
        }
        verdict
    }

    /// Returns whether another installation would have the cluster if its Lease is renewed.
    fn counts(&self, other: &Installation, seen: &Seen) -> bool {
        if self.own.may_be(other) {
            return false;
        }
        let age = |of: &Installation| {
            let lease = seen.leases.get(&of.namespace)?;
            let is_theirs = of.may_be(&lease.owner);
            is_theirs.then(|| (lease.created, of.namespace.clone()))
        };
        let older = || age(&self.own).is_none_or(|own| age(other).is_some_and(|other| other < own));
        let published = |of: &Installation| seen.publishers.iter().any(|publisher| of.may_be(publisher));
        match (published(other), published(&self.own)) {
            (true, false) => true,
            (true, true) => older(),
            (false, _) => seen.publishers.is_empty() && older(),
        }
    }

    /// Returns whether a Lease is renewed; `None`: it is not known yet.
    fn is_renewed(&mut self, namespace: &str, lease: &LeaseSpec, now: Instant) -> Option<bool> {
        let given_up = lease.holder_identity.as_deref().unwrap_or_default().is_empty();
        if given_up && namespace != self.own.namespace {
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

    /// Looks until it is known whether the cluster is another installation's, to be left alone by this one, which is uninstalled;
    /// returns the other. What another one published is that one's also where it does not run just now; where this one published
    /// nothing, so is the cluster of whom the Lease of the namespace names.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn find(client: &Client, own: &Installation) -> Result<Option<Installation>, Error> {
        let mut rivals = Self::new(own.clone());
        loop {
            let seen = see(client).await?;
            match rivals.handle_uninstall(&seen, Instant::now()) {
                Verdict::Alone => return Ok(None),
                Verdict::Rival(other) => return Ok(Some(other)),
                Verdict::Unknown(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// Handles what is seen now by an installation that is uninstalled.
    fn handle_uninstall(&mut self, seen: &Seen, now: Instant) -> Verdict {
        let mut publishers = seen.publishers.iter();
        if publishers.any(|publisher| self.own.may_be(publisher)) {
            return self.handle(seen, now);
        }
        let of_namespace = seen.leases.get(&self.own.namespace).map(|lease| &lease.owner);
        let last = of_namespace.filter(|owner| !self.own.may_be(owner));
        match last.or_else(|| seen.publishers.first()) {
            Some(other) => Verdict::Rival(other.clone()),
            None if seen.published => self.handle(seen, now),
            None => Verdict::Alone,
        }
    }
}

async fn see(client: &Client) -> Result<Seen, Error> {
    let api: Api<Observed<Lease>> = Api::all(client.clone());
    // What may be listed is this name alone.
    let named = ListParams::default().fields(&format!("metadata.name={LEASE}"));
    let leases = api.list(&named).await?.items.into_iter();
    let lease = |lease: Observed<Lease>| {
        let owner = Installation::of_lease(&lease);
        let created = lease.metadata.creation_timestamp.map(|time| time.0);
        let spec = lease.object?.spec?;
        let namespace = lease.metadata.namespace?;
        Some((namespace, SeenLease { owner, created, spec }))
    };
    let leases = leases.filter_map(lease).collect();
    let api: Api<LocationSlice> = Api::all(client.clone());
    let heads = missing_is_empty(
        api.list_metadata(&ListParams::default().labels(INSTALLATION_LABEL))
            .await,
    )?;
    let labels = heads.into_iter().filter_map(|head| head.metadata.labels);
    let publishers: BTreeSet<Installation> = labels
        .filter_map(|labels| Installation::of_labels(&labels))
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
mod tests;
