//! What agents, operators and tunnels log at WARN and ERROR while a suite runs, what Events the operator writes, and which test
//! provoked it.
//!
//! The files are read from the nodes' own folders while they are written: the kubelet removes those of a pod that is
//! replaced, and a test that replaces pods must not thereby hide what they had to say.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{command::Cmd, lab::Lab};

/// In the place of a test.
const BEFORE: &str = "before the first test";
/// How often the files are looked at. A container lives longer, and an open file outlives its name.
const OFTEN: Duration = Duration::from_millis(200);

/// How long after a test what it provoked may still be logged: longer than any back-off and any session that runs out.
const ECHO: Duration = Duration::from_secs(30);

/// What a program says when it got no processor for seconds, by its container. A machine that runs a whole cluster on two
/// processors may do that to any program that starts, whatever the test.
const STARVED: [(&str, &str); 5] = [
    (
        "agent",
        "userspace WireGuard at /run/spanwire/tunnel.sock does not answer",
    ),
    ("agent", "no WireGuard answers for the TUN device spanwire0"),
    ("agent", "enforcing the checkpoint takes long"),
    (
        "agent",
        "the source does not answer; going on from the checkpoint",
    ),
    ("operator", "renewing the lease timed out"),
];

/// What agents and operators say while the API server is away, starts, or no longer lets them do their work. What exactly
/// fails first, and why, depends on the moment.
const REFUSED: [&str; 11] = [
    "watch failed, backing off",
    "renewing the leader's Lease failed",
    "renewing the lease failed",
    // Nor is it refused where packets are dropped on the way.
    "renewing the lease timed out",
    // It is no longer the leader, and starts again.
    "the operator ends",
    "writing the status failed",
    "write failed, backing off",
    "an Event is not written",
    "looking at the CustomResourceDefinitions failed",
    "the CustomResourceDefinitions cannot be kept up to date",
    "the networks of services cannot be read",
];

/// What a test provokes.
#[derive(Debug, Clone, Copy)]
pub struct Provoked {
    /// The test.
    pub by: &'static str,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// A program, by its container, and what stands in the line.
    Line(&'static str, &'static str),
    /// Any of [`REFUSED`].
    Refused,
}

/// What no test provoked.
#[derive(Debug, Default)]
pub(crate) struct Unprovoked {
    /// That is a fault of a program or of a test.
    pub(crate) faults: Vec<String>,
    /// A program got no processor for seconds: as with a test that fails once, worth a look.
    pub(crate) starved: Vec<String>,
}

/// Instead of a container: what the operator says by an Event.
const EVENT: &str = "an Event";

/// A line at WARN or ERROR, or an Event.
#[derive(Debug, Clone)]
struct Line {
    /// The node, or the kind and name of the Event's object.
    node: String,
    container: String,
    text: String,
    /// The test that ran when it was read.
    during: &'static str,
    read: Instant,
}

/// Reads the logs in the background until it is dropped.
#[derive(Debug)]
pub(crate) struct LogWatch {
    state: Arc<Mutex<State>>,
    stop: Option<Sender<()>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    /// Each node's folder of pods' logs.
    folders: Vec<(String, PathBuf)>,
    open: BTreeMap<PathBuf, Tail>,
    during: &'static str,
    begun: Vec<Begun>,
    ended: BTreeMap<&'static str, Instant>,
    lines: Vec<Line>,
}

/// When a test began.
#[derive(Debug, Clone)]
struct Begun {
    test: &'static str,
    at: Instant,
    /// The same as Events have it (RFC 3339, in UTC, with microseconds): of two the earlier one sorts before the later one.
    stamp: String,
}

/// A file that grows, and the end of it that is no whole line yet.
#[derive(Debug)]
struct Tail {
    node: String,
    container: String,
    file: File,
    rest: Vec<u8>,
}

impl LogWatch {
    /// Starts reading what is logged from now on.
    pub(crate) fn start(lab: &Lab) -> Self {
        let nodes = lab.node_names().into_iter();
        let folders = nodes.map(|node| {
            let pods = lab.logs_of(&node).join("pods");
            (node, pods)
        });
        let mut state = State {
            folders: folders.collect(),
            open: BTreeMap::new(),
            during: BEFORE,
            begun: vec![Begun::now(BEFORE)],
            ended: BTreeMap::new(),
            lines: Vec::new(),
        };
        state.look();
        // What an earlier run has caused in a lab that was kept is none of this one.
        state.lines.clear();
        let state = Arc::new(Mutex::new(state));
        let (stop, stopped) = mpsc::channel();
        let shared = Arc::clone(&state);
        let reader = thread::spawn(move || {
            while stopped.recv_timeout(OFTEN) == Err(RecvTimeoutError::Timeout) {
                lock(&shared).look();
            }
        });
        Self {
            state,
            stop: Some(stop),
            reader: Some(reader),
        }
    }

