//! Asks what the plan gives to watch, in a thread of its own: whatever else the agent does, or waits for, delays nothing of it.
//!
//! What is asked when and what follows is the [`Prober`]'s; here are the sockets and the clock. What is to be watched comes in as
//! the latest of its kind, and what is judged goes out the same way, so that neither can pile up.
//!
//! What leaders say to each other ([`Advisor`]) is sent and heard here too: it is of use while everything else waits.

mod chance;
mod mail;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use spanwire_cluster::backoff::Backoff;
use spanwire_core::{
    advice::{Advisor, Heeded, OwnKey, Said},
    liveness::{Assignment, Judgement, Prober, Question, Seen, Settings, Way},
};
use spanwire_kernel::{Echo, Neighbour, Neighbours, PrivateKey};
use spanwire_topology::{Family, NodeName};
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, sleep, sleep_until},
};

use chance::Chance;
use mail::Mail;

/// How often the kernel is asked where neighbours are: it is asked to keep in mind what is sent there anyway.
const LOOK: Duration = Duration::from_secs(1);

/// After a failure it goes well again when it has for so long.
const STEADY: Duration = Duration::from_secs(10);

/// What is known of everything that is watched.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Each thing.
    pub seen: Vec<Seen>,
    /// What leaders of other locations say.
    pub said: Vec<Said>,
    /// Why none can be heard, where that is so.
    pub deaf: Option<String>,
    /// How often each is asked.
    pub interval: Duration,
    /// How much of a processor the thread has used so far.
    pub processor: Duration,
}

/// A request for what is known.
pub type Ask = oneshot::Sender<Sight>;

/// The agent's ends of the channels.
pub struct Ends {
    /// What is to be watched.
    pub assignments: watch::Sender<Arc<Assignment>>,
    /// The node's key, with which it speaks to other leaders.
    pub keys: watch::Sender<Option<PrivateKey>>,
    /// What follows for the leaders.
    pub judgements: watch::Receiver<Judgement>,
    /// What leaders of other locations say.
    pub advice: watch::Receiver<Heeded>,
    /// Why nothing is watched, where that is so.
    pub failures: watch::Receiver<Option<String>>,
    /// Requests for what is known.
    pub asks: mpsc::Sender<Ask>,
}

/// Starts the thread; `before` is what was judged before this process began. It ends with the channel of what is to be watched.
///
/// # Errors
/// When the kernel gives no thread.
pub fn start(settings: Settings, before: Judgement) -> io::Result<Ends> {
    let (assignments, assigned) = watch::channel(Arc::default());
    let (judged, judgements) = watch::channel(before.clone());
    let (keys, key) = watch::channel(None);
    let (advised, advice) = watch::channel(Heeded::default());
    let (failed, failures) = watch::channel(None);
    let (asks, asked) = mpsc::channel(4);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let outside = Outside {
        assigned,
        key,
        judged,
        advised,
        failed,
        asked,
    };
    let keep = move || runtime.block_on(outside.keep(settings, before));
    thread::Builder::new().name("prober".to_owned()).spawn(keep)?;
    Ok(Ends {
        assignments,
        keys,
        judgements,
        advice,
        failures,
        asks,
    })
}

/// The thread's ends of the channels.
struct Outside {
    assigned: watch::Receiver<Arc<Assignment>>,
    key: watch::Receiver<Option<PrivateKey>>,
    judged: watch::Sender<Judgement>,
    advised: watch::Sender<Heeded>,
    failed: watch::Sender<Option<String>>,
    asked: mpsc::Receiver<Ask>,
}

impl Outside {
    /// Watches, and begins again after a failure.
    async fn keep(mut self, settings: Settings, mut before: Judgement) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            let ended = match Shell::open(settings, before.clone()) {
                Ok(shell) => {
                    let ended = shell.run(&mut self).await;
                    before = self.judged.borrow().clone();
                    ended
                }
                Err(error) => Err(error),
            };
            let Err(error) = ended else {
                return;
            };
            // As published meanwhile: what was judged may not hold any more, and is where the next one begins.
            self.judged.send_replace(Judgement::default());
            self.advised.send_replace(Heeded::default());
            self.failed.send_replace(Some(format!("{error:#}")));
            sleep(backoff.wait()).await;
        }
    }
}

struct Shell {
    prober: Prober,
    echo: Echo,
    neighbours: Neighbours,
    advisor: Advisor,
    mail: Mail,
    assignment: Arc<Assignment>,
    /// Where the other leaders of the own location are.
    found: BTreeMap<(NodeName, Family), Neighbour>,
}

impl Shell {
    fn open(settings: Settings, before: Judgement) -> anyhow::Result<Self> {
        let mut chance = Chance::default();
        let identifier = chance.number() as u16;
        let mut sessions = Chance::default();
        Ok(Self {
            prober: Prober::new(settings, before, Box::new(move || chance.number())),
            echo: Echo::open(identifier)?,
            neighbours: Neighbours::open()?,
            advisor: Advisor::new(Box::new(move || sessions.number())),
            mail: Mail::default(),
            assignment: Arc::default(),
            found: BTreeMap::new(),
        })
    }

