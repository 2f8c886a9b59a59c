//! The loop beside a reconciler that has done everything at once, on a clock that stands still while anything goes on.

mod older;

use std::{cell::RefCell, path::PathBuf, rc::Rc};

use futures::stream;
use spanwire_core::{Survey, fights::subjects};
use spanwire_crds::{LocationSlice, MeshNode, MeshNodeSpec, publication::slices};
use spanwire_host::{Inventory, LinkName, OtherLink, Owned, Step};
use spanwire_topology::{Generation, Leader, LeaderRole, Location, Member, Mesh};

use super::{storage::CHECKPOINT_PAUSE, *};
use crate::{checkpoint::Checkpoint, guard::Guard, preshared::Reader};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Leaders `a` and `b` of locations of the same names, and their follower `c` of location `a`. Behind `b` lie so many pod
/// networks.
fn snapshot(networks: u8) -> Snapshot {
    published(&mesh(networks))
}

fn mesh(networks: u8) -> Mesh {
    let mut mesh = Mesh {
        generation: Generation(1),
        ..Mesh::default()
    };
    for (location, node, number) in [("a", "a", 1), ("b", "b", 2), ("a", "c", 3)] {
        let leader = || Leader {
            node: node.parse().unwrap(),
            role: LeaderRole::Active,
        };
        let other = if location == "a" { "b" } else { "a" };
        let of_it = mesh
            .locations
            .entry(location.parse().unwrap())
            .or_insert_with(|| Location {
                leaders: vec![leader()],
                established: [other.parse().unwrap()].into(),
                ..Location::default()
            });
        let count = if node == "b" { networks } else { 1 };
        let prefix = |index| format!("10.{number}.{index}.0/24").parse().unwrap();
        let member = Member {
            generation: Generation(1),
            addresses: [format!("10.0.0.{number}").parse().unwrap()].into(),
            prefixes: (0..count).map(prefix).collect(),
            public_key: Some(spanwire_topology::PublicKey::new([number; 32])),
            listen_port: 51_820,
            ..Member::default()
        };
        of_it.members_mut().insert(node.parse().unwrap(), member);
    }
    mesh
}

fn published(mesh: &Mesh) -> Snapshot {
    let slices = slices(mesh, &BTreeMap::new()).into_iter();
    Snapshot {
        slices: slices
            .map(|(name, spec)| (name.clone(), Arc::new(LocationSlice::new(&name, spec))))
            .collect(),
        peers: BTreeMap::new(),
        node: Some(Arc::new(MeshNode::new("c", MeshNodeSpec::default()))),
    }
}

fn inventory() -> Inventory {
    let link = OtherLink {
        mtu: 1500,
        addresses: [("10.0.0.3".parse().unwrap(), 24)].into(),
        ..OtherLink::default()
    };
    Inventory {
        links: [(LinkName::new("eth0").unwrap(), link)].into(),
        ..Inventory::default()
    }
}

/// A job that the loop gave to the reconciler.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Given {
    /// A survey; in full or not.
    Survey(bool),
    /// A target with so many routes, from what is known or not.
    Reach(usize, bool),
}

/// The jobs, and when they were given.
type Log = Rc<RefCell<Vec<(Duration, Given)>>>;

/// What a test plays: source, API server, and the other programs of the machine.
struct Others {
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    announced: mpsc::UnboundedSender<()>,
    /// Whether what the reconciler does has the effect that is wanted.
    as_wanted: watch::Sender<bool>,
    /// Whether another program has taken the nft table away each time.
    robbed: watch::Sender<bool>,
    /// How long the reconciler takes to change the machine.
    takes: watch::Sender<Duration>,
    status: watch::Receiver<PendingStatus>,
    /// What is to be watched, and what the prober makes of it.
    assigned: watch::Receiver<Arc<Assignment>>,
    judged: watch::Sender<Judgement>,
    failed: watch::Sender<Option<String>>,
    refused: watch::Sender<Option<String>>,
    state_directory: PathBuf,
    log: Log,
}

