//! Which claims stand: networks and keys.
//!
//! A claim that stood in the decision before goes before one that did not: an edit never takes away what another object
//! uses, whichever is older. Then the older object goes first, then the lower name. Three exceptions, in which a claim goes
//! last:
//!
//! * What a node says of itself (addresses, annotated networks) goes behind the pod networks that it overlaps, because
//!   these are allocated. Where it stood before, only if it lies where pod networks are allocated anyway: else a node that
//!   could name its pod network itself would take the addresses of a LAN.
//! * Addresses of pods that nothing allocated go behind the addresses of nodes: both are what a kubelet says, and a node's own
//!   is known from the beginning. So do addresses that a node has borrowed from another's pod network.
//! * A stale Node object goes behind the living node that has come in its place ([`ClaimRequest::stale`]).
//!
//! Networks of one location may nest (a LAN in `cidrs` around its nodes' addresses; the longest match wins). Networks of
//! two locations, of a location and a Peer, or of two Peers may not overlap, but for a single address that a node has borrowed
//! out of a pod network of another node, wherever that is. Within one location one network has one node, and no node has an
//! address in a pod network.
//!
//! All claims are sorted once; a network sorts right before what it contains, so claims that may conflict are
//! neighbours: a *cluster* is a network that nothing else contains, with all that it contains. A cluster of one location
//! is granted whole, at the price of reading it. Only in mixed clusters is each claim weighed, in order of precedence,
//! against the outermost granted networks, which are disjoint and therefore found by binary search.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Claim, Claimant, Created, Family, LocationName, NodeName, PeerName, Prefix, PublicKey, RejectReason,
    Rejected,
};

/// Who claims, by reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClaimantRef<'a> {
    Node(&'a NodeName),
    Location(&'a LocationName),
    Peer(&'a PeerName),
}

impl ClaimantRef<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Node(name) => name.as_str(),
            Self::Location(name) => name.as_str(),
            Self::Peer(name) => name.as_str(),
        }
    }

    pub(crate) fn claimant(&self) -> Claimant {
        match self {
            Self::Node(name) => Claimant::Node((*name).clone()),
            Self::Location(name) => Claimant::Location((*name).clone()),
            Self::Peer(name) => Claimant::Peer((*name).clone()),
        }
    }
}

/// Within what networks may nest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain<'a> {
    Location(&'a LocationName),
    Peer(&'a PeerName),
}

/// As what a network is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Pods,
    Address,
    Cidr,
    AllowedIp,
}

/// One claim of a network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClaimRequest<'a> {
    pub(crate) prefix: Prefix,
    pub(crate) purpose: Purpose,
    pub(crate) by: ClaimantRef<'a>,
    pub(crate) domain: Domain<'a>,
    pub(crate) created: Created,
    /// It stood in the decision before.
    pub(crate) standing: bool,
    /// The claimant is a node that is down, and a living one that was made after it went down claims the same.
    pub(crate) stale: bool,
    /// It lies in a network from which pod networks are allocated.
    pub(crate) pooled: bool,
    /// It is a pod network that nothing allocated: the kubelet of the node reports the addresses of its pods.
    pub(crate) reported: bool,
    /// It is an address out of a pod network that another node has, or had.
    pub(crate) borrowed: bool,
    /// The claimant as an index of the nodes, where it is one.
    pub(crate) place: Option<usize>,
}

impl ClaimRequest<'_> {
    fn precedence(&self) -> (bool, bool, Created, &str, ClaimantRef<'_>) {
        (self.stale, !self.standing, self.created, self.by.name(), self.by)
    }

    fn of_member(&self) -> bool {
        matches!(self.purpose, Purpose::Pods | Purpose::Address)
    }

    /// Returns whether a node says it of itself.
    pub(crate) fn said(&self) -> bool {
        match self.purpose {
            Purpose::Address => true,
            Purpose::Cidr => matches!(self.by, ClaimantRef::Node(_)),
            Purpose::Pods | Purpose::AllowedIp => false,
        }
    }

    pub(crate) fn reject(&self, reason: RejectReason) -> Rejected {
        let claim = match self.purpose {
            Purpose::Pods => Claim::PodPrefix(self.prefix),
            Purpose::Address => Claim::NodeAddress(self.prefix),
            Purpose::Cidr => Claim::Cidr(self.prefix),
            Purpose::AllowedIp => Claim::AllowedIp(self.prefix),
        };
        Rejected {
            by: self.by.claimant(),
            claim,
            reason,
        }
    }
}

