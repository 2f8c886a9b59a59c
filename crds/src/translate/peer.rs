//! Peer objects.

use std::collections::BTreeSet;

use spanwire_topology::{Field, PeerFact, Prefix};

use super::{Fields, Translated, created, distinct, keepalive};
use crate::{FieldProblem, Peer, annotations};

/// Returns what a Peer asks for. Without its key there is no tunnel, and without its location it would be attached where it is
/// not wanted; where one of these was read before, that stays.
#[must_use]
pub fn peer(peer: &Peer) -> Translated<PeerFact> {
    let spec = &peer.spec;
    let mut fields = Fields::default();
    let public_key = fields.one("spec.publicKey", &spec.public_key);
    let location = spec.location.as_ref().and_then(|text| {
        let refused = |problem: String| {
            fields
                .problems
                .push(FieldProblem::new("spec.location", text, &problem));
        };
        annotations::location_name(text).map_err(refused).ok()
    });
    let allowed_ips: BTreeSet<Prefix> = fields.list("spec.allowedIPs", &spec.allowed_ips);
    let endpoint = spec
        .endpoint
        .as_ref()
        .and_then(|text| fields.one("spec.endpoint", text));
    let marks = [
        (Field::PublicKey, public_key.is_some()),
        (Field::Location, spec.location.is_none() || location.is_some()),
        (Field::Cidrs, distinct(&spec.allowed_ips) == allowed_ips.len()),
        (Field::Endpoints, spec.endpoint.is_none() || endpoint.is_some()),
    ];
    let unread = marks.into_iter().filter(|(_, read)| !read);
    Translated {
        fact: PeerFact {
            created: created(&peer.metadata),
            public_key,
            allowed_ips,
            endpoint,
            keepalive: keepalive(spec.persistent_keepalive),
            location,
            preshared: None,
            unread: unread.map(|(field, _)| field).collect(),
        },
        problems: fields.problems,
    }
}

#[cfg(test)]
mod tests {
    use spanwire_topology::{Keepalive, PublicKey};

    use super::*;
    use crate::PeerSpec;

    #[test]
    fn a_peer_is_read() {
        let read = read(PeerSpec {
            endpoint: Some("[2001:db8::1]:51820".to_owned()),
            persistent_keepalive: Some(25),
            location: Some("a".to_owned()),
            ..spec()
        });
        assert_eq!(read.problems, []);
        let fact = read.fact;
        assert_eq!(
            (fact.public_key, fact.unread.len()),
            (Some(PublicKey::new([7; 32])), 0)
        );
        assert_eq!((fact.allowed_ips.len(), fact.keepalive), (2, Some(Keepalive(25))));
        assert_eq!(fact.location, Some("a".parse().unwrap()));
        assert!(fact.endpoint.is_some());
    }

    #[test]
    fn without_a_key_there_is_no_peer() {
        let read = read(PeerSpec {
            public_key: "x".to_owned(),
            ..spec()
        });
        assert_eq!(
            (read.fact.public_key, read.fact.unread),
            (None, [Field::PublicKey].into())
        );
        assert!(read.problems[0].to_string().contains("wg pubkey"));
    }

    #[test]
    fn a_location_that_cannot_be_read_does_not_mean_everywhere() {
        let read = read(PeerSpec {
            location: Some("A!".to_owned()),
            ..spec()
        });
        assert_eq!(read.fact.unread, [Field::Location].into());
        assert!(read.problems[0].to_string().starts_with("spec.location"));
    }

    #[test]
    fn one_bad_network_does_not_hide_the_others() {
        let read = read(PeerSpec {
            allowed_ips: vec!["x".to_owned(), "10.99.0.7/32".to_owned()],
            endpoint: Some("y".to_owned()),
            ..spec()
        });
        let fact = read.fact;
        assert_eq!((fact.allowed_ips.len(), fact.endpoint), (1, None));
        assert_eq!(fact.unread, [Field::Cidrs, Field::Endpoints].into());
        assert_eq!(read.problems.len(), 2);
    }

    fn spec() -> PeerSpec {
        PeerSpec {
            public_key: PublicKey::new([7; 32]).to_string(),
            allowed_ips: vec!["10.99.0.7/32".to_owned(), "fd99::7".to_owned()],
            endpoint: None,
            persistent_keepalive: None,
            location: None,
        }
    }

    fn read(spec: PeerSpec) -> Translated<PeerFact> {
        peer(&Peer::new("p", spec))
    }
}
