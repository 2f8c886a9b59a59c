//! Fights with other programs over what is Spanwire's: one takes it away or changes it, the agent puts it back, and that
//! again and again.
//!
//! Each repair alone is a line in the log. What is repaired often is said for as long as it lasts: how often, and what. It
//! has lasted once there were [`BEGINS`] repairs in ten minutes, and is over when it has been left alone for three times
//! as long as usual. What is said of how often stays the same while that does not change by half or to the double, so
//! that a fight costs the API server two writes.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use spanwire_host::{ChainName, LinkName, RouteKind, Step, Sysctl, TableId};

/// Repairs longer ago do not count.
const WINDOW: Duration = Duration::from_secs(600);
/// So many of one thing are a fight: a person or a program that is started again does the same two or three times.
const BEGINS: usize = 4;
/// From so many of the last repairs it is counted how often there is one.
const COUNTED: usize = 16;
/// A fight is not over before so much time has passed without a repair, and is over after so much.
const QUIET: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(300));

/// What another program takes away or changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Spanwire's device, with its addresses and peers.
    Device(LinkName),
    /// The routes of a table.
    Routes(TableId),
    /// The rules.
    Rules,
    /// The place of the rules: others are put before them.
    Place,
    /// The nft table.
    Nft,
    /// What lets packets of the mesh through a chain of a firewall.
    Passage(ChainName),
    /// A kernel setting.
    Sysctl(Sysctl),
}

impl Subject {
    /// Returns what a step is about.
    #[must_use]
    pub fn of(step: &Step) -> Self {
        match step {
            Step::AddWireGuard(link, ..)
            | Step::AddVxlan(link, ..)
            | Step::SetForwarding(link, ..)
            | Step::DeleteForwarding(link, _)
            | Step::SetNeighbour(link, ..)
            | Step::DeleteNeighbour(link, _)
            | Step::DeleteDevice(link)
            | Step::SetMtu(link, _)
            | Step::SetUp(link, _)
            | Step::AddAddress(link, _)
            | Step::DeleteAddress(link, _)
            | Step::SetWireGuard(link, _)
            | Step::SetPeer(link, ..)
            | Step::DeletePeer(link, _) => Self::Device(link.clone()),
            Step::SetRoute(key, _) | Step::DeleteRoute(key) => Self::Routes(key.table),
            Step::AddRule(_) | Step::DeleteRule(_) => Self::Rules,
            Step::SetNft(_) | Step::DeleteNft => Self::Nft,
            Step::SetPassage(chain, _) | Step::DeletePassage(chain) => Self::Passage(chain.clone()),
            Step::SetSysctl(sysctl, _) => Self::Sysctl(sysctl.clone()),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(link) => write!(f, "the device {link}"),
            Self::Routes(table) => write!(f, "routes of the table {}", table.0),
            Self::Rules => f.write_str("routing rules"),
            Self::Place => f.write_str("the place of its routing rules before those of others"),
            Self::Nft => f.write_str("its nft table"),
            Self::Passage(chain) => write!(f, "its rules in the chain {chain}"),
            Self::Sysctl(sysctl) => write!(f, "the setting {}", sysctl.0),
        }
    }
}

/// What was undone, each with the first step that did.
pub type Repaired = BTreeMap<Subject, String>;

/// Returns what these steps are about. With a device go the routes over it and its settings: what puts those back when the
/// device itself has to be made is about the device.
pub fn subjects<'a>(steps: impl IntoIterator<Item = &'a Step, IntoIter: Clone>) -> Repaired {
    let steps = steps.into_iter();
    let made: Vec<&LinkName> = steps.clone().filter_map(made).collect();
    let mut subjects = Repaired::new();
    for step in steps {
        let went_with = made.iter().find(|link| goes_with(step, link));
        let subject = went_with.map_or_else(|| Subject::of(step), |link| Subject::Device((*link).clone()));
        subjects.entry(subject).or_insert_with(|| step.to_string());
    }
    subjects
}

/// Returns the device that a step makes.
fn made(step: &Step) -> Option<&LinkName> {
    if let Step::AddWireGuard(link, ..) | Step::AddVxlan(link, ..) = step {
        return Some(link);
    }
    None
}

/// Whether what a step makes ends with the device.
fn goes_with(step: &Step, link: &LinkName) -> bool {
    if let Step::SetRoute(_, route) = step {
        matches!(&route.kind, RouteKind::Unicast { dev, .. } if dev == link)
    } else if let Step::SetSysctl(sysctl, _) = step {
        sysctl.of_link(link)
    } else {
        false
    }
}