/// One claim of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRequest<'a> {
    pub(crate) key: PublicKey,
    pub(crate) by: ClaimantRef<'a>,
    pub(crate) created: Created,
    pub(crate) standing: bool,
    /// As [`ClaimRequest::stale`].
    pub(crate) stale: bool,
}

/// What was not granted.
#[derive(Debug, Default)]
pub(crate) struct Denied<'a>(BTreeSet<(ClaimantRef<'a>, Purpose, Prefix)>);

impl<'a> Denied<'a> {
    /// Returns whether every claim stands.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether this claim of a network stands.
    pub(crate) fn granted(&self, by: ClaimantRef<'a>, purpose: Purpose, prefix: Prefix) -> bool {
        self.0.is_empty() || !self.0.contains(&(by, purpose, prefix))
    }
}

/// Judges all claims of networks. `refusal` says what no object can have.
pub(crate) fn networks<'a>(
    requests: &[ClaimRequest<'a>],
    refusal: impl Fn(&ClaimRequest<'a>) -> Option<RejectReason>,
    rejected: &mut Vec<Rejected>,
) -> Denied<'a> {
    let mut denied = Denied::default();
    let mut deny = |request: &ClaimRequest<'a>, reason: RejectReason| {
        denied.0.insert((request.by, request.purpose, request.prefix));
        rejected.push(request.reject(reason));
    };
    let (mut v4, mut v6) = (Vec::with_capacity(requests.len()), Vec::new());
    for (index, request) in requests.iter().enumerate() {
        if let Some(reason) = refusal(request) {
            deny(request, reason);
            continue;
        }
        let place = u32::try_from(index).expect("memory ends before");
        let length = request.prefix.length();
        match request.prefix.range() {
            (Family::V4, first, _) => {
                let low = u64::try_from(first).expect("an IPv4 address has 32 bits");
                v4.push((low << 8 | u64::from(length), place));
            }
            (Family::V6, first, _) => v6.push((first, length, place)),
        }
    }
    // IPv4 networks fit into one number each, which sorts fastest.
    v4.sort_unstable();
    v6.sort_unstable();
    let v4: Vec<&ClaimRequest<'a>> = v4.iter().map(|(.., place)| &requests[*place as usize]).collect();
    let v6: Vec<&ClaimRequest<'a>> = v6.iter().map(|(.., place)| &requests[*place as usize]).collect();
    for sorted in [v4, v6] {
        let mut rest = &sorted[..];
        while let Some(outer) = rest.first() {
            let inside = |request: &&&ClaimRequest<'a>| outer.prefix.covers(&request.prefix);
            let (cluster, others) = rest.split_at(rest.iter().take_while(inside).count());
            rest = others;
            if !peaceful(cluster) {
                weigh(cluster, &mut deny);
            }
        }
    }
    denied
}

