use spanwire_crds::{LocationSliceSpec, LocationStatus, MeshNodeSpec};
use spanwire_topology::Generation;

use super::*;
use crate::batch::{ObjectVersion, Target};

#[test]
fn the_phases_of_the_mesh_follow_one_another() {
    let mut world = World::default();
    world.enqueue(
        vec![vec![slice("a-m1", 1), slice("b-m1", 1)], vec![slice("a-head", 1)]],
        vec![],
    );
    let first = world.poll_all();
    assert_eq!(names(&first), ["a-m1", "b-m1"]);
    world.done(&first[0]);
    assert_eq!(world.poll_all(), [], "b-m1 is on its way");
    world.done(&first[1]);
    let last = world.poll_all();
    assert_eq!(names(&last), ["a-head"]);
    assert!(world.queue.is_publishing() && world.queue.poll_published(world.now).is_none());
    world.done(&last[0]);
    let published = world.queue.poll_published(world.now).unwrap();
    assert_eq!(
        (published.generation, published.writes, published.whole),
        (1, 3, true)
    );
    assert!(!world.queue.is_publishing());
    assert_eq!(world.queue.poll_published(world.now), None, "it is reported once");
}

#[test]
fn a_large_batch_yields_to_what_is_urgent_and_the_next_one_does_not() {
    let heads = || (0..50).map(|number| slice(&format!("{number:02}-head"), 1));
    let mut world = World::default();
    world.enqueue(vec![heads().collect()], vec![mesh_node("n1", None, 1)]);
    let mut begun = world.poll_all();
    assert_eq!(begun.len(), MESH + 1);
    world.queue.interrupt();
    assert_eq!(world.poll_all(), [], "no more of it begins");
    world.done(&begun.pop().unwrap());
    for write in begun.drain(..) {
        assert_eq!(
            world.queue.poll_published(world.now),
            None,
            "{write:?} is on its way"
        );
        world.done(&write);
    }
    let published = world.queue.poll_published(world.now).unwrap();
    assert_eq!((published.writes, published.whole), (MESH, false));
    assert!(!published.unknown, "what was not begun was not written");

    let left = heads().skip(MESH).collect();
    world.enqueue(vec![vec![slice("urgent-head", 1)], left], vec![]);
    let first = world.poll_all();
    assert_eq!(names(&first), ["urgent-head"]);
    world.queue.interrupt();
    world.done(&first[0]);
    let mut written = 0;
    loop {
        let writes = world.poll_all();
        if writes.is_empty() {
            break;
        }
        written += writes.len();
        writes.iter().for_each(|write| world.done(write));
    }
    assert_eq!(written, 50 - MESH, "of two batches one is written whole");
    assert!(world.queue.poll_published(world.now).unwrap().whole);

    world.enqueue(vec![heads().collect()], vec![]);
    begun = world.poll_all();
    world.queue.interrupt();
    begun.iter().for_each(|write| world.done(write));
    assert!(!world.queue.poll_published(world.now).unwrap().whole);
}

#[test]
fn a_batch_of_which_all_has_begun_is_not_interrupted() {
    let mut world = World::default();
    world.enqueue(vec![vec![slice("a-head", 1)]], vec![]);
    let begun = world.poll_all();
    world.queue.interrupt();
    world.done(&begun[0]);
    assert!(world.queue.poll_published(world.now).unwrap().whole);
}

#[test]
fn a_change_of_an_object_overtakes_thousands_of_first_writes() {
    let mut world = World::default();
    let first = (0..5000)
        .map(|number| mesh_node(&format!("n{number}"), None, 1))
        .collect();
    world.enqueue(vec![], first);
    let on_their_way = world.poll_all();
    assert_eq!(on_their_way.len(), OTHERS[Class::Create as usize], "a bound");
    let rest = vec![mesh_node("old", Some("1"), 2), location_status("a", 1)];
    world.enqueue(vec![vec![slice("a-head", 1)]], rest);
    assert_eq!(names(&world.poll_all()), ["a-head", "old", "a"]);
    world.done(&on_their_way[0]);
    assert_eq!(world.poll_all().len(), 1, "the first writes go on");
}

#[test]
fn what_thousands_of_mesh_nodes_say_delays_the_status_of_no_location() {
    let mut world = World::default();
    let mut answers: Vec<Write> = (0..5000).map(|number| answer(&format!("n{number}"))).collect();
    let mut node = mesh_node("n0", Some("1"), 1);
    answers.push(location_status("a", 1));
    answers.push(node.clone());
    world.enqueue(vec![], answers);
    let on_their_way = world.poll_all();
    assert_eq!(names(&on_their_way), ["n0", "a", "n0", "n1"]);
    assert_eq!(on_their_way[0], node, "it is written apart from its spec");
    for write in &on_their_way {
        world.done(write);
    }
    node = mesh_node("n2", Some("1"), 2);
    world.enqueue(vec![], vec![answer("n2"), node]);
    assert_eq!(
        world.poll_all().len(),
        2,
        "what is decided no more is not written"
    );
}