    /// From now on this test runs.
    pub(crate) fn begin(&self, test: &'static str) {
        let mut state = lock(&self.state);
        state.look();
        let before = std::mem::replace(&mut state.during, test);
        state.ended.insert(before, Instant::now());
        state.begun.push(Begun::now(test));
    }

    /// Takes the Events that the operator has written since the beginning; the API server keeps them for an hour.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn take_events(&self, lab: &Lab) -> Result<()> {
        let listed = lab.get(&["events", "--namespace", "default"])?;
        let events = listed["items"].as_array().context("no list of Events")?;
        let ours = events
            .iter()
            .filter(|event| event["reportingComponent"] == "spanwire-operator");
        let mut state = lock(&self.state);
        for event in ours {
            state.enter_event(event)?;
        }
        Ok(())
    }

    /// Returns the lines that none of the tests provoked that ran when they were logged, or had run a moment before.
    pub(crate) fn unprovoked(&self, provoked: &[Provoked]) -> Unprovoked {
        let mut state = lock(&self.state);
        state.look();
        let State { ended, lines, .. } = &*state;
        let mut found = Unprovoked::default();
        for line in lines {
            if provoked.iter().any(|one| one.explains(line, ended)) {
                continue;
            }
            let list = if line.is_starved() {
                &mut found.starved
            } else {
                &mut found.faults
            };
            let Line {
                node,
                container,
                text,
                during,
                ..
            } = line;
            list.push(format!("{container} on {node}, during {during}: {text}"));
        }
        found
    }
}

impl Drop for LogWatch {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(reader) = self.reader.take() {
            // If it panicked, what it had read is still there.
            let _ = reader.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no thread panics while it holds the lock")
}

impl Provoked {
    /// What an agent logs.
    #[must_use]
    pub const fn agent(by: &'static str, says: &'static str) -> Self {
        let what = What::Line("agent", says);
        Self { by, what }
    }

    /// What an operator logs.
    #[must_use]
    pub const fn operator(by: &'static str, says: &'static str) -> Self {
        let what = What::Line("operator", says);
        Self { by, what }
    }

    /// What the operator says by an Event.
    #[must_use]
    pub const fn event(by: &'static str, says: &'static str) -> Self {
        let what = What::Line(EVENT, says);
        Self { by, what }
    }

    /// What agents and operators log of a test that takes away the API server, or what it grants them.
    #[must_use]
    pub const fn without_api_server(by: &'static str) -> Self {
        let what = What::Refused;
        Self { by, what }
    }

    fn explains(&self, line: &Line, ended: &BTreeMap<&'static str, Instant>) -> bool {
        let then = self.by == line.during
            || ended
                .get(self.by)
                .is_some_and(|end| *end <= line.read && line.read < *end + ECHO);
        let said = match self.what {
            What::Line(program, says) => program == line.container && line.text.contains(says),
            What::Refused => REFUSED.iter().any(|says| line.text.contains(says)),
        };
        then && said
    }
}

impl Begun {
    fn now(test: &'static str) -> Self {
        let stamp = Cmd::of(["date", "-u", "+%Y-%m-%dT%H:%M:%S.%6NZ"]).run();
        Self {
            test,
            at: Instant::now(),
            stamp: stamp.expect("date tells the time").trim_end().to_owned(),
        }
    }
}

impl Line {
    fn is_starved(&self) -> bool {
        let mut starved = STARVED.iter();
        starved.any(|(program, says)| self.container == *program && self.text.contains(says))
    }
}

impl State {
    /// Enters an Event as a line of the test in which it was written; nothing of one from before the first.
    fn enter_event(&mut self, event: &Value) -> Result<()> {
        let written = event["eventTime"].as_str().context("an Event without a time")?;
        let mut begun = self.begun.iter().rev();
        let Some(Begun { test, at, .. }) = begun.find(|begun| begun.stamp.as_str() <= written) else {
            return Ok(());
        };
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["involvedObject"];
        self.lines.push(Line {
            node: format!("{} {}", word(&object["kind"]), word(&object["name"])),
            container: EVENT.to_owned(),
            text: format!("{}: {}", word(&event["reason"]), word(&event["message"])),
            during: test,
            read: *at,
        });
        Ok(())
    }

