use super::*;

/// An installation as `namespace` or `namespace/name`.
fn installation(text: &str) -> Installation {
    let (namespace, name) = text.split_once('/').map_or((text, None), |(namespace, name)| {
        (namespace, Some(name.to_owned()))
    });
    Installation {
        namespace: namespace.to_owned(),
        name,
    }
}

fn rival(text: &str) -> Verdict {
    Verdict::Rival(installation(text))
}

fn unknown(text: &str) -> Verdict {
    Verdict::Unknown(installation(text))
}

/// Whose a Lease is, the number of its renewals, when the Lease was created.
type Leased<'a> = (&'a str, i32, i64);

fn seen(leases: &[Leased<'_>], publishers: &[&str], published: bool) -> Seen {
    let lease = |(namespace, renewals, created): &Leased<'_>| {
        let spec = LeaseSpec {
            holder_identity: Some("x".to_owned()).filter(|_| *renewals >= 0),
            lease_transitions: Some(*renewals),
            ..LeaseSpec::default()
        };
        let created = Some(Timestamp::from_second(*created).unwrap());
        let owner = installation(namespace);
        (owner.namespace.clone(), SeenLease { owner, created, spec })
    };
    Seen {
        leases: leases.iter().map(lease).collect(),
        publishers: publishers.iter().map(|of| installation(of)).collect(),
        published: published || !publishers.is_empty(),
    }
}

/// What is found of another Lease that is renewed all the time.
fn found(other: (&str, i64), own: Option<i64>, publishers: &[&str], published: bool) -> Verdict {
    let (mut rivals, start) = (Rivals::new(installation("own")), Instant::now());
    let at = |renewals| {
        let own = own.map(|created| ("own", 0, created));
        let leases: Vec<Leased<'_>> = own.into_iter().chain([(other.0, renewals, other.1)]).collect();
        seen(&leases, publishers, published)
    };
    rivals.handle(&at(0), start);
    rivals.handle(&at(1), start + AGAIN)
}

#[test]
fn whose_the_cluster_is_stands_in_what_is_published() {
    let rival = rival("b");
    for own in [None, Some(1), Some(3)] {
        assert_eq!(found(("b", 2), own, &["own"], true), Verdict::Alone, "{own:?}");
        assert_eq!(found(("b", 2), own, &["b"], true), rival, "{own:?}");
        assert_eq!(found(("b", 2), own, &["c"], true), Verdict::Alone, "{own:?}");
    }
    for publishers in [&["b", "own"][..], &[]] {
        assert_eq!(found(("b", 2), Some(3), publishers, true), rival);
        assert_eq!(found(("b", 2), Some(1), publishers, true), Verdict::Alone);
        assert_eq!(
            found(("b", 2), Some(2), publishers, true),
            rival,
            "the first by name"
        );
        assert_eq!(found(("z", 2), Some(2), publishers, true), Verdict::Alone);
    }
    assert_eq!(found(("b", 2), None, &[], true), rival, "an older version");
    assert_eq!(found((NODE_LEASES, 2), None, &[], true), Verdict::Alone);
}

#[test]
fn a_lease_that_is_renewed_while_nothing_is_published_delays_and_does_not_prevent() {
    let (mut rivals, start) = (Rivals::new(installation("own")), Instant::now());
    let forged = |renewals| seen(&[("forged", renewals, 1)], &[], false);
    let unknown = unknown("forged");
    for second in 0..60 {
        let now = start + Duration::from_secs(u64::try_from(second).unwrap());
        assert_eq!(rivals.handle(&forged(second), now), unknown, "{second}");
    }
    let later = start + PATIENCE + AGAIN;
    assert_eq!(rivals.handle(&forged(61), later), Verdict::Alone);
    let created = seen(&[("forged", 62, 1), ("own", 0, 60)], &[], false);
    assert_eq!(rivals.handle(&created, later + AGAIN), Verdict::Alone);
    let published = seen(&[("forged", 63, 1), ("own", 0, 60)], &["own"], true);
    assert_eq!(rivals.handle(&published, later + 2 * AGAIN), Verdict::Alone);
    assert_eq!(
        Rivals::new(installation("own")).handle(&published, later),
        Verdict::Alone,
        "started again"
    );
}