/// A fight that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fight {
    /// What it is about.
    pub subject: Subject,
    /// A step that put it back; empty where none is known.
    pub step: String,
    /// How much time lies between two repairs, in seconds, roughly.
    pub every: u64,
}

impl fmt::Display for Fight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, step, every } = self;
        let is_device = matches!(subject, Subject::Device(_));
        if is_device {
            write!(
                f,
                "{subject} goes away or is changed again and again, about every "
            )?;
        } else {
            write!(
                f,
                "another program takes from Spanwire {subject} again and again, about every "
            )?;
        }
        match every {
            0 | 1 => f.write_str("second")?,
            2..=90 => write!(f, "{every} seconds")?,
            _ => write!(f, "{} minutes", (every + 30) / 60)?,
        }
        if !step.is_empty() {
            write!(f, " (put back by `{step}`)")?;
        }
        f.write_str(": packets may be lost until it is put back; ")?;
        f.write_str(if is_device {
            "does the tunnel's pod on this node restart, or does another program manage the device?"
        } else {
            "find that program (systemd-networkd, a firewall or a VPN client, say) and have it leave alone what is \
             Spanwire's"
        })
    }
}

#[derive(Debug)]
struct Contest {
    repairs: VecDeque<Instant>,
    step: String,
    /// What is said of how often.
    every: Option<Duration>,
}

impl Contest {
    fn add(&mut self, now: Instant) {
        while self.repairs.len() >= COUNTED
            || self
                .repairs
                .front()
                .is_some_and(|at| now.saturating_duration_since(*at) > WINDOW)
        {
            self.repairs.pop_front();
        }
        self.repairs.push_back(now);
        if self.repairs.len() < BEGINS && self.every.is_none() {
            return;
        }
        let found = self.between();
        let same = |said: &Duration| found <= *said * 2 && *said <= found * 2;
        self.every = Some(self.every.filter(same).unwrap_or(found));
    }

    fn between(&self) -> Duration {
        let (first, last) = (self.repairs.front(), self.repairs.back());
        let lasted = first
            .zip(last)
            .map(|(first, last)| last.saturating_duration_since(*first));
        let gaps = u32::try_from(self.repairs.len().saturating_sub(1)).unwrap_or(1);
        lasted.unwrap_or_default() / gaps.max(1)
    }

    /// When it is over, where nothing comes any more; `None` where it has not begun.
    fn over(&self) -> Option<Instant> {
        self.every?;
        let (least, most) = QUIET;
        Some(*self.repairs.back()? + (self.between() * 3).clamp(least, most))
    }
}

/// What other programs have taken away or changed in the last ten minutes.
#[derive(Debug, Default)]
pub struct Fights {
    contests: BTreeMap<Subject, Contest>,
}

impl Fights {
    /// Takes what was undone.
    pub fn handle_repaired(&mut self, repaired: Repaired, now: Instant) {
        let recent = |contest: &Contest| {
            let last = contest.repairs.back();
            last.is_some_and(|at| now.saturating_duration_since(*at) <= WINDOW)
        };
        self.contests.retain(|_, contest| recent(contest));
        for (subject, step) in repaired {
            let contest = self.contests.entry(subject).or_insert(Contest {
                repairs: VecDeque::new(),
                step,
                every: None,
            });
            contest.add(now);
        }
    }

    /// Takes what was not as wanted right after it was put back. Alone that has other causes, too.
    pub fn handle_not_in_effect(&mut self, mut undone: Repaired, now: Instant) {
        undone.retain(|subject, _| self.contests.contains_key(subject));
        self.handle_repaired(undone, now);
    }

    /// Takes the present time. Returns whether a fight is over.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let before = self.contests.len();
        self.contests
            .retain(|_, contest| contest.over().is_none_or(|over| over > now));
        self.contests.len() < before
    }

    /// Returns when a fight is over, if nothing comes any more.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.contests.values().filter_map(Contest::over).min()
    }

    /// Returns the fights that last.
    pub fn lasting(&self) -> impl Iterator<Item = Fight> {
        self.contests.iter().filter_map(|(subject, contest)| {
            Some(Fight {
                subject: subject.clone(),
                step: contest.step.clone(),
                every: contest.every?.as_secs_f64().round() as u64,
            })
        })
    }

    /// Whether there is a lasting fight about this.
    #[must_use]
    pub fn is_contested(&self, subject: &Subject) -> bool {
        self.contests
            .get(subject)
            .is_some_and(|contest| contest.every.is_some())
    }
}