#[test]
fn a_write_that_is_refused_for_good_delays_only_its_own_object() {
    let mut world = World::default();
    world.enqueue(
        vec![],
        vec![mesh_node("bad", None, 1), mesh_node("good", None, 1)],
    );
    let writes = world.poll_all();
    assert_eq!(names(&writes), ["bad", "good"]);
    world.refuse(&writes[0]);
    world.done(&writes[1]);
    let mut attempts = 0;
    for second in 0..60 {
        world.enqueue(vec![], vec![mesh_node(&format!("n{second}"), None, 1)]);
        for write in world.poll_all() {
            if write.name() == "bad" {
                attempts += 1;
                world.refuse(&write);
            } else {
                assert_eq!(write.name(), format!("n{second}"), "no other waits");
                world.done(&write);
            }
        }
        world.pass(Duration::from_secs(1));
    }
    assert!((5..15).contains(&attempts), "{attempts} attempts in a minute");
    world.enqueue(vec![], vec![mesh_node("bad", None, 2)]);
    let mended = world.poll_all();
    assert_eq!(names(&mended), ["bad"], "other content is tried at once");
}

#[test]
fn a_refused_slice_holds_back_the_later_writes_of_its_own_location_alone() {
    let mut world = World::default();
    let phases = || {
        vec![
            vec![slice("a-m1", 1), slice("a-m2", 1), slice("b-m1", 1)],
            vec![slice("a-head", 1), slice("b-head", 1)],
        ]
    };
    world.enqueue(phases(), vec![]);
    let members = world.poll_all();
    assert_eq!(names(&members), ["a-m1", "a-m2", "b-m1"]);
    world.refuse(&members[0]);
    world.done(&members[1]);
    world.done(&members[2]);
    let heads = world.poll_all();
    assert_eq!(names(&heads), ["b-head"]);
    world.done(&heads[0]);
    let published = world.queue.poll_published(world.now).unwrap();
    assert!(!published.whole && !published.unknown, "{published:?}");

    // Decided again before it is time: not tried.
    world.enqueue(vec![vec![slice("a-m1", 1)], vec![slice("a-head", 1)]], vec![]);
    assert_eq!(world.poll_all(), []);
    assert!(!world.queue.poll_published(world.now).unwrap().whole);
    let due = world.queue.poll_timeout().unwrap();
    assert!(!world.queue.handle_timeout(due - Duration::from_millis(1)));
    assert!(world.queue.handle_timeout(due), "to be decided again");
    assert!(!world.queue.handle_timeout(due), "once");
    assert_eq!(world.queue.poll_timeout(), None);
    world.now = due;
    world.enqueue(vec![vec![slice("a-m1", 1)], vec![slice("a-head", 1)]], vec![]);
    let again = world.poll_all();
    assert_eq!(names(&again), ["a-m1"]);
    world.done(&again[0]);
    assert_eq!(names(&world.poll_all()), ["a-head"]);
}

#[test]
fn a_refused_head_does_not_hold_back_members() {
    let mut world = World::default();
    world.enqueue(vec![vec![slice("a-head", 1)]], vec![]);
    let head = world.poll_all();
    world.refuse(&head[0]);
    world.queue.poll_published(world.now);
    world.enqueue(vec![vec![slice("a-m1", 1)], vec![slice("a-head", 1)]], vec![]);
    assert_eq!(names(&world.poll_all()), ["a-m1"]);
}

#[test]
fn newer_content_replaces_what_waits_and_keeps_its_place() {
    let mut world = World::default();
    world.fill(Class::Change);
    world.enqueue(
        vec![],
        vec![mesh_node("x", Some("1"), 1), mesh_node("y", Some("1"), 1)],
    );
    world.enqueue(vec![], vec![mesh_node("x", Some("1"), 2)]);
    world.drain();
    assert_eq!(
        world.poll_all(),
        [mesh_node("x", Some("1"), 2), mesh_node("y", Some("1"), 1)]
    );
}

#[test]
fn what_is_decided_while_a_write_is_on_its_way_is_decided_again_upon_its_result() {
    let mut world = World::default();
    world.enqueue(vec![], vec![mesh_node("x", Some("1"), 1)]);
    let first = world.poll_all();
    world.enqueue(vec![], vec![mesh_node("x", Some("1"), 2)]);
    assert_eq!(world.poll_all(), [], "one write of an object at a time");
    let again = world.queue.handle_outcome(&first[0], Outcome::Done, world.now);
    assert_eq!(again, Some(first[0].key()));
    assert_eq!(world.poll_all(), [], "it was decided upon the version before");
}