/// Returns whether a sorted cluster can be granted as it is.
fn peaceful(cluster: &[&ClaimRequest<'_>]) -> bool {
    let [first, rest @ ..] = cluster else {
        return true;
    };
    let mut last_of_member = first.of_member().then_some(first);
    let mut around = Around::default();
    around.enter(first);
    rest.iter().all(|request| {
        let shared = request.of_member()
            && last_of_member.is_some_and(|last| last.prefix == request.prefix && last.by != request.by);
        if request.of_member() {
            last_of_member = Some(request);
        }
        request.domain == first.domain && !shared && !around.enter(request)
    })
}

/// The outermost pod network, and the outermost network that a node says it has, on the way through a sorted cluster.
#[derive(Default)]
struct Around {
    pods: Option<Prefix>,
    said: Option<Prefix>,
}

impl Around {
    /// Returns whether the request lies in one of the other kind.
    fn enter(&mut self, request: &ClaimRequest<'_>) -> bool {
        let (own, other) = match (request.purpose, request.said()) {
            (Purpose::Pods, _) => (&mut self.pods, &self.said),
            (_, true) => (&mut self.said, &self.pods),
            (_, false) => return false,
        };
        let covers = |outer: &Option<Prefix>| outer.is_some_and(|outer| outer.covers(&request.prefix));
        let mixed = covers(other);
        if !covers(own) {
            *own = Some(request.prefix);
        }
        mixed
    }
}

fn weigh<'a>(cluster: &[&ClaimRequest<'a>], deny: &mut impl FnMut(&ClaimRequest<'a>, RejectReason)) {
    let mut pods = Outermost::default();
    let mut standing_pods = Outermost::default();
    let goes_last = |request: &ClaimRequest<'_>| request.reported || request.borrowed;
    let allocated = |request: &&&ClaimRequest<'_>| request.purpose == Purpose::Pods && !goes_last(request);
    for request in cluster.iter().filter(allocated) {
        pods.insert(request);
        if request.standing {
            standing_pods.insert(request);
        }
    }
    let yields = |request: &ClaimRequest<'_>| {
        let to = if request.standing && !request.pooled {
            &standing_pods
        } else {
            &pods
        };
        goes_last(request) || (request.said() && to.overlapping(request.prefix).next().is_some())
    };
    // What is borrowed goes behind what yields, too.
    let turn = |request: &ClaimRequest<'_>| (request.borrowed, yields(request));
    let mut order: Vec<_> = cluster.iter().map(|request| (turn(request), *request)).collect();
    order.sort_by(|(turn, a), (other, b)| (turn, a.precedence()).cmp(&(other, b.precedence())));
    let mut granted = Granted::default();
    for (_, request) in order {
        match granted.refusal(request) {
            Some(reason) => deny(request, reason),
            None => granted.insert(request),
        }
    }
}

/// The outermost networks of some claims; they are disjoint.
#[derive(Default)]
struct Outermost<'r, 'a>(BTreeMap<Prefix, &'r ClaimRequest<'a>>);

impl<'r, 'a> Outermost<'r, 'a> {
    fn around(&self, prefix: Prefix) -> Option<&'r ClaimRequest<'a>> {
        let (outer, request) = self.0.range(..=prefix).next_back()?;
        outer.covers(&prefix).then_some(*request)
    }

    fn inside(&self, prefix: Prefix) -> impl Iterator<Item = &'r ClaimRequest<'a>> {
        let inner = self.0.range(prefix..).map(|(_, request)| *request);
        inner.take_while(move |request| prefix.covers(&request.prefix))
    }

    fn overlapping(&self, prefix: Prefix) -> impl Iterator<Item = &'r ClaimRequest<'a>> {
        self.around(prefix).into_iter().chain(self.inside(prefix))
    }

    fn insert(&mut self, request: &'r ClaimRequest<'a>) {
        if self.around(request.prefix).is_none() {
            let swallowed: Vec<Prefix> = self.inside(request.prefix).map(|inner| inner.prefix).collect();
            for inner in swallowed {
                self.0.remove(&inner);
            }
            self.0.insert(request.prefix, request);
        }
    }
}

/// What is granted of a cluster.
#[derive(Default)]
struct Granted<'r, 'a> {
    /// All of it; all that lies inside one network is of its domain, but for borrowed addresses, which are judged last.
    all: Outermost<'r, 'a>,
    pods: Outermost<'r, 'a>,
    /// What nodes say of themselves.
    said: Outermost<'r, 'a>,
    /// The networks of members.
    members: BTreeMap<Prefix, &'r ClaimRequest<'a>>,
    /// The single addresses that are networks of locations.
    cidrs_of_one: BTreeMap<Prefix, &'r ClaimRequest<'a>>,
}

