//! The mesh as the page of `map` has it: what is published, what agents measure between locations, what is wrong, and what has
//! changed since the program began.

mod journal;
mod links;
pub mod page;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde::Serialize;
use spanwire_topology::{LeaderRole, Location, Mesh};

use self::{
    journal::Journal,
    links::{Link, links},
};
use crate::{
    findings::{Answers, Finding},
    objects::Objects,
    status::{PeerRow, Report, report},
};

/// How often figures are shown that tell nothing but how much and how fast. What tells more is shown at once.
const REFRESH: Duration = Duration::from_secs(1);
/// Over at least this time it is counted how much goes over a link in a second.
const SPAN: Duration = Duration::from_secs(2);

/// What the page is sent, each part when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Locations with their nodes, and Peers.
    Mesh,
    /// The links between locations.
    Links,
    /// What is wrong.
    Trouble,
    /// What has changed.
    Log,
}

impl Part {
    /// All of them, in the order in which a page that has nothing yet is sent them.
    pub const ALL: [Self; 4] = [Self::Mesh, Self::Links, Self::Trouble, Self::Log];

    /// Returns the name of its event.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Links => "links",
            Self::Trouble => "trouble",
            Self::Log => "log",
        }
    }
}

/// What every page shows now: each part as JSON, and how often it has changed. What has not changed is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown([(u64, Arc<str>); Part::ALL.len()]);

impl Shown {
    /// Returns the parts that have changed since `known`, each as the text of an event; all of them for a page that knows nothing.
    /// JSON has no line breaks, so each is one line of data.
    #[must_use]
    pub fn events_since(&self, known: &Self) -> String {
        let mut text = String::new();
        for ((part, (count, json)), (before, _)) in Part::ALL.iter().zip(&self.0).zip(&known.0) {
            if count != before {
                text += &format!("event: {}\ndata: {json}\n\n", part.name());
            }
        }
        text
    }

    fn enter(&mut self, part: Part, value: &impl Serialize) -> bool {
        // Numbers, texts and lists of them are always JSON.
        let json = serde_json::to_string(value).unwrap_or_default();
        let (count, before) = &mut self.0[part as usize];
        let changed = **before != *json;
        if changed {
            *count += 1;
            *before = json.into();
        }
        changed
    }
}

/// Locations and Peers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MeshView {
    generation: u64,
    locations: Vec<LocationView>,
    peers: Vec<PeerView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LocationView {
    name: String,
    leaders: Vec<LeaderView>,
    followers: Vec<String>,
    endpoint: Option<String>,
    ready: String,
}

#[derive(Debug, Serialize)]
struct LeaderView {
    name: String,
    role: &'static str,
}

#[derive(Debug, Serialize)]
struct PeerView {
    #[serde(flatten)]
    row: PeerRow,
    attachments: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Trouble<'a> {
    findings: &'a [Finding],
    notes: &'a [String],
}

/// What is known, and what was before.
#[derive(Debug, Default)]
pub struct Map {
    shown: Shown,
    journal: Journal,
    /// The reports of the last seconds, the oldest first.
    before: VecDeque<(Duration, Report)>,
    /// When figures were shown last.
    refreshed: Option<Duration>,
    /// The links without what is refreshed only so often.
    outline: Vec<links::Outline>,
}

impl Map {
    /// Looks at what is known now. `notes` say what could not be asked, `since` is the time since the program began, and `clock` what
    /// clocks show, in milliseconds since 1970.
    pub fn look(
        &mut self,
        objects: &Objects,
        answers: &Answers,
        notes: &[String],
        since: Duration,
        clock: u64,
    ) -> &Shown {
        let mesh = objects.published();
        let mut report = report(objects, answers, None);
        // The others are not asked: a page for each of many locations asks often.
        report.keep_first_leaders();
        self.compare(&mut report, since);
        self.shown.enter(Part::Mesh, &view(&mesh, &report));
        let links: Vec<Link> = links(&mesh, &report);
        let outline: Vec<_> = links.iter().map(Link::outline).collect();
        let due = self.refreshed.is_none_or(|then| since >= then + REFRESH);
        if due || outline != self.outline {
            self.shown.enter(Part::Links, &links);
            self.refreshed = Some(since);
            self.outline = outline;
        }
        let findings = &report.findings;
        self.shown.enter(Part::Trouble, &Trouble { findings, notes });
        self.journal.look(&report, clock);
        self.shown.enter(Part::Log, &self.journal.entries());
        self.before.push_back((since, report));
        &self.shown
    }

    /// Enters how much goes over each link in a second.
    fn compare(&mut self, report: &mut Report, since: Duration) {
        while self.before.get(1).is_some_and(|(then, _)| *then + SPAN <= since) {
            self.before.pop_front();
        }
        if let Some((then, before)) = self.before.front().filter(|(then, _)| *then + SPAN <= since) {
            report.compare(before, (since - *then).as_secs_f64());
        }
    }
}

fn view(mesh: &Mesh, report: &Report) -> MeshView {
    let decided = |name: &str| {
        mesh.locations
            .iter()
            .find(|(location, _)| location.as_str() == name)
    };
    let locations = report.locations.iter().map(|row| {
        let location = decided(&row.name).map(|(_, location)| location);
        LocationView {
            name: row.name.clone(),
            leaders: location.map(leaders).unwrap_or_default(),
            followers: location.map(followers).unwrap_or_default(),
            endpoint: row.endpoint.clone(),
            ready: row.ready.clone(),
        }
    });
    let peers = report.peers.iter().map(|row| {
        let accepted = mesh.peers.iter().find(|(name, _)| name.as_str() == row.name);
        let attachments = accepted.iter().flat_map(|(_, peer)| &peer.attachments);
        PeerView {
            row: row.clone(),
            attachments: attachments.map(ToString::to_string).collect(),
        }
    });
    MeshView {
        generation: report.generation,
        locations: locations.collect(),
        peers: peers.collect(),
    }
}

fn leaders(location: &Location) -> Vec<LeaderView> {
    let leaders = location.leaders.iter().map(|leader| LeaderView {
        name: leader.node.to_string(),
        role: match leader.role {
            LeaderRole::Active => "active",
            LeaderRole::Standby => "standby",
        },
    });
    leaders.collect()
}

fn followers(location: &Location) -> Vec<String> {
    let members = location.members.keys();
    let followers = members.filter(|node| location.role(node).is_none());
    followers.map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
