//! What has changed since the program began: who is led by whom, and which leaders are gone around.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::{
    status::{LinkRow, LocationRow, Report},
    table::joined,
};

/// So many entries are kept, the newest ones.
const KEPT: usize = 200;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Event {
    /// A leader goes to a location by another one of its leaders.
    Failover,
    /// A location is led by another node.
    Leader,
    /// A leader gets no answer from a location any more.
    Down,
    /// It gets one again.
    Up,
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    /// Counts up from the first one.
    id: u64,
    /// When it was seen, in milliseconds since 1970.
    at: u64,
    event: Event,
    text: String,
    /// The locations that it is about.
    locations: Vec<String>,
}

/// What the last look has seen of a way.
#[derive(Clone, Debug)]
struct Way {
    leader: String,
    far_leader: Option<String>,
    up: Option<bool>,
    failovers: Option<u64>,
}

/// The log, and what it is made from.
#[derive(Debug, Default)]
pub(super) struct Journal {
    ways: BTreeMap<(String, String), Way>,
    leaders: BTreeMap<String, Vec<String>>,
    entries: VecDeque<Entry>,
    count: u64,
}

impl Journal {
    /// Compares with the look before; what is seen for the first time is no news.
    pub(super) fn look(&mut self, report: &Report, clock: u64) {
        let mut news = Vec::new();
        let mut leaders = BTreeMap::new();
        for row in &report.locations {
            let before = self.leaders.get(&row.name);
            news.extend(before.and_then(|before| led(before, row)));
            leaders.insert(row.name.clone(), row.leaders.clone());
        }
        self.leaders = leaders;
        let mut ways = BTreeMap::new();
        for row in &report.links {
            let key = (row.from.clone(), row.to.clone());
            let before = self.ways.remove(&key).filter(|way| way.leader == row.leader);
            if let Some(before) = &before {
                let both = || vec![row.from.clone(), row.to.clone()];
                let changes = changes(before, row).into_iter();
                news.extend(changes.map(|(event, text)| (event, text, both())));
            }
            // What is not known now stays as it was.
            let known = before.as_ref();
            let way = Way {
                leader: row.leader.clone(),
                far_leader: row.far_leader.clone().or_else(|| known?.far_leader.clone()),
                up: row.up.or_else(|| known?.up),
                failovers: row.failovers.or_else(|| known?.failovers),
            };
            ways.insert(key, way);
        }
        self.ways = ways;
        for (event, text, locations) in news {
            self.count += 1;
            self.entries.push_back(Entry {
                id: self.count,
                at: clock,
                event,
                text,
                locations,
            });
        }
        let over = self.entries.len().saturating_sub(KEPT);
        self.entries.drain(..over);
    }

    /// Returns what has happened, the oldest first.
    pub(super) const fn entries(&self) -> &VecDeque<Entry> {
        &self.entries
    }
}

fn led(before: &[String], row: &LocationRow) -> Option<(Event, String, Vec<String>)> {
    if before == row.leaders {
        return None;
    }
    let by = |names: &[String]| {
        if names.is_empty() {
            "no node".to_owned()
        } else {
            joined(names)
        }
    };
    let (name, now, then) = (&row.name, by(&row.leaders), by(before));
    let text = format!("{name} is led by {now} now, before by {then}");
    Some((Event::Leader, text, vec![name.clone()]))
}

fn changes(before: &Way, row: &LinkRow) -> Vec<(Event, String)> {
    let LinkRow { from, to, leader, .. } = row;
    let mut news = Vec::new();
    match (before.up, row.up) {
        (Some(true), Some(false)) => {
            news.push((
                Event::Down,
                format!("no leader of {to} answers {leader} of {from}"),
            ));
        }
        (Some(false), Some(true)) => {
            news.push((Event::Up, format!("{to} answers {leader} of {from} again")));
        }
        _ => {}
    }
    let given_up = before.failovers.zip(row.failovers);
    let given_up = given_up.and_then(|(then, now)| now.checked_sub(then));
    match (&before.far_leader, &row.far_leader) {
        (Some(then), Some(now)) if then != now => news.push((
            Event::Failover,
            format!("{leader} of {from} goes to {to} by {now} now, before by {then}"),
        )),
        (_, Some(now)) if given_up > Some(0) => news.push((
            Event::Failover,
            format!(
                "{leader} of {from} gave up a leader of {to} {} times meanwhile, and goes by {now}",
                given_up.unwrap_or_default()
            ),
        )),
        _ => {}
    }
    news
}
