//! A device in shards is the same device, whichever shard something comes to.

use spanwire_tunnel::{
    device::{Device, PADDING, ShardIndex},
    ecn,
    uapi::{Reply, Session},
};

use crate::bench::{Bench, Kept, packet};

const SHARDS: usize = 3;

/// A device that is split; it has the key and address of [`Bench`] number 1.
struct Split {
    shards: Vec<Device>,
    kept: Kept,
    bench: Bench,
    /// Where the next thing comes to: another shard each time.
    next: usize,
}

impl Split {
    fn new() -> Self {
        let mut split = Self {
            shards: ShardIndex::all(SHARDS)
                .map(|place| Device::shard(place, 1420))
                .collect(),
            kept: Kept::default(),
            bench: Bench::new(1),
            next: 0,
        };
        split.tell(&["set=1", &format!("private_key={}", "01".repeat(32)), ""]);
        split
    }

    /// Returns what the UAPI answers.
    fn tell(&mut self, lines: &[&str]) -> String {
        let mut session = Session::default();
        let mut shards: Vec<_> = self.shards.iter_mut().collect();
        for line in lines {
            let reply = session.handle_line(self.bench.now, line, &mut shards, &mut self.kept);
            if let Reply::Answer(answer) = reply {
                return answer;
            }
        }
        panic!("no answer to {lines:?}");
    }

    fn turn(&mut self) -> usize {
        self.next = (self.next + 1) % SHARDS;
        self.next
    }

    /// Gives a datagram to some shard, which may not be its peer's; returns whether it had to be handed over.
    fn hear(&mut self, from: &Bench, datagram: &[u8]) -> bool {
        let (shard, now) = (self.turn(), self.bench.now);
        let (datagram, kept) = (&mut datagram.to_vec(), &mut self.kept);
        let elsewhere = self.shards[shard].handle_datagram(now, from.at, ecn::NONE, datagram, kept);
        if let Some((other, to)) = elsewhere {
            assert_ne!(other, shard);
            self.shards[other].handle_admitted(now, from.at.into(), ecn::NONE, to, datagram, kept);
        }
        elsewhere.is_some()
    }

    /// Gives a packet from the interface to some shard; returns whether it had to be handed over.
    fn emit(&mut self, packet: &[u8]) -> bool {
        let shard = self.turn();
        let elsewhere = self.shards[shard].is_elsewhere(packet);
        let mut buffer = packet.to_vec();
        buffer.resize(packet.len() + PADDING, 0);
        let owner = &mut self.shards[elsewhere.unwrap_or(shard)];
        owner.handle_packet(self.bench.now, &mut buffer, packet.len(), &mut self.kept);
        elsewhere.is_some()
    }

    /// Returns how many packets all shards dropped for their source.
    fn wrong_sources(&self) -> u64 {
        self.shards.iter().map(|shard| shard.drops().wrong_source).sum()
    }

    /// Carries datagrams until all are silent; how many crossed, and how many there were.
    fn converse(&mut self, peers: &mut [Bench]) -> (usize, usize) {
        let (mut crossed, mut all) = (0, 0);
        loop {
            let mut silent = true;
            for peer in &mut *peers {
                for (_, datagram) in std::mem::take(&mut peer.kept.sent) {
                    all += 1;
                    crossed += usize::from(self.hear(peer, &datagram));
                    silent = false;
                }
            }
            for (to, datagram) in std::mem::take(&mut self.kept.sent) {
                let peer = peers.iter_mut().find(|peer| peer.at == to).unwrap();
                peer.hear(self.bench.at, &datagram);
                silent = false;
            }
            if silent {
                return (crossed, all);
            }
        }
    }
}

/// Returns the split device and five that know each other, some with an endpoint.
fn crowd() -> (Split, Vec<Bench>) {
    let mut split = Split::new();
    let mut peers: Vec<_> = (2..7).map(Bench::new).collect();
    for (number, peer) in (2..7).zip(&mut peers) {
        split.tell(&[
            "set=1",
            &format!("public_key={}", peer.key()),
            &format!("allowed_ip=10.0.{number}.0/24"),
            "",
        ]);
        peer.know(&split.bench, true);
    }
    (split, peers)
}

