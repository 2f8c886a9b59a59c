//! What is said to whom and when, and what was heard.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use spanwire_topology::{Advice, LocationName, NodeName, PublicKey};

use crate::allowance::Allowance;

use super::{
    Heeded,
    exchange::{Exchange, Verdict},
    message::{Content, Datagram, LENGTH, MOST_NAMES, Stamp, hash, open, seal, sender},
    partners::{Partner, Partners},
    seal::{OwnKey, Pair},
};

/// How often a leader speaks to each other one, but for chance: never more often, and to all of them ten times a second.
const INTERVAL: Duration = Duration::from_secs(1);
const FOR_EACH: Duration = Duration::from_millis(100);
/// It counts, and may be repeated, for so many intervals: three messages in a row may be lost.
const LASTING: u32 = 4;
/// What changes is said at once, and so many times more, so long one after another.
const AGAIN: u8 = 2;
const SOON: Duration = Duration::from_millis(400);
/// How many messages are sent in a second at most, and how many at once.
const RATE: f64 = 50.0;
const BURST: f64 = 20.0;
/// How many messages of a leader are opened in a second at most, and how many at once.
const HEARD_RATE: f64 = 4.0;
const HEARD_BURST: f64 = 8.0;

/// What a leader of another location has said, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its location.
    pub location: LocationName,
    /// Its name.
    pub leader: NodeName,
    /// What it said.
    pub advice: Advice,
}

/// Exchanges advice with the leaders of other locations.
pub struct Advisor {
    random: Box<dyn FnMut() -> u64 + Send>,
    key: Option<OwnKey>,
    partners: Partners,
    /// The same leaders.
    talks: BTreeMap<PublicKey, Talk>,
    sending: Allowance,
    /// When there is something to do; `None` while there is not.
    wake: Option<Instant>,
    datagrams: VecDeque<(IpAddr, Datagram)>,
    /// What counts now, and whether that is news.
    heeded: Heeded,
    is_news: bool,
}

/// What is between this node and a leader of another location.
struct Talk {
    partner: Partner,
    /// `None`: they share no secret.
    pair: Option<Pair>,
    exchange: Exchange,
    /// When to speak next, and what is to be answered then.
    next: Instant,
    answer: Option<Stamp>,
    again: u8,
    hearing: Allowance,
    /// What it said, and until when that counts.
    said: Option<(Advice, Instant)>,
}

impl Advisor {
    /// Returns one that has no key yet. `random` gives numbers that cannot be guessed.
    #[must_use]
    pub fn new(random: Box<dyn FnMut() -> u64 + Send>) -> Self {
        Self {
            random,
            key: None,
            partners: Partners::default(),
            talks: BTreeMap::new(),
            sending: Allowance::new(RATE, BURST),
            wake: None,
            datagrams: VecDeque::new(),
            heeded: Heeded::default(),
            is_news: false,
        }
    }

    /// Takes the node's key. Without one nothing is said, and nothing heard.
    pub fn handle_key(&mut self, key: Option<OwnKey>, now: Instant) {
        let public = |key: &Option<OwnKey>| key.as_ref().map(OwnKey::public);
        if public(&self.key) == public(&key) {
            return;
        }
        self.key = key;
        self.talks.clear();
        let partners = std::mem::take(&mut self.partners);
        self.handle_partners(&partners, now);
    }

    /// Takes with whom to exchange advice, and what is to be said. Of those with whom it goes on everything is remembered.
    pub fn handle_partners(&mut self, partners: &Partners, now: Instant) {
        let before = std::mem::replace(&mut self.partners, partners.clone());
        self.talks
            .retain(|key, talk| partners.leaders.get(key) == Some(&talk.partner));
        for (key, partner) in &partners.leaders {
            if self.talks.contains_key(key) {
                continue;
            }
            if let Some(talk) = self.begin(*key, partner, now) {
                self.talks.insert(*key, talk);
            }
        }
        let is_news_to = |location: &LocationName| {
            let uses = |partners: &Partners| partners.uses.get(location).cloned();
            let own = |partners: &Partners| (partners.groups, partners.draining);
            own(&before) != own(partners) || uses(&before) != uses(partners)
        };
        for talk in self.talks.values_mut() {
            if is_news_to(&talk.partner.location) {
                (talk.next, talk.again) = (now, AGAIN);
            }
        }
        self.conclude(now);
    }

    fn begin(&mut self, key: PublicKey, partner: &Partner, now: Instant) -> Option<Talk> {
        Some(Talk {
            partner: partner.clone(),
            pair: self.key.as_ref()?.pair(key),
            exchange: Exchange::new(&mut self.random),
            next: now,
            answer: None,
            again: AGAIN,
            hearing: Allowance::new(HEARD_RATE, HEARD_BURST),
            said: None,
        })
    }

