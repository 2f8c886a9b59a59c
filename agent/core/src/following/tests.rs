//! Whatever a source shows, and in whatever order.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::{collection::vec, prelude::*};
use spanwire_crds::{Head, LocationSliceSpec, MeshNode, MeshNodeSpec, PeerSpec};

use super::*;

/// The head of a location, with its uid, how often it was changed and the decision in it. It was created at that second.
fn head(location: &str, uid: i64, changes: i64, decision: u64) -> Arc<LocationSlice> {
    let spec = LocationSliceSpec {
        location: location.to_owned(),
        head: Some(Head {
            mesh_generation: decision,
            ..Head::default()
        }),
        ..LocationSliceSpec::default()
    };
    let mut slice = LocationSlice::new(&format!("{location}-head"), spec);
    identify(&mut slice.metadata, uid, changes);
    Arc::new(slice)
}

fn peer(name: &str, uid: i64, changes: i64) -> Arc<Peer> {
    let spec = serde_json::json!({"publicKey": "k", "allowedIPs": []});
    let mut peer = Peer::new(name, serde_json::from_value::<PeerSpec>(spec).unwrap());
    identify(&mut peer.metadata, uid, changes);
    Arc::new(peer)
}

fn identify(meta: &mut ObjectMeta, uid: i64, changes: i64) {
    meta.uid = Some(format!("uid-{uid}"));
    meta.generation = Some(changes);
    meta.creation_timestamp = Some(Time(Timestamp::from_second(1_700_000_000 + uid).unwrap()));
}

fn snapshot(
    slices: impl IntoIterator<Item = Arc<LocationSlice>>,
    peers: impl IntoIterator<Item = Arc<Peer>>,
) -> Arc<Snapshot> {
    let name = |meta: &ObjectMeta| meta.name.clone().unwrap();
    Arc::new(Snapshot {
        slices: slices
            .into_iter()
            .map(|slice| (name(&slice.metadata), slice))
            .collect(),
        peers: peers
            .into_iter()
            .map(|peer| (name(&peer.metadata), peer))
            .collect(),
        node: None,
    })
}

fn following() -> Following {
    Following::new("a".parse().unwrap(), None)
}

#[test]
fn an_older_head_is_refused_until_the_source_has_caught_up() {
    let now = Instant::now();
    let mut following = following();
    let new = snapshot([head("a", 1, 5, 50), head("b", 2, 1, 3)], []);
    following.handle_shown(new, now);
    let old = snapshot([head("a", 1, 4, 40), head("b", 2, 2, 41)], []);
    let followed = following.handle_shown(old, now);
    let mixture = snapshot([head("a", 1, 5, 50), head("b", 2, 2, 41)], []);
    assert_eq!(followed.snapshot, mixture, "what is newer is followed");
    assert_eq!(followed.refused.as_deref(), Some("LocationSlice a-head"));
    let next = snapshot([head("a", 1, 6, 51), head("b", 2, 2, 41)], []);
    let followed = following.handle_shown(Arc::clone(&next), now);
    assert_eq!((followed.snapshot, followed.refused), (next, None));
    assert_eq!(following.poll_timeout(), None);
}

#[test]
fn a_later_decision_is_followed_however_often_its_object_was_changed() {
    let now = Instant::now();
    let mut following = following();
    following.handle_shown(snapshot([head("a", 1, 900, 50)], []), now);
    // As of an API server that was restored, for an operator that went on.
    let restored = snapshot([head("a", 1, 3, 51)], []);
    let followed = following.handle_shown(Arc::clone(&restored), now);
    assert_eq!((followed.snapshot, followed.refused), (restored, None));
}

#[test]
fn an_installation_after_another_one_begins_again_and_so_does_a_slice_that_is_made_again() {
    let now = Instant::now();
    let mut following = following();
    following.handle_shown(
        snapshot(
            [head("a", 1, 900, 50), head("b", 2, 7, 50)],
            [peer("laptop", 3, 4)],
        ),
        now,
    );
    let again = snapshot([head("a", 4, 1, 1), head("b", 2, 7, 50)], [peer("laptop", 5, 1)]);
    let followed = following.handle_shown(Arc::clone(&again), now);
    assert_eq!((followed.snapshot, followed.refused), (again, None));
    // What was there before that is not followed again.
    let before = snapshot(
        [head("a", 1, 901, 60), head("b", 2, 7, 50)],
        [peer("laptop", 5, 1)],
    );
    assert!(following.handle_shown(before, now).refused.is_some());
}