#[test]
fn of_two_that_start_at_the_same_moment_one_leads() {
    for (one, other) in [(1, 2), (2, 1), (1, 1)] {
        let (mut a, mut b) = (Rivals::new(installation("a")), Rivals::new(installation("b")));
        let start = Instant::now();
        let both = |renewals| seen(&[("a", renewals, one), ("b", renewals, other)], &[], false);
        let [a, b] = [&mut a, &mut b].map(|rivals| {
            rivals.handle(&both(0), start);
            rivals.handle(&both(1), start + AGAIN)
        });
        let leads = [&a, &b].map(|verdict| *verdict == Verdict::Alone);
        assert_eq!(leads, [one <= other, one > other], "{a:?} {b:?}");
    }
}

#[test]
fn a_lease_that_was_given_up_or_is_not_renewed_means_nothing() {
    let (mut rivals, start) = (Rivals::new(installation("own")), Instant::now());
    let released = seen(&[("first", -1, 1)], &["first"], true);
    assert_eq!(rivals.handle(&released, start), Verdict::Alone);
    let left = seen(&[("first", 0, 1)], &["first"], true);
    let unknown = unknown("first");
    assert_eq!(rivals.handle(&left, start), unknown);
    assert_eq!(rivals.handle(&left, start + RENEWED_WITHIN / 2), unknown);
    assert_eq!(rivals.handle(&left, start + RENEWED_WITHIN), Verdict::Alone);
}

#[test]
fn of_two_in_one_namespace_the_one_whose_lease_it_is_leads_until_it_does_not_renew_it() {
    let (mut second, start) = (Rivals::new(installation("own/second")), Instant::now());
    let at = |renewals| seen(&[("own/first", renewals, 1)], &["own/first"], true);
    assert_eq!(second.handle(&at(0), start), unknown("own/first"));
    assert_eq!(second.handle(&at(1), start + AGAIN), rival("own/first"));
    // It is given up when the operator of the first is replaced.
    let (mut second, given_up) = (Rivals::new(installation("own/second")), at(-1));
    assert_eq!(second.handle(&given_up, start), unknown("own/first"));
    assert_eq!(
        second.handle(&given_up, start + RENEWED_WITHIN / 2),
        unknown("own/first")
    );
    assert_eq!(second.handle(&at(0), start + RENEWED_WITHIN), rival("own/first"));
    let (mut third, later) = (Rivals::new(installation("own/third")), start + RENEWED_WITHIN);
    third.handle(&given_up, start);
    assert_eq!(third.handle(&given_up, later), Verdict::Alone, "it was killed");
    let mut first = Rivals::new(installation("own/first"));
    assert_eq!(first.handle(&at(0), start), Verdict::Alone);
    assert_eq!(first.handle(&at(1), start + AGAIN), Verdict::Alone);
}

#[test]
fn what_an_older_version_wrote_is_no_rivals() {
    let (mut own, start) = (Rivals::new(installation("own/x")), Instant::now());
    for (second, renewals) in (0..).zip(0..3) {
        let older = seen(&[("own", renewals, 1)], &["own"], true);
        let now = start + AGAIN * second;
        assert_eq!(own.handle(&older, now), Verdict::Alone);
        assert_eq!(own.handle_uninstall(&older, now), Verdict::Alone);
    }
}

#[test]
fn who_is_uninstalled_leaves_alone_what_another_one_has_in_the_same_namespace() {
    let uninstall = |own: &str, lease: &str, publishers: &[&str]| {
        let seen = seen(&[(lease, 0, 1)], publishers, false);
        Rivals::new(installation(own)).handle_uninstall(&seen, Instant::now())
    };
    let first = rival("own/first");
    assert_eq!(uninstall("own/second", "own/first", &["own/first"]), first);
    assert_eq!(uninstall("own/second", "own/first", &[]), first, "nothing yet");
    assert_eq!(
        uninstall("own/second", "own", &["own/first"]),
        first,
        "after a downgrade"
    );
    for lease in ["own/first", "own/forged"] {
        assert_eq!(uninstall("own/first", lease, &["own/first"]), Verdict::Alone);
    }
}