    /// Reads what has been written since the last time.
    fn look(&mut self) {
        for (node, folder) in &self.folders {
            for (container, path) in files(folder) {
                // One that is gone again was never this program's.
                if !self.open.contains_key(&path)
                    && let Ok(file) = File::open(&path)
                {
                    let node = node.clone();
                    self.open.insert(
                        path,
                        Tail {
                            node,
                            container,
                            file,
                            rest: Vec::new(),
                        },
                    );
                }
            }
        }
        let read = Instant::now();
        for tail in self.open.values_mut() {
            for text in tail.lines().iter().filter_map(|line| loud(line)) {
                self.lines.push(Line {
                    node: tail.node.clone(),
                    container: tail.container.clone(),
                    text: text.to_owned(),
                    during: self.during,
                    read,
                });
            }
        }
    }
}

impl Tail {
    /// Returns the lines that have been completed since the last time.
    fn lines(&mut self) -> Vec<String> {
        // What cannot be read now is read the next time.
        let _ = self.file.read_to_end(&mut self.rest);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        let text = String::from_utf8_lossy(&whole);
        text.lines().map(str::to_owned).collect()
    }
}

/// Returns the log files of Spanwire's containers below a node's folder `pods/NAMESPACE_POD_UID/CONTAINER/N.log`.
fn files(pods: &Path) -> Vec<(String, PathBuf)> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let ours = below(pods)
        .into_iter()
        .filter(|pod| name(pod).starts_with("spanwire_"));
    ours.flat_map(|pod| below(&pod))
        .flat_map(|container| {
            let logs = below(&container).into_iter();
            let whole = logs.filter(|file| file.extension().is_some_and(|extension| extension == "log"));
            whole.map(|file| (name(&container), file)).collect::<Vec<_>>()
        })
        .collect()
}