#[test]
fn a_list_with_something_older_deletes_nothing_and_brings_back_nothing() {
    let now = Instant::now();
    let mut following = following();
    let new = snapshot([head("a", 1, 5, 50), head("b", 2, 1, 49)], [peer("laptop", 3, 2)]);
    following.handle_shown(Arc::clone(&new), now);
    let old = snapshot(
        [head("a", 1, 4, 40), head("c", 4, 7, 30)],
        [peer("laptop", 3, 1), peer("phone", 5, 1)],
    );
    let followed = following.handle_shown(old, now);
    assert_eq!(followed.snapshot, new);
    // What was decided after all that is followed is new.
    let restored = snapshot(
        [head("a", 1, 4, 40), head("c", 4, 1, 51)],
        [peer("laptop", 3, 2), peer("phone", 5, 1)],
    );
    let followed = following.handle_shown(restored, now);
    let mixture = snapshot(
        [head("a", 1, 5, 50), head("b", 2, 1, 49), head("c", 4, 1, 51)],
        [peer("laptop", 3, 2), peer("phone", 5, 1)],
    );
    assert_eq!(followed.snapshot, mixture, "no Peer is older");
    // Without anything older it is deleted.
    let next = snapshot([head("a", 1, 5, 50)], []);
    assert_eq!(following.handle_shown(Arc::clone(&next), now).snapshot, next);
}

#[test]
fn what_is_shown_for_a_minute_is_followed_after_all() {
    let now = Instant::now();
    let mut following = following();
    let new = snapshot([head("a", 1, 5, 50), head("z", 9, 1, 1)], [peer("laptop", 3, 1)]);
    let old = snapshot([head("a", 1, 4, 40), head("z", 9, 1, 1)], []);
    following.handle_shown(snapshot([head("z", 9, 1, 1)], []), now);
    following.handle_shown(new, now);
    following.handle_shown(Arc::clone(&old), now);
    let due = following.poll_timeout().unwrap();
    assert_eq!(due, now + PATIENCE);
    let nearly = due - Duration::from_millis(1);
    assert!(following.handle_timeout(nearly).is_none());
    assert!(following.handle_shown(Arc::clone(&old), nearly).refused.is_some());
    let shown = following.handle_timeout(due).unwrap();
    let followed = following.handle_shown(shown, due);
    assert!(followed.gives_in && followed.refused.is_none());
    assert_eq!(
        (followed.snapshot, following.poll_timeout()),
        (Arc::clone(&old), None)
    );
    // From there on it goes as ever.
    let next = snapshot([head("a", 1, 5, 41), head("z", 9, 1, 1)], []);
    let followed = following.handle_shown(Arc::clone(&next), due);
    assert_eq!((followed.snapshot, followed.refused), (next, None));
    assert!(following.handle_shown(old, due).refused.is_some());
}

#[test]
fn a_node_that_was_cleared_follows_whatever_comes() {
    let now = Instant::now();
    let mut following = following();
    following.handle_shown(snapshot([head("a", 1, 5, 50)], [peer("laptop", 3, 1)]), now);
    following.forget();
    let old = snapshot([head("a", 1, 1, 1)], [peer("laptop", 3, 1)]);
    let followed = following.handle_shown(Arc::clone(&old), now);
    assert_eq!((followed.snapshot, followed.refused), (old, None));
}

#[test]
fn a_file_is_followed_as_it_stands_and_the_own_object_always() {
    let now = Instant::now();
    let mut following = following();
    let nameless = |decision| {
        let mut slice = Arc::unwrap_or_clone(head("a", 1, 1, decision));
        (slice.metadata.uid, slice.metadata.generation) = (None, None);
        snapshot([Arc::new(slice)], [])
    };
    following.handle_shown(nameless(9), now);
    assert_eq!(following.handle_shown(nameless(3), now).snapshot, nameless(3));
    let retired = |slice, retire| {
        let spec = MeshNodeSpec {
            retire,
            ..MeshNodeSpec::default()
        };
        let mut shown = Arc::unwrap_or_clone(snapshot([slice], []));
        shown.node = Some(Arc::new(MeshNode::new("a", spec)));
        Arc::new(shown)
    };
    following.handle_shown(retired(head("a", 1, 5, 50), false), now);
    let followed = following.handle_shown(retired(head("a", 1, 4, 40), true), now);
    assert!(followed.refused.is_some() && followed.snapshot.retire());
}

