//! In which order writes are done, and what becomes of those that fail; sans I/O.
//!
//! What agents derive the mesh from goes first, in the phases that the decision gives. Everything else follows on its
//! own, one write per object at a time, the newest content alone. What has gone wrong with such queues, and must not here:
//!
//! * A change of one object behind the first writes of thousands: changes of objects that exist overtake first writes,
//!   and each class has a bound of its own, so that none waits for another to end.
//! * A write that is refused for good holds up everything: it is retried less and less often, and delays only its own
//!   object, and of the mesh the later writes of its own location. A conflict is decided upon again at once, but of an object
//!   that has one each time (a definition is missing, a webhook answers so, another client writes without end) less and less
//!   often as well.
//! * Thousands of writes that were refused together are tried again together: each waits for a little less than all.
//! * An API server that is away is asked by all writes at once: the first write that gets no answer pauses all.
//! * A write that waits while its object changes: a later decision replaces it or takes it back.
//! * What people change behind a large batch, such as the heads of all locations when one more is connected: it interrupts
//!   the batch, of which what has not begun is decided upon again. Of two batches one is written whole.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use crate::batch::{Batch, ObjectKey, ObjectKind, Write};

#[cfg(test)]
mod tests;

/// How many writes of the mesh are on their way at a time.
const MESH: usize = 12;
/// How many writes of each other class are.
const OTHERS: [usize; 4] = [4, 8, 2, 2];
/// How long to wait after a failure, at first and at last; for a refused write it is half of that at least.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// The object was not the one that was decided upon.
    Conflict,
    /// The API server refuses it.
    Refused,
    /// It is not known whether it was done.
    Unanswered,
}

/// What a batch came to, but for its `rest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The decision.
    pub generation: u64,
    /// How many writes were done.
    pub writes: usize,
    /// How long it took.
    pub duration: Duration,
    /// Whether all of it was written.
    pub whole: bool,
    /// Whether it is not known what of it was written, or another writer interfered.
    pub unknown: bool,
}

/// The writes that wait and those that are on their way.
#[derive(Debug, Default)]
pub struct WriteQueue {
    phases: VecDeque<VecDeque<Write>>,
    publishing: Option<Publishing>,
    /// The batch before was interrupted.
    interrupted: bool,
    /// Writes of the mesh that are on their way.
    mesh: BTreeMap<ObjectKey, Write>,
    /// All other writes that wait, in the order in which they came.
    waiting: BTreeMap<ObjectKey, (Class, u64)>,
    order: [BTreeMap<u64, Write>; 4],
    /// All others that are on their way.
    others: BTreeMap<ObjectKey, Write>,
    in_flight: [usize; 4],
    number: u64,
    refusals: BTreeMap<ObjectKey, Refusal>,
    paused_until: Option<Instant>,
    /// How long the last pause was, until a write is done again.
    pause: Option<Duration>,
}

#[derive(Debug)]
struct Publishing {
    generation: u64,
    started: Instant,
    writes: usize,
    whole: bool,
    unknown: bool,
    /// The batch before was written whole, so that this one need not be.
    yields: bool,
    /// How many phases are done.
    phase: usize,
    /// Locations of which nothing is written in phases after this one.
    given_up: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Refusal {
    write: Write,
    until: Instant,
    /// How often it was, one after the other.
    times: u32,
    /// The object was not the one that was decided upon, so other content has to wait too.
    conflict: bool,
    /// The next decision has to write it again.
    of_mesh: bool,
    /// The state knows that it is to be tried again.
    retried: bool,
}

impl Refusal {
    fn holds(&self, write: &Write, now: Instant) -> bool {
        self.until > now && (self.conflict || self.write.same_content(write))
    }
}

/// Writes that do not wait for those of another class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Of an object that exists.
    Change = 0,
    /// Of one that does not exist yet.
    Create = 1,
    /// What only people read.
    Report = 2,
    /// The same on the objects of nodes, of which there are thousands.
    Answer = 3,
}

const CLASSES: [Class; 4] = [Class::Change, Class::Create, Class::Report, Class::Answer];

impl Class {
    const fn of(write: &Write) -> Self {
        match write {
            Write::MeshNode { version: None, .. } => Self::Create,
            Write::LocationStatus { .. } => Self::Report,
            Write::MeshNodeStatus { .. } => Self::Answer,
            Write::Slice { .. }
            | Write::DeleteSlice(_)
            | Write::MeshNode { .. }
            | Write::DeleteMeshNode(_)
            | Write::CreateLocation { .. }
            | Write::DeleteLocation(_)
            | Write::PeerStatus { .. } => Self::Change,
        }
    }
}

