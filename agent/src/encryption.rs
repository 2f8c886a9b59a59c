//! Counts, for as long as is asked for at the admin endpoint, what is encrypted of that which goes between locations by the devices
//! of this node. What each packet is says [`spanwire_core::encryption`].

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    time::Duration,
};

use serde_json::{Value, json};
use spanwire_core::encryption::{Amount, Frame, LENGTH, Mac, Part, Tally, Watch};
use spanwire_host::LinkName;
use spanwire_kernel::{Neighbours, Tap, TapError};
use tokio::{
    sync::Semaphore,
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval},
};

/// How many seconds may be asked for.
pub const SECONDS: std::ops::RangeInclusive<u64> = 1..=60;
/// How often packets are taken, and how many at a time of each device: what is looked at is bounded by that, not by who sends it. The
/// rest is missed, which is said.
const TICK: Duration = Duration::from_millis(10);
const AT_ONCE: usize = 250;
/// How often the link-layer addresses of other leaders are looked up.
const LOOK_UP: Duration = Duration::from_secs(1);
/// One at a time: each costs a share of a processor.
static ONE: Semaphore = Semaphore::const_new(1);

/// The link-layer addresses of other leaders, by the device.
type Relays = BTreeMap<LinkName, BTreeSet<Mac>>;

/// A device, as far as one filter lets its packets through.
struct Lookout {
    link: LinkName,
    part: Part,
    tap: Tap,
    /// Why there is no more to be seen.
    ended: Option<String>,
}

/// Counts for so long; returns what was counted.
///
/// # Errors
/// Why nothing can be counted.
pub async fn count(watch: &Watch, time: Duration) -> Result<Value, String> {
    let _one = ONE
        .try_acquire()
        .map_err(|_| "others have this agent count at the same time: try again".to_owned())?;
    let mut lookouts = open(watch).map_err(|error| described(&error))?;
    let mut neighbours = Neighbours::open().map_err(|error| described(&error))?;
    let mut relays = Relays::new();
    let mut tally = Tally::default();
    let end = Instant::now() + time;
    let mut look_up = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while ticks.tick().await < end {
        if look_up <= Instant::now() {
            find(watch, &mut neighbours, &mut relays).await;
            look_up += LOOK_UP;
        }
        for lookout in &mut lookouts {
            lookout.take(watch, &relays, &mut tally, AT_ONCE);
            // Others are to have their turn.
            yield_now().await;
        }
    }
    for lookout in &mut lookouts {
        lookout.finish(watch, &relays, &mut tally);
    }
    Ok(answer(watch, time, &tally, &mut lookouts))
}

fn open(watch: &Watch) -> Result<Vec<Lookout>, TapError> {
    let filters = [Part::Wireguard, Part::Rest].map(|part| (part, watch.filter(part)));
    let all = watch
        .devices
        .iter()
        .flat_map(|link| filters.iter().map(move |filter| (link, filter)));
    let open = |(link, (part, filter)): (&LinkName, &(Part, Vec<_>))| {
        Ok(Lookout {
            link: link.clone(),
            part: *part,
            tap: Tap::open(link, filter)?,
            ended: None,
        })
    };
    all.map(open).collect()
}

/// Looks up the link-layer addresses of other leaders. One that is not known yet has been sent nothing.
async fn find(watch: &Watch, neighbours: &mut Neighbours, relays: &mut Relays) {
    for hop in watch.hops.iter().filter(|hop| watch.devices.contains(&hop.link)) {
        if let Ok(Some(found)) = neighbours.find(&hop.link, hop.neighbour).await {
            relays.entry(hop.link.clone()).or_default().insert(found.address);
        }
    }
}

impl Lookout {
    /// Takes some of the packets that are there.
    fn take(&mut self, watch: &Watch, relays: &Relays, tally: &mut Tally, count: usize) {
        let nothing = BTreeSet::new();
        let relays = relays.get(&self.link).unwrap_or(&nothing);
        let mut buffer = [0; LENGTH as usize];
        for _ in 0..count {
            match self.tap.take(&mut buffer) {
                Ok(Some((length, outgoing))) => {
                    let frame = Frame {
                        bytes: &buffer[..length.min(buffer.len())],
                        ethernet: self.tap.is_ethernet(),
                        outgoing,
                    };
                    let kind = watch.judge(&frame, relays);
                    tally.count(&watch.location, kind, &frame, self.link.as_str());
                }
                Ok(None) => return,
                Err(error) => {
                    self.ended = Some(error.to_string());
                    return;
                }
            }
        }
    }

    /// Takes what has come in time.
    fn finish(&mut self, watch: &Watch, relays: &Relays, tally: &mut Tally) {
        match self.tap.stop() {
            // No more than fits into the buffer of the socket.
            Ok(()) => self.take(watch, relays, tally, usize::MAX),
            Err(error) => self.ended = Some(error.to_string()),
        }
    }
}

fn answer(watch: &Watch, time: Duration, tally: &Tally, lookouts: &mut [Lookout]) -> Value {
    let mut missed = BTreeMap::from([(Part::Wireguard, 0), (Part::Rest, 0)]);
    let mut troubles = BTreeSet::new();
    for lookout in lookouts {
        let ended = match lookout.tap.missed() {
            Ok(count) => {
                *missed.entry(lookout.part).or_default() += count;
                lookout.ended.take()
            }
            Err(error) => Some(error.to_string()),
        };
        troubles.extend(ended.map(|why| format!("{}: {why}", lookout.link)));
    }
    let amount = |amount: Amount| json!({"packets": amount.packets, "bytes": amount.bytes});
    let pairs = tally.pairs.iter().map(|((from, to), count)| {
        json!({
            "from": from.to_string(),
            "to": to.to_string(),
            "wireguard": amount(count.wireguard),
            "plaintext": amount(count.plaintext),
            "sample": count.sample,
        })
    });
    json!({
        "location": watch.location.to_string(),
        "seconds": time.as_secs(),
        "devices": watch.devices.iter().map(LinkName::as_str).collect::<Vec<_>>(),
        "pairs": pairs.collect::<Vec<_>>(),
        "others": amount(tally.others),
        "unreadable": tally.unreadable,
        "missed": {"wireguard": missed[&Part::Wireguard], "rest": missed[&Part::Rest]},
        "troubles": troubles,
    })
}

fn described(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod netns;