/// What is done to the objects: one is made, changed or deleted.
#[derive(Clone, Copy, Debug)]
enum Write {
    Put(usize),
    Delete(usize),
}

const NAMES: [&str; 4] = ["a", "b", "laptop", "phone"];

/// Of each name, what it was after each write: its uid, which grows, its changes and the decision in it.
type States = Vec<[Option<(i64, i64, u64)>; NAMES.len()]>;

fn states(writes: &[Write]) -> States {
    let mut states = vec![[None; NAMES.len()]];
    for (decision, write) in (1..).zip(writes) {
        let mut next = states[states.len() - 1];
        match *write {
            Write::Put(which) => {
                let known = next[which].map(|(uid, changes, _)| (uid, changes + 1, decision));
                next[which] = known.or(Some((decision as i64, 1, decision)));
            }
            Write::Delete(which) => next[which] = None,
        }
        states.push(next);
    }
    states
}

/// What a source shows that has each object as of another time. One head is always there.
fn shown(states: &States, times: [usize; NAMES.len()]) -> Arc<Snapshot> {
    let mut slices = vec![head("z", 0, 1, 0)];
    let mut peers = Vec::new();
    for (which, (name, time)) in NAMES.iter().zip(times).enumerate() {
        if let Some((uid, changes, decision)) = states[time.min(states.len() - 1)][which] {
            match which {
                0 | 1 => slices.push(head(name, uid, changes, decision)),
                _ => peers.push(peer(name, uid, changes)),
            }
        }
    }
    snapshot(slices, peers)
}

/// Returns how new what is followed of each name is.
fn ranks(snapshot: &Snapshot) -> BTreeMap<String, (Timestamp, i64, u64)> {
    let rank = |meta: &ObjectMeta, decision| {
        let created = meta.creation_timestamp.as_ref().unwrap().0;
        (created, meta.generation.unwrap(), decision)
    };
    let slices = snapshot.slices.iter();
    let slices = slices.map(|(name, slice)| (name.clone(), rank(&slice.metadata, slice.decision())));
    let peers = snapshot.peers.iter();
    let peers = peers.map(|(name, peer)| (name.clone(), rank(&peer.metadata, 0)));
    slices.chain(peers).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_older_is_followed_within_the_time_and_everything_after_it(
        writes in vec(prop_oneof![
            3 => (0..NAMES.len()).prop_map(Write::Put),
            1 => (0..NAMES.len()).prop_map(Write::Delete),
        ], 1..40),
        times in vec(any::<[prop::sample::Index; NAMES.len()]>(), 1..40),
        is_restarted in any::<prop::sample::Index>(),
    ) {
        let now = Instant::now();
        let states = states(&writes);
        let mut following = following();
        let mut newest = BTreeMap::new();
        let times: Vec<_> = times.iter().map(|times| times.map(|time| time.index(states.len()))).collect();
        let restart = is_restarted.index(times.len());
        for (index, times) in times.iter().enumerate() {
            if index == restart {
                following = Following::new("a".parse().unwrap(), following.followed().cloned());
            }
            let followed = following.handle_shown(shown(&states, *times), now);
            let ranks = ranks(&followed.snapshot);
            for (name, rank) in &ranks {
                let known = newest.get(name).unwrap_or(rank);
                prop_assert!(known <= rank, "{known:?} was followed before {rank:?}");
            }
            newest = ranks;
        }
        // A source that has caught up is followed at once.
        let last = shown(&states, [states.len(); NAMES.len()]);
        let followed = following.handle_shown(Arc::clone(&last), now);
        prop_assert_eq!(&followed.snapshot, &last);
        prop_assert!(followed.refused.is_none());
        // One that stays behind is in the end.
        let old = shown(&states, times[0]);
        let mut followed = following.handle_shown(Arc::clone(&old), now);
        if let Some(due) = following.poll_timeout() {
            followed = following.handle_shown(following.handle_timeout(due).unwrap(), due);
        }
        prop_assert_eq!(followed.snapshot, old);
        prop_assert_eq!(following.poll_timeout(), None);
    }
}