impl<'r, 'a> Granted<'r, 'a> {
    fn refusal(&self, request: &ClaimRequest<'a>) -> Option<RejectReason> {
        let taken = |winner: &'r ClaimRequest<'a>| RejectReason::Taken {
            holder: winner.by.claimant(),
            held: winner.prefix,
        };
        let namesake = self.members.get(&request.prefix).copied();
        let namesake = namesake.filter(|other| request.of_member() && other.by != request.by);
        let foreign = |other: &&ClaimRequest<'a>| other.domain != request.domain;
        let around = match self.is_lent(request) {
            true => self.cidrs_of_one.get(&request.prefix).copied().filter(foreign),
            false => self.all.overlapping(request.prefix).find(foreign),
        };
        if let Some(winner) = namesake.or(around) {
            return Some(taken(winner));
        }
        if request.said() {
            return self.pods.overlapping(request.prefix).next().map(pods);
        }
        let pods = request.purpose == Purpose::Pods;
        let said = pods
            .then(|| self.said.overlapping(request.prefix).next())
            .flatten();
        said.map(taken)
    }

    /// Returns whether it is borrowed out of a pod network of another node. Of what is around that all is of one domain.
    fn is_lent(&self, request: &ClaimRequest<'a>) -> bool {
        let lender = self.pods.around(request.prefix).filter(|_| request.borrowed);
        lender.is_some_and(|lender| !lender.borrowed && lender.by != request.by)
    }

    fn insert(&mut self, request: &'r ClaimRequest<'a>) {
        if request.purpose == Purpose::Cidr && request.prefix.is_host() {
            self.cidrs_of_one.insert(request.prefix, request);
        }
        if request.of_member() {
            self.members.insert(request.prefix, request);
        }
        if request.purpose == Purpose::Pods {
            self.pods.insert(request);
        }
        if request.said() {
            self.said.insert(request);
        }
        self.all.insert(request);
    }
}

fn pods(winner: &ClaimRequest<'_>) -> RejectReason {
    match winner.by {
        ClaimantRef::Node(node) => RejectReason::Pods(node.clone(), winner.prefix),
        by @ (ClaimantRef::Location(_) | ClaimantRef::Peer(_)) => RejectReason::Taken {
            holder: by.claimant(),
            held: winner.prefix,
        },
    }
}

/// Judges all claims of keys; the answer is who does not get the key that he claims.
pub(crate) fn keys<'a>(
    requests: &[KeyRequest<'a>],
    rejected: &mut Vec<Rejected>,
) -> BTreeSet<ClaimantRef<'a>> {
    let mut denied = BTreeSet::new();
    for mut group in twins(requests) {
        group.sort_unstable_by_key(|request| {
            (
                request.key,
                request.stale,
                !request.standing,
                request.created,
                request.by.name(),
                request.by,
            )
        });
        for same in group.chunk_by(|a, b| a.key == b.key) {
            let [winner, losers @ ..] = same else { continue };
            for loser in losers {
                denied.insert(loser.by);
                rejected.push(Rejected {
                    by: loser.by.claimant(),
                    claim: Claim::PublicKey(loser.key),
                    reason: RejectReason::KeyTaken(winner.by.claimant()),
                });
            }
        }
    }
    denied
}

/// Claims of keys that begin alike, in groups of at least two. Nearly no two keys do, so only their beginnings are
/// sorted.
fn twins<'r, 'a>(requests: &'r [KeyRequest<'a>]) -> Vec<Vec<&'r KeyRequest<'a>>> {
    let start = |key: &PublicKey| {
        key.as_bytes()
            .iter()
            .take(8)
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let mut starts: Vec<_> = requests
        .iter()
        .enumerate()
        .map(|(index, request)| (start(&request.key), index))
        .collect();
    starts.sort_unstable();
    let groups = starts.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1);
    groups
        .map(|group| group.iter().map(|(_, index)| &requests[*index]).collect())
        .collect()
}