#[test]
fn what_is_no_longer_wanted_is_not_written() {
    let mut world = World::default();
    world.fill(Class::Change);
    world.enqueue(
        vec![],
        vec![mesh_node("x", Some("1"), 1), location_delete("gone")],
    );
    let settled = [mesh_node("x", Some("1"), 1).key()].into();
    world.queue.enqueue(
        Batch {
            settled,
            ..Batch::default()
        },
        world.now,
    );
    world.drain();
    assert_eq!(world.poll_all(), []);
}

#[test]
fn a_mesh_node_of_an_earlier_decision_still_waits_after_the_next() {
    let mut world = World::default();
    world.fill(Class::Change);
    world.enqueue(
        vec![],
        vec![mesh_node("x", Some("1"), 1), location_delete("gone")],
    );
    world.enqueue(vec![], vec![]);
    world.drain();
    assert_eq!(
        names(&world.poll_all()),
        ["x"],
        "all writes of Locations are in every batch"
    );
}

#[test]
fn a_conflict_is_decided_again() {
    let mut world = World::default();
    world.enqueue(
        vec![vec![slice("a-m1", 1)], vec![slice("a-head", 1)]],
        vec![mesh_node("x", Some("1"), 1)],
    );
    let writes = world.poll_all();
    for write in &writes {
        let again = world.queue.handle_outcome(write, Outcome::Conflict, world.now);
        assert_eq!(again, Some(write.key()));
    }
    assert_eq!(world.poll_all(), []);
    let published = world.queue.poll_published(world.now).unwrap();
    assert!(published.unknown && !published.whole, "{published:?}");
}

#[test]
fn an_object_that_has_a_conflict_each_time_is_tried_less_and_less_often_and_delays_nothing_else() {
    let mut world = World::default();
    let (mut attempts, mut others, mut of_mesh) = (0, 0, 0);
    let mut content = 0;
    for step in 0..600 {
        // Decided again at each step, ten times a second, and with other content each time.
        content += 1;
        let again = mesh_node("bad", Some(&content.to_string()), content);
        let fine = mesh_node(&format!("n{step}"), Some("1"), 1);
        let phases = vec![
            vec![slice("a-m1", usize::from(content)), slice("b-m1", 1)],
            vec![slice("b-head", 1)],
        ];
        world.enqueue(phases, vec![again, fine]);
        loop {
            let writes = world.poll_all();
            if writes.is_empty() {
                break;
            }
            for write in writes {
                match write.name() {
                    "bad" | "a-m1" => {
                        *(if write.name() == "bad" {
                            &mut attempts
                        } else {
                            &mut of_mesh
                        }) += 1;
                        let key = world.queue.handle_outcome(&write, Outcome::Conflict, world.now);
                        assert_eq!(key, Some(write.key()));
                    }
                    _ => {
                        others += 1;
                        world.done(&write);
                    }
                }
            }
        }
        world.queue.poll_published(world.now).unwrap();
        world.pass(Duration::from_millis(100));
    }
    assert!((6..15).contains(&attempts), "{attempts} attempts in a minute");
    assert!((6..15).contains(&of_mesh), "{of_mesh} attempts in a minute");
    assert_eq!(others, 600 * 3, "nothing else waits");
    assert_eq!(world.queue.refusals(&mesh_node("bad", None, 1).key()), attempts);
}

#[test]
fn a_conflict_now_and_then_delays_nothing() {
    let mut world = World::default();
    for content in 1..20 {
        world.enqueue(vec![], vec![mesh_node("x", Some("1"), content)]);
        let write = world.poll_all();
        world
            .queue
            .handle_outcome(&write[0], Outcome::Conflict, world.now);
        world.enqueue(vec![], vec![mesh_node("x", Some("2"), content)]);
        let again = world.poll_all();
        assert_eq!(names(&again), ["x"], "at once");
        world.done(&again[0]);
    }
}

#[test]
fn what_was_refused_together_is_not_tried_again_together() {
    let mut world = World::default();
    let writes: Vec<Write> = (0..8)
        .map(|number| mesh_node(&format!("n{number}"), None, 1))
        .collect();
    world.enqueue(vec![], writes);
    let mut times = BTreeSet::new();
    for write in world.poll_all() {
        world.refuse(&write);
        times.insert(world.queue.refusals[&write.key()].until);
    }
    assert_eq!(times.len(), 8);
    let [first, last] = [times.first(), times.last()].map(|time| *time.unwrap() - world.now);
    assert!(first >= RETRY.0 / 2 && last <= RETRY.0, "{first:?} {last:?}");
}