/// Returns what a program said, if it said it at WARN or ERROR or in a panic. Before it the runtime has written time,
/// stream and a flag.
fn loud(line: &str) -> Option<&str> {
    let said = line.splitn(4, ' ').nth(3)?;
    let level = said.split_whitespace().nth(1);
    let loud = matches!(level, Some("WARN" | "ERROR"))
        || said.contains("panicked at")
        || said.contains(r#""level":"WARN""#)
        || said.contains(r#""level":"ERROR""#);
    loud.then(|| said.trim_end())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::json;

    use super::*;

    const WARN: &str =
        "2026-01-01T00:00:00.1Z stderr F 2026-01-01T00:00:00.1Z  WARN spanwire_agent: the watch failed";

    #[test]
    fn warnings_errors_and_panics_are_loud_and_what_only_mentions_them_is_not() {
        assert_eq!(
            loud(WARN),
            Some("2026-01-01T00:00:00.1Z  WARN spanwire_agent: the watch failed")
        );
        let said = |text: &str| format!("2026-01-01T00:00:00.1Z stderr F {text}");
        assert!(loud(&said("2026-01-01T00:00:00.1Z ERROR spanwire_tunnel: no")).is_some());
        assert!(loud(&said("thread 'main' panicked at src/main.rs:1:1:")).is_some());
        assert!(loud(&said(r#"{"timestamp":"x","level":"WARN"}"#)).is_some());
        assert!(
            loud(&said(
                "2026-01-01T00:00:00.1Z  INFO spanwire_agent: no WARN and no ERROR"
            ))
            .is_none()
        );
        assert!(loud("").is_none());
    }

    #[test]
    fn a_line_is_explained_by_the_test_that_provokes_it_while_it_runs_and_a_moment_longer() {
        let end = Instant::now();
        let ended = BTreeMap::from([("first", end)]);
        let line = |during, read| Line {
            node: "a1".to_owned(),
            container: "agent".to_owned(),
            text: WARN.to_owned(),
            during,
            read,
        };
        let provoked = Provoked::agent("first", "the watch failed");
        assert!(provoked.explains(&line("first", end), &BTreeMap::new()));
        assert!(provoked.explains(&line("second", end + Duration::from_secs(1)), &ended));
        assert!(!provoked.explains(&line("second", end + ECHO), &ended));
        assert!(!provoked.explains(&line("zeroth", end), &BTreeMap::new()));
        assert!(!Provoked::operator("first", "the watch failed").explains(&line("first", end), &ended));
        assert!(!Provoked::agent("first", "another").explains(&line("first", end), &ended));
        let away = Provoked::without_api_server("first");
        assert!(!away.explains(&line("first", end), &ended));
        let mut refused = line("first", end);
        refused.text = "WARN spanwire_cluster::watch: watch failed, backing off kind=Peer".to_owned();
        assert!(away.explains(&refused, &ended));
    }

    #[test]
    fn a_program_that_got_no_processor_is_no_fault_and_is_listed() {
        let line = |container: &str, text: &str| Line {
            node: "a1".to_owned(),
            container: container.to_owned(),
            text: text.to_owned(),
            during: "a test",
            read: Instant::now(),
        };
        let slow = "WARN spanwire_agent: enforcing the checkpoint takes long; going on beside it";
        let state = State {
            folders: Vec::new(),
            open: BTreeMap::new(),
            during: "a test",
            begun: Vec::new(),
            ended: BTreeMap::new(),
            lines: vec![line("agent", slow), line("operator", slow), line("agent", WARN)],
        };
        let watch = LogWatch {
            state: Arc::new(Mutex::new(state)),
            stop: None,
            reader: None,
        };
        let Unprovoked { faults, starved } = watch.unprovoked(&[]);
        assert_eq!((faults.len(), starved.len()), (2, 1), "{faults:?} {starved:?}");
        assert!(
            starved[0].starts_with("agent on a1, during a test: "),
            "{starved:?}"
        );
        let provoked = Provoked::agent("a test", "takes long");
        assert!(watch.unprovoked(&[provoked]).starved.is_empty());
    }

    #[test]
    fn an_event_is_a_line_of_the_test_in_which_it_was_written() {
        let at = Instant::now();
        let begun = |test, stamp: &str| Begun {
            test,
            at,
            stamp: stamp.to_owned(),
        };
        let mut state = State {
            folders: Vec::new(),
            open: BTreeMap::new(),
            during: "second",
            begun: vec![
                begun("first", "2026-01-01T00:00:10.000001Z"),
                begun("second", "2026-01-01T00:00:20.000000Z"),
            ],
            ended: BTreeMap::new(),
            lines: Vec::new(),
        };
        let event = |time: &str| {
            json!({
                "involvedObject": {"kind": "Peer", "name": "p"},
                "eventTime": time, "reason": "Invalid", "message": "peer p: no",
            })
        };
        for time in ["09.999999", "10.000001", "19.999999", "20.000000", "59.999999"] {
            state
                .enter_event(&event(&format!("2026-01-01T00:00:{time}Z")))
                .unwrap();
        }
        let during: Vec<&str> = state.lines.iter().map(|line| line.during).collect();
        assert_eq!(during, ["first", "first", "second", "second"], "one was before");
        assert_eq!(state.lines[0].text, "Invalid: peer p: no");
        let provoked = Provoked::event("first", "peer p");
        assert!(provoked.explains(&state.lines[0], &BTreeMap::new()));
        assert!(!provoked.explains(&state.lines[2], &BTreeMap::new()));
        assert!(state.enter_event(&json!({})).is_err());
    }

    #[test]
    fn what_a_pod_wrote_is_read_though_its_file_is_removed() {
        let folder = std::env::temp_dir().join(format!("spanwire-logs-{}", std::process::id()));
        let container = folder.join("spanwire_agent-x_1234/agent");
        fs::create_dir_all(&container).unwrap();
        fs::create_dir_all(folder.join("kube-system_agent_5/agent")).unwrap();
        fs::write(
            folder.join("kube-system_agent_5/agent/0.log"),
            format!("{WARN}\n"),
        )
        .unwrap();
        let path = container.join("0.log");
        let mut file = File::create(&path).unwrap();
        let mut state = State {
            folders: vec![("a1".to_owned(), folder.clone())],
            open: BTreeMap::new(),
            during: "a test",
            begun: Vec::new(),
            ended: BTreeMap::new(),
            lines: Vec::new(),
        };
        write!(file, "{WARN}\n{}", &WARN[..20]).unwrap();
        state.look();
        assert_eq!(state.lines.len(), 1, "half a line is none");
        fs::remove_dir_all(&folder).unwrap();
        writeln!(file, "{}", &WARN[20..]).unwrap();
        state.look();
        assert_eq!(state.lines.len(), 2);
        assert_eq!(
            (state.lines[1].node.as_str(), state.lines[1].container.as_str()),
            ("a1", "agent")
        );
    }
}
