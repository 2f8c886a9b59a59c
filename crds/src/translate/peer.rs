//! Peer objects.

use std::collections::BTreeSet;

use spanwire_topology::{Field, PeerFact, Prefix, SecretKeyRef};

use super::{Fields, Translated, created, distinct, keepalive};
use crate::{FieldProblem, Peer, annotations};

/// Returns what a Peer asks for. Without its key there is no tunnel, and without its location it would be attached where it is
/// not wanted; without the reference to its preshared key anyone with its private key would get in. Where one of these was read
/// before, that stays.
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
    let preshared = spec.preshared_key_secret_ref.as_ref().and_then(|reference| {
        let refused = |problem: FieldProblem| {
            let field = format!("spec.{}", problem.field);
            fields.problems.push(FieldProblem { field, ..problem });
        };
        SecretKeyRef::try_from(reference).map_err(refused).ok()
    });
    let marks = [
        (Field::PublicKey, public_key.is_some()),
        (Field::Location, spec.location.is_none() || location.is_some()),
        (
            Field::Preshared,
            spec.preshared_key_secret_ref.is_none() || preshared.is_some(),
        ),
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
            preshared,
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

    #[test]
    fn a_preshared_key_is_a_reference_whose_key_has_a_default() {
        let reference = |json: &str| Some(serde_json::from_str(json).unwrap());
        let with = |preshared_key_secret_ref| {
            read(PeerSpec {
                preshared_key_secret_ref,
                ..spec()
            })
        };
        let fact = with(reference(r#"{"name": "keys"}"#)).fact;
        assert_eq!(fact.preshared, Some("keys/presharedKey".parse().unwrap()));
        let fact = with(reference(r#"{"name": "keys", "key": "laptop"}"#)).fact;
        assert_eq!(fact.preshared, Some("keys/laptop".parse().unwrap()));

        let bad = with(reference(r#"{"name": "Keys"}"#));
        assert_eq!(
            (bad.fact.preshared, bad.fact.unread),
            (None, [Field::Preshared].into())
        );
        let problem = bad.problems[0].to_string();
        assert!(
            problem.starts_with("spec.presharedKeySecretRef: \"Keys/presharedKey\"")
                && problem.contains("lower-case"),
            "{problem}"
        );
    }

    fn spec() -> PeerSpec {
        PeerSpec {
            public_key: PublicKey::new([7; 32]).to_string(),
            allowed_ips: vec!["10.99.0.7/32".to_owned(), "fd99::7".to_owned()],
            endpoint: None,
            persistent_keepalive: None,
            location: None,
            preshared_key_secret_ref: None,
        }
    }

    fn read(spec: PeerSpec) -> Translated<PeerFact> {
        peer(&Peer::new("p", spec))
    }
}
