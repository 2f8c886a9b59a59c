use std::collections::BTreeMap;

use super::*;
use crate::liveness::chance::Chance;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const INTERVAL: Duration = Duration::from_millis(100);

/// How a path treats the probe sent at this time since the beginning: after what time it is answered; `None`: not at all.
type Weather = Box<dyn FnMut(Duration, &mut Chance) -> Option<Duration>>;

/// A path with a detector, on a simulated clock.
struct Path {
    detector: Detector,
    chance: Chance,
    weather: Weather,
    start: Instant,
    now: Instant,
    next: Instant,
    answers: BTreeMap<(Instant, Round), Round>,
    /// When it was taken for dead, and when it was trusted again, since the beginning.
    changes: Vec<(Duration, bool)>,
}

impl Path {
    fn new(seed: u64, weather: impl FnMut(Duration, &mut Chance) -> Option<Duration> + 'static) -> Self {
        let start = Instant::now();
        Self {
            detector: Detector::new(THRESHOLD),
            chance: Chance::new(seed),
            weather: Box::new(weather),
            start,
            now: start,
            next: start,
            answers: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Lets time pass, and returns the path.
    fn run(mut self, time: Duration) -> Self {
        let end = self.now + time;
        loop {
            let answer = self.answers.first_key_value().map(|((at, _), _)| *at);
            let wakes = [Some(self.next), answer, self.detector.poll_timeout()];
            let wake = wakes.into_iter().flatten().min().unwrap();
            if wake > end {
                self.now = end;
                return self;
            }
            self.now = self.now.max(wake);
            self.wake();
        }
    }

    fn wake(&mut self) {
        while let Some(((at, _), round)) = self.answers.pop_first() {
            if at > self.now {
                self.answers.insert((at, round), round);
                break;
            }
            self.detector.handle_answer(round, self.now);
        }
        self.detector.handle_timeout(self.now);
        if self.next <= self.now {
            self.next = self.now + INTERVAL;
            let elapsed = self.elapsed();
            let rtt = (self.weather)(elapsed, &mut self.chance);
            let round = self.detector.handle_sent(self.now);
            if let Some(rtt) = rtt {
                self.answers.insert((self.now + rtt, round), round);
            }
        }
        let is_lost = self.detector.standing() == Standing::Lost;
        if self.changes.last().is_some_and(|(_, lost)| *lost) != is_lost {
            self.changes.push((self.elapsed(), is_lost));
        }
    }

    /// No process runs for this time, here or on the whole machine.
    fn stall(mut self, time: Duration) -> Self {
        self.now += time;
        self.detector.handle_stall();
        self.wake();
        self
    }

    fn losses(&self) -> usize {
        self.changes.iter().filter(|(_, lost)| *lost).count()
    }
}

/// A round trip of `base` milliseconds, nearly normally distributed with a deviation of `jitter`.
fn trip(base: u64, jitter: u64, chance: &mut Chance) -> Duration {
    let spread: f64 = (0..6).map(|_| chance.share() - 0.5).sum();
    let jitter = 1.4 * spread * jitter as f64;
    Duration::from_secs_f64(((base as f64 + jitter) / 1000.0).max(0.000_1))
}

/// Loses so many of a hundred each way.
fn lossy(percent: u32) -> impl FnMut(Duration, &mut Chance) -> Option<Duration> {
    let loss = f64::from(percent) / 100.0;
    move |_, chance| {
        let arrives = chance.share() >= loss && chance.share() >= loss;
        arrives.then(|| trip(20, 2, chance))
    }
}

#[test]
fn a_dead_leader_is_suspected_within_half_a_second_on_a_clean_path_and_trusted_soon_after_its_return() {
    for seed in 0..200 {
        // Healthy for two seconds, a minute or ten, then dead for ten seconds from some moment on.
        let healthy = [2 * SECOND, 60 * SECOND, 600 * SECOND][seed as usize % 3];
        let death = healthy + MS * (seed as u32 % 100);
        let path = Path::new(seed, move |at, chance| {
            (at < death || at > death + 10 * SECOND).then(|| trip(1 + seed % 60, 1, chance))
        });
        let path = path.run(death + 30 * SECOND);
        let [(lost, true), (found, false)] = path.changes[..] else {
            panic!("seed {seed}: {:?}", path.changes)
        };
        assert!(lost - death < 500 * MS, "seed {seed}: {:?}", lost - death);
        assert!(found - death < 10_500 * MS, "seed {seed}: {:?}", found - death);
    }
}

#[test]
fn five_percent_loss_each_way_is_no_reason_for_suspicion_in_an_hour() {
    let losses: usize = (0..10)
        .map(|seed| Path::new(seed, lossy(5)).run(HOUR).losses())
        .sum();
    assert_eq!(losses, 0, "in ten hours");
}

#[test]
fn twenty_percent_loss_each_way_is_mistaken_for_death_once_in_ten_minutes_at_most() {
    for seed in 0..6 {
        let path = Path::new(seed, lossy(20)).run(HOUR);
        assert!(path.losses() <= 1, "seed {seed}: {:?}", path.changes);
    }
}

#[test]
fn death_is_seen_through_loss_later_but_seen() {
    for (percent, within) in [(5, 1200 * MS), (20, 4 * SECOND)] {
        for seed in 0..50 {
            let mut weather = lossy(percent);
            let path = Path::new(seed, move |at, chance| {
                let answer = weather(at, chance);
                answer.filter(|_| at < 120 * SECOND)
            });
            let path = path.run(140 * SECOND);
            // At such a loss one of a hundred is mistaken in the first seconds, while little is known of it.
            let (lost, is_lost) = *path.changes.last().unwrap();
            assert!(
                is_lost && lost >= 119 * SECOND && lost < 120 * SECOND + within,
                "{percent} %, seed {seed}: {lost:?}"
            );
        }
    }
}

#[test]
fn delay_with_jitter_is_no_reason_and_death_is_still_seen() {
    for seed in 0..20 {
        let death = 1800 * SECOND;
        let path = Path::new(seed, move |at, chance| {
            (at < death).then(|| trip(200, 50, chance))
        });
        let path = path.run(death + 10 * SECOND);
        let [(lost, true)] = path.changes[..] else {
            panic!("seed {seed}: {:?}", path.changes)
        };
        assert!(
            lost > death && lost - death < 1500 * MS,
            "seed {seed}: {:?}",
            lost - death
        );
    }
}

#[test]
fn a_path_that_becomes_longer_is_not_dead() {
    for seed in 0..20 {
        let path = Path::new(seed, |at, chance| {
            let base = if at < 60 * SECOND { 20 } else { 300 };
            Some(trip(base, 3, chance))
        });
        assert_eq!(path.run(120 * SECOND).losses(), 0, "seed {seed}");
    }
}

#[test]
fn bursts_are_got_used_to() {
    // A chain of two states: three probes in a row are lost on average, every ten seconds.
    let mut late = 0;
    for seed in 0..5 {
        let mut bad = false;
        let path = Path::new(seed, move |_, chance| {
            bad = chance.share() < if bad { 2.0 / 3.0 } else { 0.01 };
            (!bad).then(|| trip(20, 2, chance))
        });
        let path = path.run(HOUR);
        assert!(path.losses() < 12, "seed {seed}: {}", path.losses());
        late += path
            .changes
            .iter()
            .filter(|(at, lost)| *lost && *at > HOUR / 2)
            .count();
    }
    assert!(late <= 3, "{late} in two and a half hours after the first half");
}

#[test]
fn the_own_sleep_is_nobody_elses_death() {
    for (seed, rtt) in [(1, 1), (2, 80), (3, 450)] {
        let mut path = Path::new(seed, move |_, chance| Some(trip(rtt, 1, chance))).run(10 * SECOND);
        for _ in 0..20 {
            // What answered meanwhile is there: only this process slept.
            path = path.stall(SECOND);
            assert!(
                path.detector.rtt().unwrap() < (rtt as u32 + 60) * MS,
                "sleep is no travel"
            );
            path = path.run(3 * SECOND);
            // Nothing is: the machine slept.
            path.answers.clear();
            path = path.stall(20 * SECOND).run(3 * SECOND);
        }
        assert_eq!(path.changes, [], "{rtt} ms");
        assert!(
            path.detector.rtt().unwrap() < (rtt as u32 + 60) * MS,
            "sleep is no travel"
        );
    }
}

#[test]
fn death_is_seen_by_one_who_hardly_gets_to_run() {
    let death = 20 * SECOND;
    let mut path = Path::new(1, move |at, chance| (at < death).then(|| trip(1, 1, chance))).run(death);
    for _ in 0..20 {
        path = path.stall(250 * MS);
    }
    assert_eq!(path.losses(), 1);
}

#[test]
fn a_path_that_never_answered_proves_nothing() {
    let path = Path::new(1, |_, _| None).run(HOUR);
    assert_eq!((path.losses(), path.detector.standing()), (0, Standing::Unknown));
}

#[test]
fn an_answer_now_and_then_is_no_return() {
    let path = Path::new(1, |at, chance| {
        let count = at.as_millis() / 100;
        (at < 10 * SECOND || count.is_multiple_of(20)).then(|| trip(1, 1, chance))
    });
    let path = path.run(60 * SECOND);
    assert_eq!(path.changes.len(), 1, "{:?}", path.changes);
}

#[test]
fn a_leader_that_is_restarted_again_and_again_is_missed_as_fast_each_time() {
    let path = Path::new(1, |at, chance| {
        (at.as_secs() % 20 < 18).then(|| trip(1, 1, chance))
    });
    let path = path.run(601 * SECOND);
    assert_eq!(path.changes.len(), 60);
    for (at, lost) in &path.changes {
        let since = at.as_millis() as u64 % 20_000;
        let beginning = if *lost { 18_000 } else { 0 };
        assert!(since - beginning < 500, "{at:?} {lost}");
    }
}

/// A tunnel process that was stopped answers what its queues have kept when it goes on.
#[test]
fn a_leader_that_hangs_again_and_again_is_missed_as_fast_each_time_and_found_once() {
    // Which of the thirty probes of a hang the queues keep: all, the first, the last, one of five.
    let queues: [fn(u128) -> bool; 4] = [|_| true, |at| at < 1000, |at| at >= 2000, |at| at % 500 < 100];
    // So many of the answers are taken at a time.
    let batches = [1, 2, 5, 30];
    let cases = (0..queues.len()).flat_map(|queue| batches.map(|batch| (queue, batch)));
    for (queue, batch) in cases {
        let what = format!("queue {queue}, {batch} at a time");
        let path = Path::new(1, move |at, _| {
            let into = at.as_millis() % 15_000;
            let until = 3_000_u128.saturating_sub(into);
            let is_well = at < 15 * SECOND || until == 0;
            let later = MS * u32::try_from(until + into / 100 / batch).unwrap();
            if is_well {
                Some(2 * MS)
            } else {
                queues[queue](into).then_some(later)
            }
        });
        let path = path.run(89 * SECOND);
        assert_eq!(path.changes.len(), 10, "{what}: {:?}", path.changes);
        for (at, lost) in &path.changes {
            let since = at.as_millis() as u64 % 15_000;
            let beginning = if *lost { 0 } else { 3_000 };
            assert!(since - beginning < 500, "{what}: {at:?} {lost}");
        }
        assert!(path.detector.loss() < 0.001, "{what}: {}", path.detector.loss());
    }
}

#[test]
fn a_leader_whose_tunnel_came_up_late_is_missed_as_fast() {
    for begins in [0, 5, 60] {
        let begins = begins * SECOND;
        let dies = begins + 10 * SECOND;
        let up = move |at: Duration, _: &mut Chance| (at >= begins && at < dies).then_some(2 * MS);
        let path = Path::new(1, up).run(dies + SECOND);
        let (at, is_dead) = path.changes[0];
        assert!(
            !is_dead || at < dies + 500 * MS,
            "after {begins:?}: {:?}",
            path.changes
        );
        assert_eq!(path.changes.len(), 1, "after {begins:?}: {:?}", path.changes);
    }
}

#[test]
fn a_late_answer_counts_and_a_second_one_does_not() {
    let (mut detector, start) = (Detector::new(THRESHOLD), Instant::now());
    let at = |count: u32| start + INTERVAL * count;
    for count in 0..20 {
        let round = detector.handle_sent(at(count));
        detector.handle_answer(round, at(count) + MS);
    }
    let missed: Vec<Round> = (20..23).map(|count| detector.handle_sent(at(count))).collect();
    detector.handle_timeout(at(24));
    assert_eq!((detector.run, detector.standing()), (3, Standing::Doubtful));
    detector.handle_answer(missed[1], at(24));
    assert_eq!(detector.run, 1);
    detector.handle_answer(missed[1], at(24));
    detector.handle_answer(missed[0], at(24));
    assert_eq!(detector.run, 1);
    detector.handle_answer(missed[2], at(25));
    assert_eq!(detector.standing(), Standing::Answers);
}

/// A leader that boots, answers a few times and loses its power again.
#[test]
fn a_path_that_answered_a_few_times_is_dead_after_seconds_and_none_of_it_is_learnt() {
    for answers in [1, 3, 9] {
        let path = Path::new(1, move |at, _| {
            let alive = at < answers * INTERVAL || at > 30 * SECOND;
            alive.then_some(MS)
        });
        let path = path.run(60 * SECOND);
        let [(died, true), (back, false)] = path.changes[..] else {
            panic!("{answers}: {:?}", path.changes);
        };
        assert!(died > 8 * SECOND && died < 10 * SECOND, "{answers}: {died:?}");
        assert!(back < 30 * SECOND + 5 * INTERVAL, "{answers}: {back:?}");
        assert!(path.detector.loss() < 0.01, "{answers}: {}", path.detector.loss());
    }
}

#[test]
fn a_path_that_may_answer_by_chance_is_not_dead_for_having_answered_a_few_times() {
    let mut path = Path::new(1, |at, _| (at < 9 * INTERVAL).then_some(MS));
    path.detector.handle_chance(true);
    let path = path.run(60 * SECOND);
    assert!(path.changes.is_empty(), "{:?}", path.changes);
}

/// Its first answers say little of how it loses.
#[test]
fn a_path_of_which_little_is_known_is_not_dead_for_losing_most() {
    for seed in 0..200 {
        let path = Path::new(seed, |_, chance| (chance.share() < 0.3).then_some(MS));
        let path = path.run(4 * SECOND);
        assert!(path.changes.is_empty(), "{seed}: {:?}", path.changes);
    }
}