impl Others {
    fn publish(&self, networks: u8) {
        self.snapshots.send_replace(Some(Arc::new(snapshot(networks))));
    }

    /// Takes the jobs that were given since.
    fn jobs(&self) -> Vec<Given> {
        self.log.borrow_mut().drain(..).map(|(_, given)| given).collect()
    }
}

/// What [`Others`] says of the machine.
struct Machine {
    as_wanted: watch::Receiver<bool>,
    robbed: watch::Receiver<bool>,
    takes: watch::Receiver<Duration>,
}

/// Does every job at once, or as slowly as the machine is.
async fn reconcile(
    mut jobs: mpsc::UnboundedReceiver<Job>,
    reports: mpsc::Sender<Report>,
    announcements: mpsc::UnboundedReceiver<()>,
    machine: Machine,
    log: Log,
) {
    let mut readings = 0;
    let start = EventLoop::now();
    let next = async |mut announced: mpsc::UnboundedReceiver<()>| {
        announced.recv().await?;
        Some((Ok(()), announced))
    };
    let mut announcements = Some(stream::unfold(announcements, next).boxed());
    while let Some(job) = jobs.recv().await {
        let note = |given| log.borrow_mut().push((EventLoop::now() - start, given));
        let report = match job {
            Job::Survey(request) => {
                note(Given::Survey(request.full));
                let survey = Survey {
                    inventory: Some(inventory()),
                    ..Survey::default()
                };
                Report::Surveyed(
                    Box::new(Ok(survey)),
                    announcements.take().filter(|_| request.subscribe),
                )
            }
            Job::Reach { target, incremental } => {
                note(Given::Reach(target.host.routes.len(), incremental));
                let takes = *machine.takes.borrow();
                after(takes).await;
                let undone = machine.robbed.borrow().then_some(Step::DeleteNft);
                Report::Reached(Box::new(Outcome {
                    is_as_wanted: *machine.as_wanted.borrow(),
                    repaired: subjects(&undone),
                    ..Outcome::default()
                }))
            }
            Job::ReadDevice | Job::Read { .. } | Job::FindWay { .. } => {
                readings += 1;
                // The clock stands still meanwhile.
                assert!(readings < 1000, "the device is read without end");
                Report::Device(Ok(Default::default()))
            }
        };
        if reports.send(report).await.is_err() {
            return;
        }
    }
}

/// Runs the loop of node `c` with this checkpoint beside a test, until that ends.
async fn beside(checkpoint: Option<Snapshot>, test: impl AsyncFnOnce(&Others)) {
    let folder = tempfile::tempdir().unwrap();
    let (jobs, for_reconciler) = mpsc::unbounded_channel();
    let (reported, mut reports) = mpsc::channel(8);
    let (snapshots, of_source) = watch::channel(None);
    let (announced, announcements) = mpsc::unbounded_channel();
    let (as_wanted, is_as_wanted) = watch::channel(true);
    let (robbed, is_robbed) = watch::channel(false);
    let (takes, it_takes) = watch::channel(Duration::ZERO);
    let machine = Machine {
        as_wanted: is_as_wanted,
        robbed: is_robbed,
        takes: it_takes,
    };
    let (status, statuses) = watch::channel(None);
    let (resolver, names) = Resolver::new();
    let (_secrets, source) = watch::channel(None);
    let (reader, preshared) = Reader::new(source);
    let (assignments, assigned) = watch::channel(Arc::default());
    let (judged, judgements) = watch::channel(Judgement::default());
    let (failed, failures) = watch::channel(None);
    let (refused, refusals) = watch::channel(None);
    let outlets = Outlets {
        status,
        owner: watch::channel(None).0,
        jobs,
        resolver,
        preshared: Preshared {
            reader,
            known: watch::channel(None).0,
        },
        assignments,
        asks: mpsc::channel(1).0,
    };
    let me: NodeName = "c".parse().unwrap();
    let state = NodeState::new(me.clone(), Owned::default(), ["b".parse().unwrap()].into());
    let directory = folder.path().to_owned();
    let storage = Storage {
        directory: directory.clone(),
        guard: Some(Guard::new(&directory, "spanwire")),
    };
    let mut events = EventLoop::new(me, state, storage, checkpoint.map(Arc::new), outlets);
    let log = Log::default();
    let (_queries, queries) = mpsc::channel(1);
    let (_api_server, api_server) = watch::channel(ApiServer::default());
    let (_clock, clock) = watch::channel(None);
    let (_advised, advice) = watch::channel(Heeded::default());
    let (_drained, draining) = watch::channel(false);
    let others = Others {
        snapshots,
        announced,
        as_wanted,
        robbed,
        takes,
        status: statuses,
        assigned,
        judged,
        failed,
        refused,
        state_directory: directory,
        log: Rc::clone(&log),
    };
    let reconciler = reconcile(for_reconciler, reported, announcements, machine, log);
    let running = async {
        events.enforce(&mut reports).await.unwrap();
        let inlets = Inlets {
            snapshots: of_source,
            reports,
            names,
            preshared,
            queries,
            api_server,
            clock,
            judgements,
            advice,
            draining,
            failures,
            refusals,
        };
        events.run(inlets, pending()).await
    };
    tokio::select! {
        () = test(&others) => {}
        ended = running => panic!("the loop ended: {ended:?}"),
        () = reconciler => panic!("the reconciler ended"),
    }
}