#[test]
fn packets_flow_both_ways_whichever_shard_they_come_to() {
    let (mut split, mut peers) = crowd();
    let (crossed, all) = split.converse(&mut peers);
    assert!(0 < crossed && crossed < all, "{crossed} of {all} crossed");
    let served = split.shards.iter().map(|shard| shard.peers().count());
    assert_eq!(served.collect::<Vec<_>>(), [2, 2, 1]);

    let mut crossed = 0;
    for round in 0..6 {
        for (number, peer) in (2..7).zip(&mut peers) {
            let (here, there) = ("10.0.1.1", format!("10.0.{number}.1"));
            let (out, back) = (
                packet(here, &there, 100 + round),
                packet(&there, here, 200 + round),
            );
            crossed += usize::from(split.emit(&out));
            peer.emit(&back);
            split.converse(std::slice::from_mut(peer));
            assert_eq!(peer.delivered(), [out], "to {there}");
            assert_eq!(std::mem::take(&mut split.kept.delivered), [back], "from {there}");
        }
    }
    assert_eq!(crossed, 20, "two in three do not come to the shard of their peer");
    let drops: Vec<_> = split.shards.iter().map(Device::drops).collect();
    assert_eq!(drops, vec![Default::default(); SHARDS]);
}

#[test]
fn a_source_of_a_peer_of_another_shard_is_wrong() {
    let (mut split, mut peers) = crowd();
    split.converse(&mut peers);
    peers[0].emit(&packet("10.0.3.1", "10.0.1.1", 100));
    split.converse(&mut peers);
    assert!(split.kept.delivered.is_empty());
    assert_eq!(split.wrong_sources(), 1);
}

#[test]
fn peers_of_one_group_vouch_for_each_other_across_shards() {
    let (mut split, mut peers) = crowd();
    split.converse(&mut peers);
    for peer in &peers[..2] {
        split.tell(&["set=1", &format!("public_key={}", peer.key()), "group=paris", ""]);
    }
    let packet = packet("10.0.3.1", "10.0.1.1", 100);
    for peer in &mut peers {
        peer.emit(&packet);
    }
    split.converse(&mut peers);
    assert_eq!(
        split.kept.delivered,
        [packet.clone(), packet],
        "of the group alone"
    );
    assert_eq!(split.wrong_sources(), 3);
}

#[test]
fn what_is_configured_is_what_a_whole_device_says_of_itself() {
    let (mut split, mut whole) = (Split::new(), Bench::quiet(1));
    let key = |byte: u8| format!("{byte:02x}").repeat(32);
    let steps = [
        vec![format!("public_key={}", key(2)), "allowed_ip=10.2.0.0/16".into()],
        vec![
            format!("public_key={}", key(3)),
            "endpoint=192.0.2.3:5".into(),
            "allowed_ip=10.3.0.0/16".into(),
        ],
        vec![
            format!("public_key={}", key(4)),
            format!("preshared_key={}", key(9)),
        ],
        vec![
            format!("public_key={}", key(5)),
            "persistent_keepalive_interval=25".into(),
        ],
        // From another shard's peer.
        vec![format!("public_key={}", key(5)), "allowed_ip=10.2.0.0/16".into()],
        vec![format!("public_key={}", key(3)), "allowed_ip=-10.3.0.0/16".into()],
        vec![format!("public_key={}", key(2)), "remove=true".into()],
        vec![format!("public_key={}", key(6)), "update_only=true".into()],
        vec![
            format!("public_key={}", key(2)),
            "allowed_ip=10.9.0.0/16".into(),
            "group=x".into(),
        ],
        // The key that a peer has already: that peer goes.
        vec![format!("private_key={}", key(7))],
        vec![format!("public_key={}", Bench::new(8).key())],
        vec![format!("private_key={}", key(8))],
        vec!["fwmark=7".into(), "listen_port=51821".into()],
    ];
    for step in steps {
        let lines: Vec<_> = step.iter().map(String::as_str).collect();
        whole.set(&lines);
        assert_eq!(
            split.tell(&[&["set=1"], &lines[..], &[""]].concat()),
            "errno=0\n\n"
        );
        // In another order, where a free id was another shard's.
        let sorted = |text: String| {
            let mut peers: Vec<_> = text.split("public_key=").map(str::to_owned).collect();
            peers.sort();
            peers
        };
        let strip = |text: String| text.replace("errno=0\n\n", "");
        assert_eq!(
            sorted(strip(split.tell(&["get=1", ""]))),
            sorted(strip(whole.get())),
            "after {step:?}"
        );
    }
    split.tell(&["set=1", "replace_peers=true", ""]);
    assert!(!split.tell(&["get=1", ""]).contains("public_key="));
}
