//! What has become of the mesh, as the API server has it, and how many events its watches give.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use spanwire_crds::LocationSlice;
use tokio::time::Instant;

/// What the slices say, kept up to date by a watch like an agent's.
#[derive(Clone, Default)]
pub(crate) struct Tracked {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Of each slice: its members that have a key, its leaders, and with how many locations it is established.
    slices: BTreeMap<String, Slice>,
    /// The leaders of each location, and since when a watch shows them.
    led: BTreeMap<String, (Vec<String>, Instant)>,
    events: u64,
}

#[derive(Clone, Copy, Default)]
struct Slice {
    members: u32,
    leaders: u32,
    established: u32,
}

impl Tracked {
    /// Starts the watch; it runs until the runtime ends.
    pub(crate) fn start(client: Client) -> Self {
        let tracked = Self::default();
        let watching = tracked.clone();
        tokio::spawn(async move {
            let api: Api<LocationSlice> = Api::all(client);
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let mut events = std::pin::pin!(events);
            // A watch that failed is started again by the stream.
            while let Some(event) = events.next().await {
                if let Ok(event) = event {
                    watching.handle(event);
                }
            }
        });
        tracked
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no thread panics while it holds the lock")
    }

    fn handle(&self, event: watcher::Event<LocationSlice>) {
        let mut state = self.lock();
        state.events += 1;
        match event {
            watcher::Event::Apply(slice) | watcher::Event::InitApply(slice) => {
                let keys = slice
                    .spec
                    .members
                    .iter()
                    .filter(|member| member.public_key.is_some());
                let head = slice.spec.head.as_ref();
                if let Some(head) = head {
                    let leaders: Vec<String> =
                        head.leaders.iter().map(|leader| leader.node.clone()).collect();
                    let location = slice.spec.location.clone();
                    if state
                        .led
                        .get(&location)
                        .is_none_or(|(before, _)| *before != leaders)
                    {
                        state.led.insert(location, (leaders, Instant::now()));
                    }
                }
                let entry = Slice {
                    members: keys.count() as u32,
                    leaders: head.map_or(0, |head| head.leaders.len() as u32),
                    established: head.map_or(0, |head| head.established.len() as u32),
                };
                state.slices.insert(slice.name_any(), entry);
            }
            watcher::Event::Delete(slice) => {
                state.slices.remove(&slice.name_any());
            }
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }

    /// Returns since when a watch shows that the location has the leaders that it has, if this node is one of them.
    pub(crate) fn led_by(&self, location: &str, node: &str) -> Option<Instant> {
        let state = self.lock();
        let (leaders, since) = state.led.get(location)?;
        leaders.iter().any(|leader| leader == node).then_some(*since)
    }

    /// Returns how many events there were.
    pub(crate) fn events(&self) -> u64 {
        self.lock().events
    }

    /// Returns how many slices there are.
    pub(crate) fn slices(&self) -> usize {
        self.lock().slices.len()
    }

    /// Returns how many members with a key are published.
    pub(crate) fn members(&self) -> u32 {
        self.lock().slices.values().map(|slice| slice.members).sum()
    }

    /// Returns how many locations have a leader and are established with so many others.
    pub(crate) fn whole(&self, others: u32) -> u32 {
        let state = self.lock();
        let whole = state
            .slices
            .values()
            .filter(|slice| slice.leaders >= 1 && slice.established >= others);
        whole.count() as u32
    }
}