#[cfg(test)]
mod tests {
    use spanwire_host::{Route, RouteKey, WireGuardSettings};
    use spanwire_topology::PublicKey;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn nft() -> Repaired {
        subjects(&[Step::DeleteNft])
    }

    fn texts(fights: &Fights) -> Vec<String> {
        fights.lasting().map(|fight| fight.to_string()).collect()
    }

    #[test]
    fn what_goes_with_a_device_is_about_the_device() {
        let link = || LinkName::new("spanwire0").unwrap();
        let settings = WireGuardSettings {
            public_key: PublicKey::new([1; 32]),
            listen_port: 51820,
            mark: 0,
        };
        let route = |kind| {
            let key = RouteKey {
                table: TableId(51830),
                prefix: "10.244.1.0/24".parse().unwrap(),
                metric: 100,
            };
            Step::SetRoute(key, Route { kind, mtu: None })
        };
        let over = route(RouteKind::Unicast {
            dev: link(),
            via: None,
            onlink: false,
            src: None,
        });
        let setting = |name: &str| Step::SetSysctl(Sysctl(name.to_owned()), "2".to_owned());
        let own = setting("net/ipv4/conf/spanwire0/rp_filter");
        let made = Step::AddWireGuard(link(), 1420, settings);
        let all = [made, own.clone(), over.clone()];
        let found: Vec<Subject> = subjects(&all).into_keys().collect();
        assert_eq!(found, [Subject::Device(link())]);
        // What another program takes besides, or while the device stays, is its own matter.
        let others = [route(RouteKind::Unreachable), setting("net/ipv4/ip_forward")];
        assert_eq!(subjects(all.iter().chain(&others)).len(), 3);
        assert_eq!(subjects(&[own, over]).len(), 2);
    }

    #[test]
    fn what_is_taken_four_times_is_a_fight_until_it_is_left_alone() {
        let (mut fights, start) = (Fights::default(), Instant::now());
        let mut now = start;
        for times in 1..=20 {
            fights.handle_repaired(nft(), now);
            assert_eq!(texts(&fights).len(), usize::from(times >= 4), "{times}");
            now += 10 * SECOND;
        }
        let text = &texts(&fights)[0];
        assert!(
            text.contains("its nft table again and again, about every 10 seconds (put back by `nft delete`)"),
            "{text}"
        );
        assert!(fights.is_contested(&Subject::Nft) && !fights.is_contested(&Subject::Rules));
        let over = fights.poll_timeout().unwrap();
        assert_eq!(over, now - 10 * SECOND + 30 * SECOND);
        assert!(!fights.handle_timeout(over - SECOND));
        assert!(fights.handle_timeout(over));
        assert!(texts(&fights).is_empty() && fights.poll_timeout().is_none());
        fights.handle_repaired(nft(), over + SECOND);
        assert!(texts(&fights).is_empty(), "once is no fight");
    }

    #[test]
    fn what_is_said_of_how_often_changes_only_with_a_half_or_the_double() {
        let (mut fights, mut now) = (Fights::default(), Instant::now());
        let mut said = Vec::new();
        for (times, gap) in [(30, 4), (30, 6), (30, 2), (30, 60)] {
            for _ in 0..times {
                now += gap * SECOND;
                fights.handle_repaired(nft(), now);
                said.extend(fights.lasting().map(|fight| fight.every));
            }
        }
        said.dedup();
        assert_eq!(
            said,
            [4, 10, 21, 60],
            "not with 6 and 2, nor with each step to 60"
        );
    }

    #[test]
    fn what_happens_rarely_is_no_fight() {
        let (mut fights, start) = (Fights::default(), Instant::now());
        for times in 0..20 {
            fights.handle_repaired(nft(), start + 250 * times * SECOND);
        }
        assert!(texts(&fights).is_empty());
    }

    #[test]
    fn what_is_not_in_effect_counts_where_it_was_taken_before() {
        let (mut fights, now) = (Fights::default(), Instant::now());
        for _ in 0..10 {
            fights.handle_not_in_effect(nft(), now);
        }
        assert!(texts(&fights).is_empty());
        fights.handle_repaired(nft(), now);
        for _ in 0..3 {
            fights.handle_not_in_effect(nft(), now);
        }
        assert_eq!(texts(&fights).len(), 1);
    }
}