async fn after(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn of_a_burst_of_publications_the_first_is_acted_upon_at_once_and_then_one_every_fifth_of_a_second() {
    beside(None, async |others| {
        others.publish(1);
        after(10 * SECOND).await;
        others.jobs();
        for networks in 0..50 {
            others.publish(2 + networks);
            after(20 * MILLISECOND).await;
        }
        after(SECOND).await;
        let first = others.log.borrow()[0].0;
        let at: Vec<u128> = others
            .log
            .borrow()
            .iter()
            .filter(|(_, given)| matches!(given, Given::Reach(..)))
            .map(|(at, _)| (*at - first).as_millis())
            .collect();
        assert_eq!(at, [0, 200, 400, 600, 800, 1000]);
        let last = others.log.borrow().last().cloned().unwrap().1;
        let before = others.jobs().into_iter().rev().nth(2).unwrap();
        assert_ne!(last, before, "the last publication counts");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_publication_after_a_pause_waits_for_nothing() {
    beside(None, async |others| {
        for networks in 1..4 {
            others.publish(networks);
            after(MILLISECOND).await;
            assert_eq!(others.jobs().len(), 2, "a survey and a target");
            after(SECOND).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_a_publication_alone_nothing_is_read_that_is_known() {
    beside(None, async |others| {
        others.publish(1);
        after(SECOND).await;
        let first = others.jobs();
        assert_eq!(first[0], Given::Survey(true), "nothing was known");
        assert!(matches!(first[1], Given::Reach(_, false)), "{first:?}");
        others.publish(2);
        after(SECOND).await;
        let second = others.jobs();
        assert_eq!(second[0], Given::Survey(false));
        assert!(matches!(second[1], Given::Reach(_, true)), "{second:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_others_change_and_what_failed_and_every_minute_lead_to_a_reading_in_full() {
    beside(None, async |others| {
        let full = |why: &str, jobs: Vec<Given>| {
            assert_eq!(jobs.first(), Some(&Given::Survey(true)), "{why}");
            assert!(matches!(jobs[1], Given::Reach(_, false)), "{why}: {jobs:?}");
        };
        others.publish(1);
        after(SECOND).await;
        full("nothing was known", others.jobs());

        others.announced.send(()).unwrap();
        after(SECOND).await;
        full("another program changed something", others.jobs());

        others.as_wanted.send_replace(false);
        others.publish(2);
        after(50 * MILLISECOND).await;
        assert_eq!(others.jobs()[0], Given::Survey(false));
        others.as_wanted.send_replace(true);
        after(5 * SECOND).await;
        full("something was not as wanted", others.jobs());

        // Jitter makes it up to twice as long.
        after(2 * RESYNC + SECOND).await;
        full("a minute passed", others.jobs());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_time_that_comes_while_the_reconciler_is_busy_is_not_missed() {
    beside(None, async |others| {
        let is_fight = || {
            let status = others.status.borrow().clone().unwrap();
            let mut ready = status
                .conditions
                .iter()
                .filter(|condition| condition.type_ == "Ready");
            ready.any(|condition| condition.message.contains("its nft table again and again"))
        };
        others.publish(1);
        after(SECOND).await;
        others.robbed.send_replace(true);
        for _ in 0..10 {
            others.announced.send(()).unwrap();
            after(SECOND).await;
        }
        assert!(is_fight());
        others.robbed.send_replace(false);
        others.takes.send_replace(25 * SECOND);
        others.announced.send(()).unwrap();
        after(27 * SECOND).await;
        assert!(!is_fight(), "it was over after twenty seconds");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_checkpoint_says_is_done_before_the_source_answers_and_reported_only_after() {
    beside(Some(snapshot(3)), async |others| {
        after(MILLISECOND).await;
        let jobs = others.jobs();
        assert_eq!(jobs[0], Given::Survey(true));
        let Given::Reach(routes, false) = jobs[1] else {
            panic!("{jobs:?}")
        };
        assert!(routes >= 3, "the networks behind b");
        assert_eq!(*others.status.borrow(), None, "it may be old");
        others.publish(4);
        after(MILLISECOND).await;
        assert_eq!(others.jobs().len(), 2);
        assert!(others.status.borrow().is_some());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_of_the_source_the_checkpoint_is_reported_after_two_seconds() {
    beside(Some(snapshot(3)), async |others| {
        after(SOURCE_PATIENCE - MILLISECOND).await;
        assert_eq!(*others.status.borrow(), None);
        after(2 * MILLISECOND).await;
        assert!(others.status.borrow().is_some());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_is_written_a_second_after_the_first_change_and_then_every_ten_at_most() {
    beside(None, async |others| {
        let written = || {
            let checkpoint = Checkpoint::load(&others.state_directory).unwrap();
            checkpoint.map(|checkpoint| checkpoint.snapshot)
        };
        let is = |networks: u8| written().is_some_and(|written| *written == snapshot(networks));
        others.publish(1);
        after(CHECKPOINT_DELAY - MILLISECOND).await;
        others.publish(2);
        assert!(written().is_none());
        after(2 * MILLISECOND).await;
        assert!(is(2), "with what came meanwhile");
        for networks in 3..12 {
            others.publish(networks);
            after(SECOND).await;
            assert!(is(2));
        }
        after(CHECKPOINT_PAUSE - 9 * SECOND).await;
        assert!(is(11));
    })
    .await;
}

/// A mesh that does not have node `c`, whose MeshNode stays.
fn without_me() -> Snapshot {
    let mut snapshot = snapshot(1);
    for slice in snapshot.slices.values_mut() {
        Arc::make_mut(slice)
            .spec
            .members
            .retain(|member| member.node != "c");
    }
    snapshot
}

#[tokio::test(start_paused = true)]
async fn the_guard_goes_with_a_node_that_is_put_outside_the_mesh_and_comes_back_with_it() {
    beside(None, async |others| {
        let guard = Guard::path(&others.state_directory);
        let wait = CHECKPOINT_PAUSE + SECOND;
        for round in 0..2 {
            others.publish(1);
            after(wait).await;
            assert!(guard.exists(), "round {round}");
            others.snapshots.send_replace(Some(Arc::new(without_me())));
            after(wait).await;
            assert!(!guard.exists(), "round {round}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_leader_is_used_at_once_when_the_one_in_use_does_not_answer() {
    let mut mesh = mesh(2);
    let of_a = mesh.locations.get_mut(&"a".parse().unwrap()).unwrap();
    let mut standby = of_a.members[&"a".parse().unwrap()].clone();
    standby.addresses = ["10.0.0.4".parse().unwrap()].into();
    standby.prefixes = ["10.4.0.0/24".parse().unwrap()].into();
    standby.public_key = Some(spanwire_topology::PublicKey::new([4; 32]));
    of_a.members_mut().insert("d".parse().unwrap(), standby);
    of_a.leaders.push(Leader {
        node: "d".parse().unwrap(),
        role: LeaderRole::Standby,
    });
    // Without a source: from the checkpoint alone.
    beside(Some(published(&mesh)), async |others| {
        after(100 * MILLISECOND).await;
        others.jobs();
        let assigned = others.assigned.borrow().clone();
        let watched: Vec<String> = assigned
            .probes
            .hops
            .iter()
            .map(|near| near.node.to_string())
            .collect();
        assert_eq!(watched, ["a", "d"]);
        assert_eq!(assigned.hops.len(), 2);
        let lost = [("a".parse().unwrap(), "b".parse().unwrap())].into();
        others.judged.send_replace(Judgement {
            lost,
            ..Judgement::default()
        });
        after(MILLISECOND).await;
        let jobs = others.jobs();
        assert!(
            matches!(jobs[..], [Given::Survey(false), Given::Reach(_, true)]),
            "{jobs:?}"
        );
        // What was known before is no news.
        others.judged.send_modify(|_| ());
        after(MILLISECOND).await;
        assert_eq!(others.jobs(), []);
        // The next agent is to know.
        after(CHECKPOINT_DELAY + MILLISECOND).await;
        let checkpoint = Checkpoint::load(&others.state_directory).unwrap().unwrap();
        assert_eq!(checkpoint.judgement.lost.len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn that_no_leader_is_watched_or_the_lease_is_refused_is_reported_while_it_lasts() {
    beside(None, async |others| {
        others.publish(2);
        after(100 * MILLISECOND).await;
        let message = |about: &str| {
            let status = others.status.borrow().clone();
            let found = status?
                .conditions
                .iter()
                .find(|condition| condition.type_ == about)
                .cloned();
            found.map(|condition| condition.message)
        };
        others.failed.send_replace(Some("no socket".to_owned()));
        after(MILLISECOND).await;
        let text = message("Ready").unwrap();
        assert!(
            text.contains("no socket") && text.contains("leaders are not watched"),
            "{text}"
        );
        others.failed.send_replace(None);
        after(MILLISECOND).await;
        assert!(!message("Ready").unwrap().contains("no socket"));
        others.refused.send_replace(Some("forbidden".to_owned()));
        after(MILLISECOND).await;
        assert!(message("LeaseRenewed").unwrap().starts_with("forbidden"));
        others.refused.send_replace(None);
        after(MILLISECOND).await;
        assert_eq!(message("LeaseRenewed"), None);
    })
    .await;
}

/// The API server was about to hear of it, and is not heard itself.
#[tokio::test(start_paused = true)]
async fn what_is_over_before_it_was_seen_to_be_written_is_taken_back() {
    beside(None, async |others| {
        others.publish(1);
        after(SECOND).await;
        let mut statuses = others.status.clone();
        let first = statuses.borrow_and_update().clone().unwrap();
        let mut node = MeshNode::new("c", MeshNodeSpec::default());
        node.status = Some((*first).clone());
        let seen = Snapshot {
            node: Some(Arc::new(node)),
            ..snapshot(1)
        };
        others.snapshots.send_replace(Some(Arc::new(seen)));
        after(SECOND).await;
        assert!(!statuses.has_changed().unwrap(), "it has that");
        others.refused.send_replace(Some("forbidden".to_owned()));
        after(SECOND).await;
        assert_ne!(statuses.borrow_and_update().clone().unwrap(), first);
        others.refused.send_replace(None);
        after(SECOND).await;
        assert!(statuses.has_changed().unwrap());
        assert_eq!(statuses.borrow_and_update().clone().unwrap(), first);
    })
    .await;
}