    /// Runs until the channel of what is to be watched ends.
    async fn run(mut self, outside: &mut Outside) -> anyhow::Result<()> {
        let steady = sleep(STEADY);
        let mut steady = std::pin::pin!(steady);
        outside.assigned.mark_changed();
        outside.key.mark_changed();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wake = [
                self.prober.poll_timeout(),
                self.advisor.poll_timeout(),
                self.mail.poll_timeout(),
            ];
            let wake = wake.into_iter().flatten().min();
            // Answers first: what came in time is not to be missed because of when this is run.
            tokio::select! {
                biased;
                answers = self.echo.receive() => {
                    let now = Instant::now();
                    for (from, number) in answers? {
                        self.prober.handle_answer(from, number, now);
                    }
                }
                changed = outside.assigned.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let assignment = Arc::clone(&outside.assigned.borrow_and_update());
                    let now = Instant::now();
                    self.prober.handle_assignment(&assignment, now);
                    self.advisor.handle_partners(&assignment.partners, now);
                    self.assignment = assignment;
                    self.look().await;
                }
                Ok(()) = outside.key.changed() => {
                    let key = outside.key.borrow_and_update().as_ref().map(|key| OwnKey::new(*key.as_bytes()));
                    self.advisor.handle_key(key, Instant::now());
                }
                _ = look.tick(), if self.looks() => self.look().await,
                datagrams = self.mail.receive() => {
                    self.hear(datagrams, Instant::now());
                }
                () = &mut steady, if outside.failed.borrow().is_some() => {
                    outside.failed.send_replace(None);
                }
                Some(answer) = outside.asked.recv() => {
                    // The asker may have gone.
                    let _gone = answer.send(self.sight());
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {}
            }
            self.prober.handle_timeout(Instant::now());
            self.advisor.handle_timeout(Instant::now());
            self.mail.handle_timeout(Instant::now());
            while let Some(question) = self.prober.poll_question() {
                // Whatever keeps it from being sent keeps it from being answered.
                if let Err(error) = self.send(&question) {
                    tracing::trace!(%error, to = %question.target, "an echo request cannot be sent");
                }
            }
            while let Some((to, datagram)) = self.advisor.poll_datagram() {
                self.mail.send(to, &datagram);
            }
            if let Some(judgement) = self.prober.poll_judgement() {
                outside.judged.send_replace(judgement);
            }
            if let Some(heeded) = self.advisor.poll_advice() {
                outside.advised.send_replace(heeded);
            }
        }
    }

    fn hear(&mut self, datagrams: io::Result<Vec<(IpAddr, Vec<u8>)>>, now: Instant) {
        self.mail.pause(now);
        match datagrams {
            Ok(datagrams) => {
                for (from, datagram) in datagrams {
                    self.advisor.handle_datagram(from, &datagram, now);
                }
            }
            Err(error) => self.mail.fail(&error),
        }
    }

    /// Whether there is anything that changes without an assignment.
    fn looks(&self) -> bool {
        !self.assignment.hops.is_empty() || self.assignment.partners.link.is_some()
    }

    async fn look(&mut self) {
        self.mail.follow(&self.assignment);
        self.look_for_neighbours().await;
    }

    async fn look_for_neighbours(&mut self) {
        let mut found = BTreeMap::new();
        for (key, hop) in &self.assignment.hops {
            match self.neighbours.find(&hop.link, hop.neighbour).await {
                Ok(neighbour) => found.extend(neighbour.map(|neighbour| (key.clone(), neighbour))),
                // What cannot be asked through it proves nothing meanwhile.
                Err(error) => tracing::debug!(%error, "the kernel does not say where a neighbour is"),
            }
        }
        self.found = found;
    }

    fn send(&mut self, question: &Question) -> io::Result<()> {
        let (to, number) = (question.target, question.number);
        match &question.way {
            Way::Hop(node) => {
                let hop = self.assignment.hop(node, Family::of(to));
                let hop = hop.ok_or(io::ErrorKind::HostUnreachable)?;
                match hop.answers_at {
                    None => self.echo.send_by(&hop.link, to, number),
                    Some((_, address)) => {
                        let neighbour = Neighbour::at(&hop.link, address)?;
                        self.echo.send_through(&neighbour, to, hop.source, number)
                    }
                }
            }
            Way::FromOverlay => {
                let own = self.overlay(Family::of(to));
                let own = own.ok_or(io::ErrorKind::AddrNotAvailable)?;
                self.echo.send(to, own, number)
            }
            Way::Through(leader) => {
                let key = (leader.clone(), Family::of(to));
                let found = self.found.get(&key).zip(self.assignment.hops.get(&key));
                let (neighbour, hop) = found.ok_or(io::ErrorKind::HostUnreachable)?;
                self.echo.send_through(neighbour, to, hop.source, number)
            }
        }
    }

    fn overlay(&self, family: Family) -> Option<IpAddr> {
        let mut own = self.assignment.overlay.iter().copied();
        own.find(|address| Family::of(*address) == family)
    }

    fn sight(&self) -> Sight {
        Sight {
            seen: self.prober.seen(Instant::now()),
            said: self.advisor.said(),
            deaf: self.mail.failure().map(str::to_owned),
            interval: self.prober.interval(),
            processor: spanwire_kernel::processor_time(),
        }
    }
}

#[cfg(test)]
mod netns;
