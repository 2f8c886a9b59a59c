//! What is known of the leaders, for people and for Prometheus.

use std::{fmt::Write as _, sync::Arc};

use spanwire_core::{
    advice::{Heeded, Said},
    liveness::{Seen, Subject, Trust},
};
use spanwire_host::PeerStats;
use spanwire_topology::{Doubt, NodeName};
use tokio::sync::oneshot;

use super::EventLoop;
use crate::{
    admin::Response,
    prober::{Ask, Sight},
};

impl EventLoop {
    /// Answers with the metrics, once the prober has said what it knows.
    pub(super) fn measure(&self, answer: oneshot::Sender<Response>) {
        let metrics = Arc::clone(&self.metrics);
        metrics.tunnels(&self.state.leader_stats(), &self.state.attached_stats());
        let in_use = self.state.in_use();
        self.see(move |sight| {
            metrics.sight(&sight.unwrap_or_default(), &in_use);
            // The client may have gone.
            let _gone = answer.send((true, metrics.text()));
        });
    }

    /// Answers with what is known of the leaders.
    pub(super) fn links(&self, answer: oneshot::Sender<Response>) {
        let tunnels = self
            .state
            .leader_stats()
            .into_iter()
            .map(|(location, leader, stats)| {
                let counted = counted(&stats);
                format!("tunnel to {leader} of {location}: {counted}\n")
            });
        let attached = self.state.attached_stats().into_iter().map(|(peer, stats)| {
            let counted = counted(&stats);
            let from = stats.endpoint.map(|endpoint| format!(", at {endpoint}"));
            format!("tunnel to peer {peer}: {counted}{}\n", from.unwrap_or_default())
        });
        let tunnels: String = tunnels.chain(attached).collect();
        let judgement = self.judgement.clone();
        let heeded = self.advice.clone();
        let refused = self.state.refused().clone();
        self.see(move |sight| {
            let response = match sight {
                None => (false, "nothing is probed; the log says why\n".to_owned()),
                Some(sight) => {
                    let mut text = describe(&sight);
                    text += &tunnels;
                    text += &describe_advice(&sight, &heeded);
                    for (leader, location) in &judgement.lost {
                        let _ = writeln!(text, "not used: {leader} towards {location}");
                    }
                    for (location, leader) in &judgement.forsaken {
                        let _ = writeln!(text, "not used: {leader} of {location}");
                    }
                    for ((location, leader), doubt) in &judgement.answering {
                        let doubt = match doubt {
                            Doubt::Returning => "has come back",
                            Doubt::Useless => "forwards nothing",
                        };
                        let _ = writeln!(text, "{doubt}: {leader} of {location}");
                    }
                    for node in &judgement.cut {
                        let _ = writeln!(text, "reached by another leader: {node}");
                    }
                    for location in judgement.unreached.union(&refused) {
                        let _ = writeln!(text, "reached by no way: {location}");
                    }
                    for location in &refused {
                        let _ = writeln!(text, "refused: {location}");
                    }
                    (true, text)
                }
            };
            let _gone = answer.send(response);
        });
    }

    /// Asks the prober what it knows; `None` where there is none.
    fn see(&self, then: impl FnOnce(Option<Sight>) + Send + 'static) {
        let (sender, receiver): (Ask, _) = oneshot::channel();
        // If it has ended, or is asked too often, the receiver says so.
        let _ended = self.outlets.asks.try_send(sender);
        tokio::spawn(async move { then(receiver.await.ok()) });
    }
}

fn counted(stats: &PeerStats) -> String {
    let handshake = stats.handshake.map_or("no handshake yet".to_owned(), |age| {
        format!("last handshake {} s ago", age.as_secs())
    });
    format!(
        "{handshake}, {} bytes received, {} sent",
        stats.received, stats.sent
    )
}

fn describe(sight: &Sight) -> String {
    let mut text = String::new();
    if !sight.seen.is_empty() {
        let interval = sight.interval.as_millis();
        let _ = writeln!(text, "asked every {interval} ms");
    }
    for seen in &sight.seen {
        let _ = writeln!(text, "{}", line(seen));
    }
    text
}