    /// Takes a message, from whatever address.
    pub fn handle_datagram(&mut self, from: IpAddr, datagram: &[u8], now: Instant) {
        let lasting = self.lasting();
        let talk = sender(datagram).and_then(|sender| self.talks.get_mut(&sender));
        let Some(talk) = talk.filter(|talk| talk.partner.overlay == from) else {
            return;
        };
        // Before anything that costs more than to find out whose it is.
        if !talk.hearing.take(now) {
            return;
        }
        let datagram: Result<&Datagram, _> = datagram.try_into();
        let Some((stamp, content)) = talk
            .pair
            .as_ref()
            .zip(datagram.ok())
            .and_then(|(pair, datagram)| open(pair, datagram))
        else {
            return;
        };
        match talk
            .exchange
            .take(stamp, content.echo, lasting, now, &mut self.random)
        {
            Verdict::Counts { is_first } => {
                let own = self.partners.own.iter();
                let uses = own.filter(|node| content.uses.contains(&hash(node)));
                let advice = Advice {
                    uses: uses.cloned().collect(),
                    groups: content.groups,
                    draining: content.draining,
                };
                let until = now + Duration::from_secs(content.seconds.into());
                talk.said = Some((advice, until));
                if is_first {
                    talk.next = now;
                }
            }
            Verdict::Answer => (talk.next, talk.answer) = (now, Some(stamp)),
            Verdict::Ignore => return,
        }
        self.conclude(now);
    }

    /// Takes the present time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.wake.is_none_or(|wake| now < wake) {
            return;
        }
        let mut due: Vec<(Instant, PublicKey)> = self
            .talks
            .iter()
            .filter(|(_, talk)| talk.next <= now)
            .map(|(key, talk)| (talk.next, *key))
            .collect();
        due.sort_unstable();
        for (_, key) in due {
            if !self.sending.take(now) {
                break;
            }
            self.speak(&key, now);
        }
        self.conclude(now);
    }

    fn speak(&mut self, key: &PublicKey, now: Instant) {
        let (lasting, interval) = (self.lasting(), self.interval());
        let chance = (self.random)() as f64 / u64::MAX as f64;
        let Some((own, talk)) = self.key.as_ref().zip(self.talks.get_mut(key)) else {
            return;
        };
        if talk.again > 0 {
            talk.again -= 1;
            talk.next = now + SOON;
        } else {
            talk.next = now + interval.mul_f64(0.75 + chance / 2.0);
        }
        let Some(pair) = &talk.pair else { return };
        let (stamp, echo) = talk.exchange.next(talk.answer.take(), lasting, now);
        let uses = self.partners.uses.get(&talk.partner.location);
        let content = Content {
            echo,
            seconds: u8::try_from(lasting.as_secs()).unwrap_or(u8::MAX),
            groups: self.partners.groups,
            draining: self.partners.draining,
            uses: names(uses, &talk.partner.node),
        };
        let datagram = seal(pair, own.public(), stamp, &content);
        self.datagrams
            .extend(datagram.map(|datagram| (talk.partner.overlay, datagram)));
    }

    /// Returns a message to send, and to which overlay address.
    pub fn poll_datagram(&mut self) -> Option<(IpAddr, [u8; LENGTH])> {
        self.datagrams.pop_front()
    }

    /// Returns when to call [`Self::handle_timeout`] again; `None` while there is no one to talk to.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    /// Returns what leaders of other locations say, where that is news. What is of no use is not among it: where both sides know groups
    /// of peers each takes what the other sends, whichever leader that uses. That one's tunnels are about to end always is.
    pub fn poll_advice(&mut self) -> Option<Heeded> {
        std::mem::take(&mut self.is_news).then(|| self.heeded.clone())
    }

    /// Returns what all of them say.
    #[must_use]
    pub fn said(&self) -> Vec<Said> {
        let said = self.talks.values().filter_map(|talk| {
            let (advice, _) = talk.said.as_ref()?;
            Some(Said {
                location: talk.partner.location.clone(),
                leader: talk.partner.node.clone(),
                advice: advice.clone(),
            })
        });
        let mut said: Vec<Said> = said.collect();
        said.sort_unstable_by(|one, other| {
            (&one.location, &one.leader).cmp(&(&other.location, &other.leader))
        });
        said
    }

    fn interval(&self) -> Duration {
        let leaders = u32::try_from(self.talks.len()).unwrap_or(u32::MAX);
        INTERVAL.max(FOR_EACH.saturating_mul(leaders))
    }

    fn lasting(&self) -> Duration {
        self.interval() * LASTING
    }

    /// Forgets what does not count any more, and says when to look again.
    fn conclude(&mut self, now: Instant) {
        let is_over = |(_, until): &mut (Advice, Instant)| *until <= now;
        for talk in self.talks.values_mut() {
            talk.said.take_if(is_over);
        }
        let own_groups = self.partners.groups;
        let mut heeded = Heeded::default();
        for talk in self.talks.values() {
            let Some((advice, _)) = &talk.said else { continue };
            let key = || (talk.partner.location.clone(), talk.partner.node.clone());
            if !(own_groups && advice.groups) {
                heeded.advice.insert(key(), advice.clone());
            }
            if advice.draining {
                heeded.draining.insert(key());
            }
        }
        if heeded != self.heeded {
            self.heeded = heeded;
            self.is_news = true;
        }
        let may_speak = self.sending.next(now);
        let speak = self.talks.values().map(|talk| talk.next.max(may_speak));
        let ends = self
            .talks
            .values()
            .filter_map(|talk| talk.said.as_ref().map(|(_, until)| *until));
        self.wake = speak.chain(ends).min();
    }
}

/// Returns by what the leaders in use are named, the one that is spoken to first.
fn names(uses: Option<&BTreeSet<NodeName>>, to: &NodeName) -> Vec<u64> {
    let uses = || uses.into_iter().flatten();
    let others = uses().filter(|node| *node != to);
    let names = uses().filter(|node| *node == to).chain(others);
    names.take(MOST_NAMES).map(hash).collect()
}
