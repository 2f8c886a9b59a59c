//! What of a Peer stands, in its status.

use spanwire_topology::{Peer, SecretKeyRef, SecretKeyRefError};

use super::{endpoint, keepalive, parsed, texts, values};
use crate::{AcceptedPeer, FieldProblem, PresharedKeySecretRef};

impl From<&Peer> for AcceptedPeer {
    fn from(peer: &Peer) -> Self {
        Self {
            public_key: peer.public_key.to_string(),
            allowed_ips: texts(&peer.allowed_ips),
            endpoint: peer.endpoint.as_ref().map(ToString::to_string),
            persistent_keepalive: peer.keepalive.map(|seconds| seconds.0),
            preshared_key_secret_ref: peer.preshared.as_ref().map(PresharedKeySecretRef::from),
            home: peer.home.as_ref().map(ToString::to_string),
            attachments: texts(&peer.attachments),
        }
    }
}

impl TryFrom<&AcceptedPeer> for Peer {
    type Error = FieldProblem;

    /// Returns the Peer without the values that cannot be read; nothing without a key, and nothing where its preshared key
    /// would be missing.
    fn try_from(accepted: &AcceptedPeer) -> Result<Self, FieldProblem> {
        Ok(Self {
            public_key: parsed("publicKey", &accepted.public_key)?,
            allowed_ips: values(&accepted.allowed_ips),
            endpoint: endpoint(accepted.endpoint.as_ref()),
            keepalive: keepalive(accepted.persistent_keepalive),
            preshared: accepted
                .preshared_key_secret_ref
                .as_ref()
                .map(SecretKeyRef::try_from)
                .transpose()?,
            home: accepted.home.as_ref().and_then(|text| text.parse().ok()),
            attachments: values(&accepted.attachments),
        })
    }
}

impl From<&SecretKeyRef> for PresharedKeySecretRef {
    fn from(reference: &SecretKeyRef) -> Self {
        Self {
            name: reference.name().to_owned(),
            key: reference.key().to_owned(),
        }
    }
}

impl TryFrom<&PresharedKeySecretRef> for SecretKeyRef {
    type Error = FieldProblem;

    fn try_from(reference: &PresharedKeySecretRef) -> Result<Self, FieldProblem> {
        let PresharedKeySecretRef { name, key } = reference;
        let problem = |error: SecretKeyRefError| {
            FieldProblem::new(
                "presharedKeySecretRef",
                &format!("{name}/{key}"),
                &error.to_string(),
            )
        };
        Self::new(name, key).map_err(problem)
    }
}
