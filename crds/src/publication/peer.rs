//! What of a Peer stands, in its status.

use spanwire_topology::Peer;

use super::{endpoint, keepalive, parsed, texts, values};
use crate::{AcceptedPeer, FieldProblem};

impl From<&Peer> for AcceptedPeer {
    fn from(peer: &Peer) -> Self {
        Self {
            public_key: peer.public_key.to_string(),
            allowed_ips: texts(&peer.allowed_ips),
            endpoint: peer.endpoint.as_ref().map(ToString::to_string),
            persistent_keepalive: peer.keepalive.map(|seconds| seconds.0),
            home: peer.home.as_ref().map(ToString::to_string),
            attachments: texts(&peer.attachments),
        }
    }
}

impl TryFrom<&AcceptedPeer> for Peer {
    type Error = FieldProblem;

    /// Returns the Peer without the values that cannot be read; nothing without a key.
    fn try_from(accepted: &AcceptedPeer) -> Result<Self, FieldProblem> {
        Ok(Self {
            public_key: parsed("publicKey", &accepted.public_key)?,
            allowed_ips: values(&accepted.allowed_ips),
            endpoint: endpoint(accepted.endpoint.as_ref()),
            keepalive: keepalive(accepted.persistent_keepalive),
            preshared: None,
            home: accepted.home.as_ref().and_then(|text| text.parse().ok()),
            attachments: values(&accepted.attachments),
        })
    }
}
