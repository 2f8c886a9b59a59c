//! Types and reasons of conditions, and of the Events that go with them. They stand here and nowhere else.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// The longest message of a condition, in bytes; the schema counts characters.
pub const LONGEST_MESSAGE: usize = 4096;

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// Of a Location: it has a leader and is connected. Of a Peer: some location has a tunnel for it. Of a MeshNode:
    /// its agent does all that is asked of it.
    Ready,
    /// Of a Location: a node leads it.
    LeaderElected,
    /// Of a Location: its traffic with every other location is in the tunnel.
    Connected,
    /// Of a Location or a Peer: everything that the object asks for was granted. Of a MeshNode: everything that its Node and
    /// its agent claim; only where that once was not so.
    Accepted,
    /// Of a MeshNode: the API server's endpoints that lie in prefixes of other locations are reached without the mesh.
    ApiServerPastMesh,
    /// Of a Location: it is known which networks the pods of its nodes have, and from where.
    PodNetworks,
    /// Of a MeshNode that leads: other leaders can begin a session with it. Only said where its own firewall forbids it.
    PortOpen,
    /// Of a MeshNode: its agent can renew its Lease as a leader. Of a Location: the Leases of its leaders are renewed. Only said
    /// where that is not so.
    LeaseRenewed,
    /// Of a MeshNode that leads: it has a session with each leader of the locations that it reaches. Only said where one has been
    /// missing for long.
    TunnelsUp,
    /// Of a MeshNode that leads: it reads the preshared keys of the Peers attached to it. Only said where that is not so.
    PresharedKeys,
    /// Of a MeshNode that leads: the other nodes of its location answer it. Only said where one has not for some seconds.
    MembersReached,
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Everything asked for was granted.
    AllAccepted,
    /// A field cannot be read.
    InvalidField,
    /// Another object holds what is claimed, or no object may claim it.
    ClaimRejected,
    /// A leader is elected.
    Elected,
    /// The location has no node.
    NoNode,
    /// No node of the location can lead.
    NoCandidate,
    /// Its traffic with every other location is in the tunnel.
    AllConnected,
    /// There is no other location with a leader.
    NothingToConnect,
    /// With some location there is no tunnel yet.
    WaitingForTunnel,
    /// All is well.
    AllWell,
    /// Another condition says why.
    NotYet,
    /// A location has a tunnel for the Peer.
    Attached,
    /// No location can have a tunnel for the Peer now.
    NoHome,
    /// An agent could not do something that is asked of it, or a node of a location cannot.
    Degraded,
    /// An agent carries its node's traffic, but something besides could not be done.
    Limited,
    /// The API server is reached past the mesh.
    Exempt,
    /// An endpoint of the API server is reached through the mesh.
    EndpointInMesh,
    /// Pod networks are the blocks of Calico.
    CalicoBlocks,
    /// Pod networks are those of CiliumNodes.
    CiliumNodes,
    /// Pod networks are `spec.podCIDRs` of Nodes.
    NodePodCIDRs,
    /// Pod networks are the addresses of Pods.
    PodAddresses,
    /// A node has none.
    NoPodNetwork,
    /// Calico may keep its blocks where they are not read.
    BlocksElsewhere,
    /// The node's firewall drops what comes to WireGuard's port.
    WireGuardPortClosed,
    /// The API server does not take the Lease of a leader.
    LeaseRefused,
    /// The Lease of a leader is not renewed in time.
    LeaseNotRenewed,
    /// There has been no session with a leader for long, while others of its location answer.
    TunnelMissing,
    /// A Peer is not talked to for want of its preshared key.
    PresharedKeyUnknown,
    /// A leader goes on with the preshared key that it has, but may not read it any more.
    PresharedKeyNotRead,
    /// A node of its location does not answer a leader.
    MemberSilent,
}

impl ConditionType {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Ready,
        Self::LeaderElected,
        Self::Connected,
        Self::Accepted,
        Self::ApiServerPastMesh,
        Self::PodNetworks,
        Self::PortOpen,
        Self::LeaseRenewed,
        Self::TunnelsUp,
        Self::PresharedKeys,
        Self::MembersReached,
    ];

    /// Returns the type as it stands in the condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::LeaderElected => "LeaderElected",
            Self::Connected => "Connected",
            Self::Accepted => "Accepted",
            Self::ApiServerPastMesh => "ApiServerPastMesh",
            Self::PodNetworks => "PodNetworks",
            Self::PortOpen => "PortOpen",
            Self::LeaseRenewed => "LeaseRenewed",
            Self::TunnelsUp => "TunnelsUp",
            Self::PresharedKeys => "PresharedKeys",
            Self::MembersReached => "MembersReached",
        }
    }
}