impl WriteQueue {
    /// Takes a batch. The phases of the batch before have to be written ([`is_publishing`](Self::is_publishing)).
    pub fn enqueue(&mut self, batch: Batch, now: Instant) {
        let publishing = Publishing {
            generation: batch.generation.0,
            started: now,
            writes: 0,
            whole: true,
            unknown: false,
            yields: !std::mem::take(&mut self.interrupted),
            phase: 0,
            given_up: BTreeMap::new(),
        };
        let of_batch: BTreeSet<ObjectKey> = batch.phases.iter().flatten().map(Write::key).collect();
        self.refusals
            .retain(|key, refusal| !refusal.of_mesh || of_batch.contains(key));
        self.phases = batch.phases.into_iter().map(VecDeque::from).collect();
        self.publishing = Some(publishing);
        let wanted: BTreeSet<ObjectKey> = batch.rest.iter().map(Write::key).collect();
        let taken_back = |key: &ObjectKey| match key.kind {
            ObjectKind::MeshNode => batch.settled.contains(key),
            ObjectKind::Slice | ObjectKind::Location | ObjectKind::Peer | ObjectKind::MeshNodeStatus => {
                !wanted.contains(key)
            }
        };
        let gone: Vec<ObjectKey> = self
            .waiting
            .keys()
            .filter(|key| taken_back(key))
            .cloned()
            .collect();
        for key in gone {
            self.remove(&key);
            self.refusals.remove(&key);
        }
        for write in batch.rest {
            self.push(write);
        }
    }

    /// Whether writes of the mesh wait or are on their way; until they are done nothing may be decided.
    #[must_use]
    pub fn is_publishing(&self) -> bool {
        self.publishing.is_some()
    }

    /// Ends the phases of the batch with the writes that are on their way, for something is to be decided upon that does not
    /// wait for all of them. What is left has to be decided upon again. Of two batches one goes on, so that all of it is
    /// written some time.
    pub fn interrupt(&mut self) {
        let Some(publishing) = self.publishing.as_mut().filter(|publishing| publishing.yields) else {
            return;
        };
        if self.phases.iter().all(VecDeque::is_empty) {
            return;
        }
        publishing.whole = false;
        self.phases.clear();
        self.interrupted = true;
    }

