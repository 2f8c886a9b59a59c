//! Which published decision a node follows: never an older one than before, for as long as that makes sense.
//!
//! A source can show what is older than what the node follows: an API server that lags behind, one whose data were restored
//! from a backup, the first list after a restart of the agent. What is older is found for each object by itself, for the operator
//! writes one after the other, and every mixture of two decisions is a safe one:
//!
//! | the object | is older where |
//! |---|---|
//! | is the one that is followed, by its uid | the API server counts fewer changes of it (`metadata.generation`), and no generation of a decision in it is higher |
//! | has another uid than the one of that name that is followed | it was created earlier |
//!
//! So slices that are deleted and made again, and an installation after another one, begin at generation 1 again. A list with
//! something older is older as a whole: what it lacks is not deleted, and what only it has, and no decision after all that are
//! followed, is not new. That holds for LocationSlices and Peers apart. The node's own object is always the newest.
//!
//! What shows nothing older is believed, also where it lacks something: a slice that comes back may be one that was missed.
//!
//! An API server that was restored never shows again what the node follows. So what it shows is followed after all once
//! something of it has been older for [`PATIENCE`].
//!
//! Objects without a uid come from files, and are followed as they stand there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use spanwire_crds::{LocationSlice, Peer};
use spanwire_topology::NodeName;

use crate::snapshot::Snapshot;

/// For so long a node keeps to what is newer than what its source shows. API servers catch up within seconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a node follows.
#[derive(Debug)]
pub struct Following {
    me: NodeName,
    followed: Option<Arc<Snapshot>>,
    refused: Option<Refused>,
}

/// What is to be followed.
#[derive(Debug)]
pub struct Followed {
    /// The objects.
    pub snapshot: Arc<Snapshot>,
    /// They lack this node, which keeps to the decision before.
    pub unpublished: bool,
    /// The first object of which the source showed an older one, while it shows any.
    pub refused: Option<String>,
    /// The source has shown something older for so long that it is followed now.
    pub gives_in: bool,
}

/// Something older that the source shows.
#[derive(Debug)]
struct Refused {
    shown: Arc<Snapshot>,
    since: Instant,
    /// The object of which that was found first.
    first: String,
}

impl Following {
    /// Returns what follows what an agent before this one followed, where there was one.
    #[must_use]
    pub const fn new(me: NodeName, before: Option<Arc<Snapshot>>) -> Self {
        Self {
            me,
            followed: before,
            refused: None,
        }
    }

    /// Takes what the source shows, and returns what is to be followed.
    pub fn handle_shown(&mut self, shown: Arc<Snapshot>, now: Instant) -> Followed {
        let mut older = Vec::new();
        let newest = self.newest(&shown, &mut older);
        let before = self.refused.take();
        let since = before.as_ref().map_or(now, |refused| refused.since);
        let gives_in = !older.is_empty() && now >= since + PATIENCE;
        let to_follow = if gives_in { Arc::clone(&shown) } else { newest };
        if let Some(found) = older.into_iter().next().filter(|_| !gives_in) {
            let first = before.map_or(found, |refused| refused.first);
            self.refused = Some(Refused { shown, since, first });
        }
        let (snapshot, unpublished) = to_follow.or_before(self.followed.as_deref(), &self.me);
        self.followed = Some(Arc::clone(&snapshot));
        Followed {
            snapshot,
            unpublished,
            refused: self.refused.as_ref().map(|refused| refused.first.clone()),
            gives_in,
        }
    }

    /// Takes the present time. Returns what the source has shown where that is to be followed now: for [`Self::handle_shown`].
    #[must_use]
    pub fn handle_timeout(&self, now: Instant) -> Option<Arc<Snapshot>> {
        let due = self.poll_timeout().is_some_and(|due| due <= now);
        let refused = self.refused.as_ref().filter(|_| due);
        refused.map(|refused| Arc::clone(&refused.shown))
    }