impl Reason {
    /// Returns the reason as it stands in the condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllAccepted => "AllAccepted",
            Self::InvalidField => "InvalidField",
            Self::ClaimRejected => "ClaimRejected",
            Self::Elected => "Elected",
            Self::NoNode => "NoNode",
            Self::NoCandidate => "NoCandidate",
            Self::AllConnected => "AllConnected",
            Self::NothingToConnect => "NothingToConnect",
            Self::WaitingForTunnel => "WaitingForTunnel",
            Self::AllWell => "AllWell",
            Self::NotYet => "NotYet",
            Self::Attached => "Attached",
            Self::NoHome => "NoHome",
            Self::Degraded => "Degraded",
            Self::Limited => "Limited",
            Self::Exempt => "Exempt",
            Self::EndpointInMesh => "EndpointInMesh",
            Self::CalicoBlocks => "CalicoBlocks",
            Self::CiliumNodes => "CiliumNodes",
            Self::NodePodCIDRs => "NodePodCIDRs",
            Self::PodAddresses => "PodAddresses",
            Self::NoPodNetwork => "NoPodNetwork",
            Self::BlocksElsewhere => "BlocksElsewhere",
            Self::WireGuardPortClosed => "WireGuardPortClosed",
            Self::LeaseRefused => "LeaseRefused",
            Self::LeaseNotRenewed => "LeaseNotRenewed",
            Self::TunnelMissing => "TunnelMissing",
            Self::PresharedKeyUnknown => "PresharedKeyUnknown",
            Self::PresharedKeyNotRead => "PresharedKeyNotRead",
            Self::MemberSilent => "MemberSilent",
        }
    }
}

/// What is found of one aspect of an object, before it is known since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The aspect.
    pub about: ConditionType,
    /// Whether it holds.
    pub holds: bool,
    /// Why.
    pub reason: Reason,
    /// The same for people.
    pub message: String,
}

/// Returns whether a condition is one of ours; other writers may add theirs.
#[must_use]
pub fn is_known(condition: &Condition) -> bool {
    ConditionType::ALL
        .iter()
        .any(|known| known.as_str() == condition.type_)
}

/// Returns whether a condition of a MeshNode is its agent's; the operator adds [`ConditionType::Accepted`].
#[must_use]
pub fn is_of_agent(condition: &Condition) -> bool {
    let agent = [
        ConditionType::Ready,
        ConditionType::ApiServerPastMesh,
        ConditionType::PortOpen,
        ConditionType::LeaseRenewed,
        ConditionType::TunnelsUp,
        ConditionType::PresharedKeys,
        ConditionType::MembersReached,
    ];
    agent.iter().any(|own| own.as_str() == condition.type_)
}

/// Returns the conditions that say what was found of an object in this `generation`. The time of the last transition is
/// kept where the status did not change, so equal findings give equal conditions.
#[must_use]
pub fn conditions(
    findings: Vec<Finding>,
    previous: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |finding: Finding| {
        let status = if finding.holds { "True" } else { "False" };
        let about = finding.about.as_str();
        let same = previous
            .iter()
            .find(|old| old.type_ == about && old.status == status);
        Condition {
            type_: about.to_owned(),
            status: status.to_owned(),
            reason: finding.reason.as_str().to_owned(),
            message: shortened(finding.message),
            observed_generation: generation,
            last_transition_time: same.map_or_else(
                || Time(whole_seconds(now)),
                |old| old.last_transition_time.clone(),
            ),
        }
    };
    findings.into_iter().map(condition).collect()
}

/// Returns a message that the schema takes ([`LONGEST_MESSAGE`]): a status with a longer one would be refused as a whole.
fn shortened(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        let end = (0..LONGEST_MESSAGE - 4)
            .rev()
            .find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or_default());
        message.push('…');
    }
    message
}

/// Returns the time in whole seconds, which the API server keeps; with fractions a condition would never equal itself read
/// back.
fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_transition_stays_while_the_status_does() {
        let early = Timestamp::from_second(100).unwrap();
        let late = Timestamp::from_second(200).unwrap();
        let first = conditions(vec![finding(true, "x")], &[], Some(1), early);
        let again = conditions(vec![finding(true, "y")], &first, Some(2), late);
        assert_eq!(again[0].last_transition_time, Time(early));
        assert_eq!(
            (again[0].message.as_str(), again[0].observed_generation),
            ("y", Some(2))
        );
        let turned = conditions(vec![finding(false, "y")], &again, Some(2), late);
        assert_eq!(turned[0].last_transition_time, Time(late));
        assert_eq!(turned[0].status, "False");
    }

    #[test]
    fn a_message_is_as_long_as_the_schema_takes_at_most() {
        let long = "ä".repeat(LONGEST_MESSAGE);
        let made = conditions(vec![finding(true, &long)], &[], None, Timestamp::UNIX_EPOCH);
        assert!(made[0].message.len() <= LONGEST_MESSAGE && made[0].message.ends_with("ä…"));
        let made = conditions(vec![finding(true, "short")], &[], None, Timestamp::UNIX_EPOCH);
        assert_eq!(made[0].message, "short");
    }

    #[test]
    fn conditions_of_other_writers_are_known_to_be_theirs() {
        let mut made = conditions(vec![finding(true, "")], &[], None, Timestamp::UNIX_EPOCH);
        assert!(is_known(&made[0]));
        made[0].type_ = "Audited".to_owned();
        assert!(!is_known(&made[0]));
    }

    fn finding(holds: bool, message: &str) -> Finding {
        Finding {
            about: ConditionType::Ready,
            holds,
            reason: Reason::AllWell,
            message: message.to_owned(),
        }
    }
}