    /// Whether the API server is left alone after it gave no answer.
    #[must_use]
    pub fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }

    /// Returns the next write that may be done.
    pub fn poll_write(&mut self, now: Instant) -> Option<Write> {
        if self.is_paused(now) {
            return None;
        }
        self.poll_mesh(now).or_else(|| self.poll_others(now))
    }

    /// Returns what the last batch came to, once, when its phases are done.
    pub fn poll_published(&mut self, now: Instant) -> Option<Published> {
        if !self.mesh.is_empty() || self.phases.iter().any(|phase| !phase.is_empty()) {
            return None;
        }
        self.phases.clear();
        let publishing = self.publishing.take()?;
        Some(Published {
            generation: publishing.generation,
            writes: publishing.writes,
            duration: now.saturating_duration_since(publishing.started),
            whole: publishing.whole,
            unknown: publishing.unknown,
        })
    }

    /// Handles what became of a write that [`poll_write`](Self::poll_write) returned. Where its object has to be decided
    /// upon again the key of it is returned.
    pub fn handle_outcome(&mut self, write: &Write, outcome: Outcome, now: Instant) -> Option<ObjectKey> {
        match outcome {
            Outcome::Done => (self.paused_until, self.pause) = (None, None),
            Outcome::Unanswered => self.pause(now),
            Outcome::Conflict | Outcome::Refused => {}
        }
        let key = write.key();
        if self.mesh.remove(&key).is_some() {
            self.handle_mesh_outcome(key, write, outcome, now)
        } else {
            self.in_flight[Class::of(write) as usize] -= 1;
            self.others.remove(&key);
            self.handle_other_outcome(key, write, outcome, now)
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let refused = self.refusals.values().filter(|refusal| !refusal.retried);
        refused
            .map(|refusal| refusal.until)
            .chain(self.paused_until)
            .min()
    }

    /// Handles the passing of time; returns whether a refused write of the mesh is to be decided upon again.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let mut again = false;
        self.paused_until = self.paused_until.filter(|until| *until > now);
        for refusal in self.refusals.values_mut() {
            if refusal.until <= now && !refusal.retried {
                refusal.retried = true;
                again |= refusal.of_mesh;
            }
        }
        again
    }

    fn poll_mesh(&mut self, now: Instant) -> Option<Write> {
        if self.mesh.len() >= MESH {
            return None;
        }
        loop {
            let publishing = self.publishing.as_mut()?;
            let Some(write) = self.phases.front_mut()?.pop_front() else {
                // The next phase begins when this one is done.
                if !self.mesh.is_empty() {
                    return None;
                }
                self.phases.pop_front();
                publishing.phase += 1;
                continue;
            };
            let key = write.key();
            let refusal = self.refusals.get(&key);
            if refusal.is_some_and(|refusal| refusal.holds(&write, now)) || publishing.gave_up(&write) {
                publishing.give_up(&write);
                continue;
            }
            self.mesh.insert(key, write.clone());
            return Some(write);
        }
    }

    fn poll_others(&mut self, now: Instant) -> Option<Write> {
        for class in CLASSES {
            let place = class as usize;
            if self.in_flight[place] >= OTHERS[place] {
                continue;
            }
            let ready = |write: &Write| {
                let key = write.key();
                let refused = self.refusals.get(&key);
                !self.others.contains_key(&key) && refused.is_none_or(|refusal| refusal.until <= now)
            };
            let next = self.order[place].iter().find(|(_, write)| ready(write));
            let Some(number) = next.map(|(number, _)| *number) else {
                continue;
            };
            let write = self.order[place].remove(&number)?;
            let key = write.key();
            self.waiting.remove(&key);
            self.others.insert(key, write.clone());
            self.in_flight[place] += 1;
            return Some(write);
        }
        None
    }

    fn handle_mesh_outcome(
        &mut self,
        key: ObjectKey,
        write: &Write,
        outcome: Outcome,
        now: Instant,
    ) -> Option<ObjectKey> {
        let publishing = self.publishing.as_mut()?;
        if outcome == Outcome::Done {
            publishing.writes += 1;
            self.refusals.remove(&key);
            return None;
        }
        publishing.give_up(write);
        match outcome {
            Outcome::Refused => self.refuse(key, write, true, false, now),
            Outcome::Unanswered => {
                publishing.unknown = true;
                self.phases.clear();
            }
            Outcome::Conflict | Outcome::Done => {
                publishing.unknown = true;
                self.refuse(key.clone(), write, true, true, now);
                return Some(key);
            }
        }
        None
    }

    fn handle_other_outcome(
        &mut self,
        key: ObjectKey,
        write: &Write,
        outcome: Outcome,
        now: Instant,
    ) -> Option<ObjectKey> {
        match outcome {
            Outcome::Done => {
                self.refusals.remove(&key);
                // What waits was decided upon the version before; the object as it is now is decided upon again.
                self.remove(&key).map(|_| key)
            }
            Outcome::Conflict => {
                self.remove(&key);
                self.refuse(key.clone(), write, false, true, now);
                Some(key)
            }
            Outcome::Refused | Outcome::Unanswered => {
                if self.waiting.contains_key(&key) {
                    return None; // a newer write, which may be taken
                }
                self.push(write.clone());
                if outcome == Outcome::Refused {
                    self.refuse(key, write, false, false, now);
                }
                None
            }
        }
    }

    /// How often in a row this object's writes were refused, or met another object than was decided upon.
    #[must_use]
    pub fn refusals(&self, key: &ObjectKey) -> u32 {
        self.refusals.get(key).map_or(0, |refusal| refusal.times)
    }

    fn refuse(&mut self, key: ObjectKey, write: &Write, of_mesh: bool, conflict: bool, now: Instant) {
        let before = self.refusals.get(&key);
        let before = before.filter(|refusal| conflict || refusal.write.same_content(write));
        let times = before.map_or(1, |refusal| refusal.times.saturating_add(1));
        // Two writers meet now and then.
        let delay = match times - u32::from(conflict) {
            0 => Duration::ZERO,
            waits => RETRY.0.saturating_mul(1 << (waits - 1).min(16)).min(RETRY.1),
        };
        let refusal = Refusal {
            write: write.clone(),
            until: now + delay.mul_f64(share(&key, times)),
            times,
            conflict,
            of_mesh,
            retried: false,
        };
        self.refusals.insert(key, refusal);
    }

    fn pause(&mut self, now: Instant) {
        // Several writes are on their way when the API server goes: they are one failure.
        if !self.is_paused(now) {
            let delay = self.pause.map_or(RETRY.0, |delay| (delay * 2).min(RETRY.1));
            (self.paused_until, self.pause) = (Some(now + delay), Some(delay));
        }
    }

    /// Adds a write, in place of one of the same object that waits.
    fn push(&mut self, write: Write) {
        let class = Class::of(&write);
        let mut number = self.number;
        let key = write.key();
        if let Some((known, before)) = self.remove(&key) {
            number = if known == class { before } else { number };
        }
        let refused = self.refusals.get(&key);
        if refused.is_some_and(|refusal| !refusal.conflict && !refusal.write.same_content(&write)) {
            self.refusals.remove(&key);
        }
        self.waiting.insert(key, (class, number));
        self.number += 1;
        self.order[class as usize].insert(number, write);
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<(Class, u64)> {
        let (class, number) = self.waiting.remove(key)?;
        self.order[class as usize].remove(&number);
        Some((class, number))
    }
}

impl Publishing {
    /// A write is not done: in later phases nothing is written of the location of the slice.
    fn give_up(&mut self, write: &Write) {
        self.whole = false;
        if let Write::Slice { spec, .. } = write {
            self.given_up.entry(spec.location.clone()).or_insert(self.phase);
        }
    }

    fn gave_up(&self, write: &Write) -> bool {
        let Write::Slice { spec, .. } = write else {
            return false;
        };
        let given_up = self.given_up.get(&spec.location);
        given_up.is_some_and(|phase| *phase < self.phase)
    }
}

/// Returns which part of a delay an object waits, from a half to all of it: another one for each object and each time.
fn share(key: &ObjectKey, times: u32) -> f64 {
    // FNV-1a (RFC 9923): spread is all that is asked of it.
    let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let start = (key.kind as u32 ^ times).wrapping_mul(0x9E37_79B9) ^ 0x811C_9DC5;
    let hash = key.name.bytes().fold(start, hash);
    0.5 + f64::from(hash) / f64::from(u32::MAX) / 2.0
}
