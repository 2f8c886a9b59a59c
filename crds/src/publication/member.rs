//! A node with the prefixes that live behind it.

use spanwire_topology::{Generation, Member, NodeName};

use super::{keepalive, parsed, texts, values};
use crate::{FieldProblem, SliceMember};

impl From<(&NodeName, &Member)> for SliceMember {
    fn from((node, member): (&NodeName, &Member)) -> Self {
        Self {
            node: node.to_string(),
            generation: member.generation.0,
            addresses: texts(&member.addresses),
            prefixes: texts(&member.prefixes),
            overlay: texts(&member.overlay),
            hop_addresses: texts(&member.hop),
            mtu: member.mtu,
            public_key: member.public_key.as_ref().map(ToString::to_string),
            endpoints: texts(&member.endpoints),
            listen_port: member.listen_port,
            persistent_keepalive: member.keepalive.map(|seconds| seconds.0),
        }
    }
}

impl TryFrom<&SliceMember> for (NodeName, Member) {
    type Error = FieldProblem;

    /// Returns the member without the values that cannot be read; nothing without a name.
    fn try_from(member: &SliceMember) -> Result<Self, FieldProblem> {
        let node = parsed("node", &member.node)?;
        let member = Member {
            generation: Generation(member.generation),
            addresses: values(&member.addresses),
            prefixes: values(&member.prefixes),
            overlay: values(&member.overlay),
            hop: values(&member.hop_addresses),
            mtu: member.mtu,
            public_key: member.public_key.as_ref().and_then(|text| text.parse().ok()),
            endpoints: values(&member.endpoints),
            listen_port: member.listen_port,
            keepalive: keepalive(member.persistent_keepalive),
        };
        Ok((node, member))
    }
}
