//! `map`: a live page of the mesh, until a signal ends it.

mod published;
mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use tokio::{
    process::Command,
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use self::{
    published::{KINDS, Published},
    server::Server,
};
use super::{
    live::{Agents, Asking, Said, agents, follow},
    until::{Stop, say},
};
use crate::{
    answer::Answer,
    args::MapArgs,
    cluster::{Access, Reach},
    findings::Answers,
    map::{Map, Shown},
    objects::Objects,
    status::first_leaders,
};

/// How often an agent is asked; more seldom where there are many.
const EVERY: Duration = Duration::from_millis(500);
/// So much of that time is for each agent, so that the API server carries fifty questions a second at most.
const EACH: Duration = Duration::from_millis(20);
/// What comes within so much time is looked at together.
const TOGETHER: Duration = Duration::from_millis(30);
/// Between two looks is so many times the time that one takes.
const REST: u32 = 4;
/// Between two questions where the pods of agents are.
const PODS: Duration = Duration::from_secs(2);

pub(super) async fn run(reach: &Reach, args: &MapArgs) -> anyhow::Result<Answer> {
    let mut stop = Stop::listen()?;
    tokio::select! {
        ended = serve(reach, args) => ended?,
        () = stop.wait() => {}
    }
    Ok(Answer::default())
}

async fn serve(reach: &Reach, args: &MapArgs) -> anyhow::Result<()> {
    let access = reach.connect().await?;
    access.may_watch(&KINDS).await?;
    let objects = access.objects(&KINDS).await?;
    let port = args.port.unwrap_or_default();
    let server = Server::bind(port).await;
    let server = server.with_context(|| format!("cannot listen at port {port} of 127.0.0.1"))?;
    let address = server.address();
    let (shown, pages) = watch::channel(Shown::default());
    let gathering = Gathering::begin(access, objects).await;
    say(&format!("the map is at {address}; Ctrl-C ends it"));
    if !args.no_open {
        open(&address);
    }
    tokio::join!(gathering.go_on(&shown), server.serve(pages));
    Ok(())
}

/// Opens the browser, where there is a display; the address is said in any case.
fn open(address: &str) {
    let has = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !has("DISPLAY") && !has("WAYLAND_DISPLAY") {
        return;
    }
    let mut command = Command::new("xdg-open");
    let quiet = command
        .arg(address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Ctrl-C is for this program, not for a browser that begins with it.
    match quiet.process_group(0).spawn() {
        Ok(mut browser) => {
            tokio::spawn(async move { browser.wait().await });
        }
        Err(error) => say(&format!("no browser is opened: xdg-open: {error}")),
    }
}

/// A task that ends with what it is for.
struct Task(JoinHandle<()>);

impl Task {
    fn of(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is read for all pages together.
struct Gathering {
    published: watch::Receiver<Published>,
    asking: Asking,
    said: mpsc::Receiver<(String, Said)>,
    /// Whose agents are asked.
    agents: BTreeMap<String, Task>,
    answers: Answers,
    map: Map,
    began: Instant,
    _tasks: [Task; 2],
}

impl Gathering {
    async fn begin(access: Access, objects: Objects) -> Self {
        let first = Published {
            objects,
            failed: None,
        };
        let (following, published) = watch::channel(first);
        let (finding, pods) = watch::channel(agents(&access).await);
        let (answers, said) = mpsc::channel(64);
        let missing = Arc::new(Notify::new());
        let tasks = [
            Task::of(published::follow(access.clone(), following)),
            Task::of(find(access.clone(), missing.clone(), finding)),
        ];
        Self {
            published,
            asking: Asking {
                access,
                pods,
                missing,
                answers,
            },
            said,
            agents: BTreeMap::new(),
            answers: Answers::new(),
            map: Map::default(),
            began: Instant::now(),
            _tasks: tasks,
        }
    }

    /// Shows it, for ever.
    async fn go_on(mut self, shown: &watch::Sender<Shown>) {
        let mut moved = true;
        let mut rested = Instant::now();
        let mut due = Some(rested);
        loop {
            let wake = due.unwrap_or(rested);
            tokio::select! {
                Ok(()) = self.published.changed() => moved = true,
                Ok(()) = self.asking.pods.changed() => {}
                Some((node, said)) = self.said.recv() => self.hear(node, said),
                () = sleep_until(wake), if due.is_some() => {
                    due = None;
                    let begins = Instant::now();
                    if std::mem::take(&mut moved) {
                        self.ask();
                    }
                    self.look(shown);
                    rested = Instant::now() + begins.elapsed() * REST;
                    continue;
                }
            }
            due.get_or_insert_with(|| rested.max(Instant::now() + TOGETHER));
        }
    }

    /// Asks the agents of those who lead now, and no others.
    fn ask(&mut self) {
        let nodes: BTreeSet<String> = {
            let published = self.published.borrow_and_update();
            first_leaders(&published.objects.published())
                .into_iter()
                .collect()
        };
        self.agents.retain(|node, _| nodes.contains(node));
        self.answers.retain(|node, _| nodes.contains(node));
        let each = EACH.saturating_mul(u32::try_from(nodes.len()).unwrap_or(u32::MAX));
        let asking = &self.asking;
        for node in nodes {
            let begin = || Task::of(follow(asking.clone(), node.clone(), EVERY.max(each)));
            self.agents.entry(node.clone()).or_insert_with(begin);
        }
    }

    fn hear(&mut self, node: String, said: Said) {
        // It may have been on its way when its node ceased to lead.
        if !self.agents.contains_key(&node) {
            return;
        }
        match said {
            Some(answer) => drop(self.answers.insert(node, answer)),
            None => drop(self.answers.remove(&node)),
        }
    }

    fn look(&mut self, shown: &watch::Sender<Shown>) {
        let published = self.published.borrow();
        let unasked = self.asking.pods.borrow().as_ref().err().cloned();
        let notes: Vec<String> = published.failed.clone().into_iter().chain(unasked).collect();
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = u64::try_from(clock.as_millis()).unwrap_or(u64::MAX);
        let since = self.began.elapsed();
        let now = self
            .map
            .look(&published.objects, &self.answers, &notes, since, clock);
        shown.send_if_modified(|before| {
            let differs = before != now;
            if differs {
                before.clone_from(now);
            }
            differs
        });
    }
}

/// Finds the pods of agents, again where one is missed.
async fn find(access: Access, missing: Arc<Notify>, found: watch::Sender<Result<Agents, String>>) {
    loop {
        sleep(PODS).await;
        missing.notified().await;
        let pods = agents(&access).await;
        found.send_if_modified(|before| {
            let differs = *before != pods;
            *before = pods;
            differs
        });
    }
}