    /// Returns when to call [`Self::handle_timeout`]; `None` while nothing is refused.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.refused.as_ref().map(|refused| refused.since + PATIENCE)
    }

    /// Forgets everything: whatever is shown next is followed.
    pub fn forget(&mut self) {
        (self.followed, self.refused) = (None, None);
    }

    /// Returns what is followed.
    #[must_use]
    pub const fn followed(&self) -> Option<&Arc<Snapshot>> {
        self.followed.as_ref()
    }

    /// Returns what is shown with what is followed in the place of what is older, and notes the names of that.
    fn newest(&self, shown: &Arc<Snapshot>, older: &mut Vec<String>) -> Arc<Snapshot> {
        let Some(followed) = &self.followed else {
            return Arc::clone(shown);
        };
        let slices = newest(&shown.slices, &followed.slices, older);
        let peers = newest(&shown.peers, &followed.peers, older);
        if older.is_empty() {
            return Arc::clone(shown);
        }
        Arc::new(Snapshot {
            slices,
            peers,
            node: shown.node.clone(),
        })
    }
}

type Objects<K> = BTreeMap<String, Arc<K>>;

/// What a decision is published in.
trait Published {
    const KIND: &'static str;

    fn metadata(&self) -> &ObjectMeta;

    /// Returns the latest decision that changed it, as far as it says so.
    fn decision(&self) -> u64;
}

impl Published for LocationSlice {
    const KIND: &'static str = "LocationSlice";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn decision(&self) -> u64 {
        let head = self.spec.head.iter().map(|head| head.mesh_generation);
        let members = self.spec.members.iter().map(|member| member.generation);
        head.chain(members).max().unwrap_or_default()
    }
}

impl Published for Peer {
    const KIND: &'static str = "Peer";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn decision(&self) -> u64 {
        0
    }
}

fn newest<K: Published>(shown: &Objects<K>, followed: &Objects<K>, older: &mut Vec<String>) -> Objects<K> {
    let is_old = |(name, object): &(&String, &Arc<K>)| {
        let known = followed.get(*name);
        known.is_some_and(|followed| is_older(object, followed))
    };
    let old: BTreeSet<&String> = shown.iter().filter(is_old).map(|(name, _)| name).collect();
    if old.is_empty() {
        return shown.clone();
    }
    older.extend(old.iter().map(|name| format!("{} {name}", K::KIND)));
    let latest = followed.values().map(|object| object.decision()).max();
    let is_newer = |(name, object): &(&String, &Arc<K>)| match followed.contains_key(*name) {
        true => !old.contains(*name),
        false => Some(object.decision()) > latest,
    };
    let newer = shown.iter().filter(is_newer);
    let mut newest = followed.clone();
    newest.extend(newer.map(|(name, object)| (name.clone(), Arc::clone(object))));
    newest
}

fn is_older<K: Published>(object: &Arc<K>, followed: &Arc<K>) -> bool {
    if Arc::ptr_eq(object, followed) {
        return false;
    }
    let (meta, other) = (object.metadata(), followed.metadata());
    if is_same(meta, other) {
        meta.generation < other.generation && object.decision() <= followed.decision()
    } else {
        is_created_earlier(meta, other)
    }
}

fn is_same(meta: &ObjectMeta, other: &ObjectMeta) -> bool {
    meta.uid.is_some() && meta.uid == other.uid
}

fn is_created_earlier(meta: &ObjectMeta, other: &ObjectMeta) -> bool {
    let created = |meta: &ObjectMeta| {
        let created = meta.creation_timestamp.as_ref()?.0;
        // One that cannot be read stands there as the latest of all.
        Some(created).filter(|created| *created != Timestamp::MAX)
    };
    let both = created(meta).zip(created(other));
    meta.uid.is_some() && other.uid.is_some() && both.is_some_and(|(one, other)| one < other)
}

#[cfg(test)]
mod tests;