#[test]
fn an_api_server_that_gives_no_answer_is_left_alone_for_longer_and_longer() {
    let mut world = World::default();
    world.enqueue(
        vec![vec![slice("a-m1", 1)], vec![slice("a-head", 1)]],
        vec![mesh_node("x", None, 1)],
    );
    for write in world.poll_all() {
        assert_eq!(
            world.queue.handle_outcome(&write, Outcome::Unanswered, world.now),
            None
        );
    }
    assert!(world.queue.is_paused(world.now));
    let published = world.queue.poll_published(world.now).unwrap();
    assert!(published.unknown, "the mesh is decided again");
    let mut pauses = Vec::new();
    for _ in 0..10 {
        assert_eq!(world.poll_all(), []);
        let until = world.queue.poll_timeout().unwrap();
        pauses.push(until - world.now);
        world.now = until;
        world.queue.handle_timeout(until);
        let write = world.poll_all();
        assert_eq!(names(&write), ["x"], "it is tried again");
        world
            .queue
            .handle_outcome(&write[0], Outcome::Unanswered, world.now);
    }
    assert_eq!((pauses[0], pauses[9]), RETRY);
    assert!(pauses.is_sorted());
    let until = world.queue.poll_timeout().unwrap();
    world.now = until;
    world.queue.handle_timeout(until);
    let write = world.poll_all();
    world.done(&write[0]);
    assert_eq!(world.queue.poll_timeout(), None);
}

struct World {
    queue: WriteQueue,
    now: Instant,
    generation: u64,
    filled: Vec<Write>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            queue: WriteQueue::default(),
            now: Instant::now(),
            generation: 0,
            filled: Vec::new(),
        }
    }
}

impl World {
    fn enqueue(&mut self, phases: Vec<Vec<Write>>, rest: Vec<Write>) {
        self.generation += 1;
        let batch = Batch {
            generation: Generation(self.generation),
            phases,
            rest,
            ..Batch::default()
        };
        self.queue.enqueue(batch, self.now);
    }

    fn poll_all(&mut self) -> Vec<Write> {
        std::iter::from_fn(|| self.queue.poll_write(self.now)).collect()
    }

    fn done(&mut self, write: &Write) {
        assert_eq!(self.queue.handle_outcome(write, Outcome::Done, self.now), None);
    }

    fn refuse(&mut self, write: &Write) {
        assert_eq!(self.queue.handle_outcome(write, Outcome::Refused, self.now), None);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.queue.handle_timeout(self.now);
    }

    /// As many writes of a class are on their way as may be.
    fn fill(&mut self, class: Class) {
        let fillers =
            (0..OTHERS[class as usize]).map(|number| mesh_node(&format!("filler{number}"), Some("1"), 1));
        self.enqueue(vec![], fillers.collect());
        self.filled = self.poll_all();
    }

    fn drain(&mut self) {
        for write in std::mem::take(&mut self.filled) {
            self.done(&write);
        }
    }
}

fn names(writes: &[Write]) -> Vec<&str> {
    writes.iter().map(Write::name).collect()
}

fn version(text: &str) -> ObjectVersion {
    ObjectVersion {
        uid: "uid".to_owned(),
        version: text.to_owned(),
    }
}

/// A slice of the location that its name begins with.
fn slice(name: &str, content: usize) -> Write {
    Write::Slice {
        name: name.to_owned(),
        version: None,
        spec: LocationSliceSpec {
            location: name[..1].to_owned(),
            members: vec![spanwire_crds::SliceMember::default(); content],
            ..LocationSliceSpec::default()
        },
    }
}

fn mesh_node(name: &str, of: Option<&str>, content: u16) -> Write {
    Write::MeshNode {
        name: name.to_owned(),
        version: of.map(version),
        node_uid: "uid".to_owned(),
        spec: MeshNodeSpec {
            listen_port: Some(content),
            ..MeshNodeSpec::default()
        },
    }
}

fn location_status(name: &str, nodes: u32) -> Write {
    Write::LocationStatus {
        name: name.to_owned(),
        version: Some(version("1")),
        status: LocationStatus {
            nodes,
            ..LocationStatus::default()
        },
    }
}

fn answer(name: &str) -> Write {
    let condition = serde_json::json!({
        "type": "Accepted", "status": "False", "reason": "X", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    Write::MeshNodeStatus {
        name: name.to_owned(),
        version: Some(version("1")),
        condition: Box::new(serde_json::from_value(condition).unwrap()),
    }
}

fn location_delete(name: &str) -> Write {
    Write::DeleteLocation(Target {
        name: name.to_owned(),
        version: version("1"),
    })
}