fn describe_advice(sight: &Sight, heeded: &Heeded) -> String {
    let mut text = String::new();
    if let Some(cause) = &sight.deaf {
        let _ = writeln!(text, "no leader of another location can be heard: {cause}");
    }
    for said in &sight.said {
        let Said {
            location,
            leader,
            advice,
        } = said;
        let key = (location.clone(), leader.clone());
        let counts = heeded.advice.contains_key(&key) || heeded.draining.contains(&key);
        let uses: Vec<&str> = advice.uses.iter().map(NodeName::as_str).collect();
        let _ = writeln!(
            text,
            "advice of {leader} of {location}{}: uses {}{}{}",
            if counts { "" } else { ", which changes nothing" },
            if uses.is_empty() {
                "none of them".to_owned()
            } else {
                uses.join(", ")
            },
            if advice.groups {
                "; takes what others send, too"
            } else {
                ""
            },
            if advice.draining {
                "; its tunnels are about to end"
            } else {
                ""
            },
        );
    }
    text
}

fn line(seen: &Seen) -> String {
    let subject = match &seen.subject {
        Subject::Far(location, leader) => format!("leader {leader} of {location}"),
        Subject::Hop(leader) => format!("leader {leader} of this location"),
        Subject::Through(leader, location) => format!("{location} through {leader}"),
        Subject::Behind(location, leader) => format!("members of {location} behind {leader}"),
        Subject::Member(node) => format!("node {node} of this location"),
    };
    let Some(rtt) = seen.rtt else {
        if seen.trust == Trust::Lost {
            return format!("{subject}: taken for dead before this agent started, and silent since");
        }
        return format!("{subject}: never answered, which proves nothing");
    };
    let trust = match seen.trust {
        Trust::Unproven => "never answered",
        Trust::Unconnected => "never answered, no session",
        Trust::Sound => "answers",
        Trust::Doubtful => "has not answered the last request",
        Trust::OnProbation => "on probation",
        Trust::Useless => "answers, but nothing behind it did",
        Trust::Lost => "taken for dead",
    };
    format!(
        "{subject}: {trust}, round trip {:.1} ms, loss {:.1} %, suspicion {:.1}, taken for dead {} times",
        rtt.as_secs_f64() * 1000.0,
        seen.loss * 100.0,
        seen.suspicion,
        seen.deaths
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use spanwire_topology::{Advice, LocationName};

    use super::*;

    #[test]
    fn everything_that_is_watched_has_a_line() {
        let seen = |subject, trust, rtt| Seen {
            subject,
            trust,
            answered: true,
            rtt,
            loss: 0.015,
            suspicion: 0.0,
            deaths: 2,
        };
        let a = "a2".parse().unwrap();
        let b: LocationName = "b".parse().unwrap();
        let rtt = Some(Duration::from_micros(21_340));
        let sight = Sight {
            seen: vec![
                seen(Subject::Hop(a), Trust::Sound, rtt),
                seen(
                    Subject::Behind(b.clone(), "b1".parse().unwrap()),
                    Trust::Sound,
                    None,
                ),
                seen(Subject::Far(b, "b1".parse().unwrap()), Trust::Lost, None),
            ],
            interval: Duration::from_millis(100),
            ..Sight::default()
        };
        assert_eq!(
            describe(&sight),
            "asked every 100 ms\n\
             leader a2 of this location: answers, round trip 21.3 ms, loss 1.5 %, suspicion 0.0, taken for dead 2 times\n\
             members of b behind b1: never answered, which proves nothing\n\
             leader b1 of b: taken for dead before this agent started, and silent since\n"
        );
        assert_eq!(describe(&Sight::default()), "");
    }
    #[test]
    fn what_leaders_elsewhere_say_has_a_line_that_says_whether_it_counts() {
        let said = |leader: &str, uses: &[&str], groups| Said {
            location: "b".parse().unwrap(),
            leader: leader.parse().unwrap(),
            advice: Advice {
                uses: uses.iter().map(|node| node.parse().unwrap()).collect(),
                groups,
                draining: leader == "b3",
            },
        };
        let sight = Sight {
            said: vec![
                said("b1", &["a1", "a2"], false),
                said("b2", &[], true),
                said("b3", &["a1"], true),
            ],
            deaf: Some("no such device".to_owned()),
            ..Sight::default()
        };
        let key = |said: &Said| (said.location.clone(), said.leader.clone());
        let heeded = Heeded {
            advice: [(key(&sight.said[0]), sight.said[0].advice.clone())].into(),
            draining: [key(&sight.said[2])].into(),
        };
        assert_eq!(
            describe_advice(&sight, &heeded),
            "no leader of another location can be heard: no such device\n\
             advice of b1 of b: uses a1, a2\n\
             advice of b2 of b, which changes nothing: uses none of them; takes what others send, too\n\
             advice of b3 of b: uses a1; takes what others send, too; its tunnels are about to end\n"
        );
    }
}
