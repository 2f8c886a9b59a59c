//! `map`: the program, an API server, and agents that say what the test has them say.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Stdio},
    time::Duration,
};

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use spanwire_crds::{Location, LocationSlice, Peer};
use spanwire_testbed::{command, wait_until};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, Lines},
    net::TcpStream,
    time::timeout,
};

use crate::{
    cli, create,
    kubelet::{Agents, Other},
    ours, publish,
    server::{Process, Server},
};

/// How long anything is waited for that is to happen at all.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The program while it runs; gone when dropped.
pub(crate) struct Running {
    child: Child,
    /// The address that it says.
    pub(crate) address: String,
}

impl Running {
    pub(crate) fn start(server: &Server, words: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = command(env!("CARGO_BIN_EXE_kubectl-spanwire"))
            .arg("--kubeconfig")
            .arg(&server.kubeconfig)
            .arg("map")
            .args(words)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .strip_prefix("the map is at ")
            .and_then(|rest| rest.split(';').next());
        let address = address.unwrap_or_else(|| panic!("it says {line:?}")).to_owned();
        Self { child, address }
    }

    fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap().trim_end_matches('/')
    }

    /// Presses Ctrl-C; its exit code.
    fn interrupt(mut self) -> i32 {
        let pid = self.child.id().to_string();
        command("kill").args(["-INT", &pid]).status().unwrap();
        let mut status = None;
        wait_until("it ends", SOON, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An open page: what it is sent.
struct Page {
    lines: Lines<tokio::io::BufReader<TcpStream>>,
}

impl Page {
    async fn open(map: &Running) -> Self {
        let port = map.port();
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
        // So that nothing stands between the lines.
        let request = format!("GET /events HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = tokio::io::BufReader::new(stream).lines();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "HTTP/1.0 200 OK");
        Self { lines }
    }

    /// Waits for an event of this name that is like this.
    async fn until<T>(&mut self, what: &str, name: &str, mut read: impl FnMut(&Value) -> Option<T>) -> T {
        let mut last = Value::Null;
        let reading = async {
            let mut event = String::new();
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if let Some(name) = line.strip_prefix("event: ") {
                    name.clone_into(&mut event);
                } else if let Some(data) = line.strip_prefix("data: ").filter(|_| event == name) {
                    last = serde_json::from_str(data).unwrap();
                    if let Some(found) = read(&last) {
                        return found;
                    }
                }
            }
            panic!("the program tells nothing more: {what}")
        };
        let found = timeout(SOON, reading).await;
        found.unwrap_or_else(|_| panic!("not in time: {what}; last {last}"))
    }

    /// Waits until a link is like this.
    async fn link(&mut self, health: &str) -> Value {
        let is = |links: &Value| {
            let link = links[0].clone();
            (link["health"] == health).then_some(link)
        };
        self.until(health, "links", is).await
    }

    /// Waits for an entry of the log.
    async fn logged(&mut self, text: &str) {
        let has = |log: &Value| {
            log.as_array()?
                .iter()
                .find(|entry| entry["text"] == text)
                .map(drop)
        };
        self.until(text, "log", has).await;
    }
}

/// Two locations, of which b has a second node that stands by; a Peer; and an agent on each node.
pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) agents: Agents,
    _kubelet: Process,
}

impl Scene {
    pub(crate) async fn start() -> Self {
        let server = Server::start().await;
        publish(&server).await;
        let member = |node: &str, index: u8| {
            json!({"node": node, "generation": 1, "addresses": [format!("192.168.1.{index}")],
                "prefixes": [format!("10.244.1{index}.0/24")], "overlay": [format!("10.4.1.{index}")],
                "publicKey": crate::KEY[1], "listenPort": 51820, "endpoints": [format!("203.0.113.1{index}:51820")]})
        };
        let slices: Api<LocationSlice> = Api::all(server.client.clone());
        let members = json!({"spec": {"members": [member("b1", 1), member("b2", 2), member("b3", 3)]}});
        slices
            .patch("b-m1", &PatchParams::default(), &Patch::Merge(members))
            .await
            .unwrap();
        let laptop = json!({"publicKey": crate::KEY[0], "allowedIPs": ["10.99.0.7/32"], "home": "a", "attachments": ["a"]});
        let spec = json!({"publicKey": crate::KEY[0], "allowedIPs": ["10.99.0.7/32"]});
        create::<Peer>(
            &server,
            ours("Peer", "laptop", spec, Some(json!({"accepted": laptop}))),
        )
        .await;
        let (agents, kubelet) = Agents::start(&server, &["a1", "b1", "b2", "c1"]).await;
        agents.say("a1", &[Other::well("b", &["b1", "b2"])]);
        agents.say("b1", &[Other::well("a", &["a1"])]);
        agents.say("b2", &[Other::well("a", &["a1"])]);
        let scene = Self {
            server,
            agents,
            _kubelet: kubelet,
        };
        scene.lead(&["b1", "b2"]).await;
        scene
    }

    /// The same with a third location, which has one node.
    pub(crate) async fn with_a_third_location() -> Self {
        let scene = Self::start().await;
        let server = &scene.server;
        create::<Location>(
            server,
            ours("Location", "c", json!({}), Some(json!({"nodes": 1}))),
        )
        .await;
        let head = json!({"location": "c", "head": {"meshGeneration": 1, "established": ["a", "b"],
            "leaders": [{"node": "c1", "role": "Active"}], "memberSlices": ["c-m1"]}});
        create::<LocationSlice>(server, ours("LocationSlice", "c-head", head, None)).await;
        let member = json!({"node": "c1", "generation": 1, "addresses": ["192.168.2.1"], "prefixes": ["10.244.2.0/24"],
            "overlay": ["10.4.2.1"], "publicKey": crate::KEY[0], "listenPort": 51820, "endpoints": []});
        let members = json!({"location": "c", "members": [member]});
        create::<LocationSlice>(server, ours("LocationSlice", "c-m1", members, None)).await;
        let slices: Api<LocationSlice> = Api::all(server.client.clone());
        for (location, other) in [("a", "b"), ("b", "a")] {
            let head = Patch::Merge(json!({"spec": {"head": {"established": [other, "c"]}}}));
            slices
                .patch(&format!("{location}-head"), &PatchParams::default(), &head)
                .await
                .unwrap();
        }
        scene
            .agents
            .say("b1", &[Other::well("a", &["a1"]), Other::well("c", &["c1"])]);
        scene.agents.say(
            "c1",
            &[Other::well("a", &["a1"]), Other::well("b", &["b1", "b2"])],
        );
        scene
    }

    /// Publishes who leads b, the first one actively.
    pub(crate) async fn lead(&self, leaders: &[&str]) {
        let role = |index| if index == 0 { "Active" } else { "Standby" };
        let leaders = leaders.iter().enumerate();
        let leaders: Vec<Value> = leaders
            .map(|(index, node)| json!({"node": node, "role": role(index)}))
            .collect();
        let head = Patch::Merge(json!({"spec": {"head": {"leaders": leaders}}}));
        let slices: Api<LocationSlice> = Api::all(self.server.client.clone());
        slices
            .patch("b-head", &PatchParams::default(), &head)
            .await
            .unwrap();
    }

    /// Has the agent of a1 go around b1, by b2.
    pub(crate) fn fail_over(&self) {
        let around = Other {
            not_used: &["b1"],
            failovers: 1,
            ..Other::well("b", &["b1", "b2"])
        };
        self.agents.say("a1", &[around]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_on_every_page_within_a_second_of_what_the_agent_says() {
    let scene = Scene::start().await;
    let map = Running::start(&scene.server, &["--no-open"], &[]);
    let (mut page, mut other) = (Page::open(&map).await, Page::open(&map).await);
    // What one end measures is known before the other has answered.
    let both = |links: &Value| {
        let ways = &links[0]["ways"];
        let is_up = links[0]["health"] == "up";
        (is_up && ways[0]["farLeader"] == "b1" && ways[1]["leader"] == "b1").then_some(())
    };
    page.until("both ends measure", "links", both).await;
    other.until("both ends measure", "links", both).await;

    scene.fail_over();
    for page in [&mut page, &mut other] {
        page.logged("a1 of a goes to b by b2 now, before by b1").await;
        let answered = scene.agents.of("a1", |agent| agent.answered).unwrap();
        let after = answered.elapsed();
        assert!(after < Duration::from_secs(1), "{after:?}");
    }

    // What the operator publishes is sent, too, and from then on the agents of those who lead are asked.
    scene.lead(&["b2", "b1"]).await;
    page.logged("b is led by b2 now, before by b1").await;
    let roles = json!([{"name": "b2", "role": "active"}, {"name": "b1", "role": "standby"}]);
    let mut late = Page::open(&map).await;
    late.until("who leads", "mesh", |mesh| {
        (mesh["locations"][1]["leaders"] == roles).then_some(())
    })
    .await;
    let measured = |links: &Value| {
        let way = &links[0]["ways"][1];
        (way["leader"] == "b2" && way["up"] == true).then_some(())
    };
    late.until("b2 measures", "links", measured).await;

    // Whatever is open, an agent is asked once, over one connection.
    let asked = |node: &str| scene.agents.of(node, |agent| (agent.connections, agent.open));
    assert_eq!((asked("a1"), asked("b2")), ((1, 1), (1, 1)));
    wait_until("b1 is not asked any more", SOON, || asked("b1") == (1, 0));

    // An agent that says nothing is unknown, and the rest is shown.
    scene.agents.silence("b2");
    let silent = |trouble: &Value| {
        let found = trouble["findings"].as_array()?;
        found
            .iter()
            .find(|one| one["reason"] == "NoAnswer" && one["object"] == "meshnode b2")
            .map(drop)
    };
    page.until("b2 does not answer", "trouble", silent).await;
    assert_eq!(map.interrupt(), 0);
    wait_until("nothing asks", SOON, || asked("a1").1 == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_opens_the_browser_where_there_is_a_display_and_says_what_it_may_not() {
    let server = Server::start().await;
    publish(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let browser = folder.path().join("xdg-open");
    fs::write(&browser, "#!/bin/sh\necho \"$1\" >\"$0.opened\"\n").unwrap();
    fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).unwrap();
    let opened = folder.path().join("xdg-open.opened");
    let path = folder.path().display().to_string();
    let display = [("PATH", path.as_str()), ("DISPLAY", ":7")];
    let map = Running::start(
        &server,
        &["--port", &crate::server::port().to_string(), "--no-open"],
        &display,
    );
    let mut page = Page::open(&map).await;
    // Without an agent the rest is shown.
    page.link("unknown").await;
    let note = |trouble: &Value| trouble["notes"][0].as_str().map(str::to_owned);
    let note = page.until("why nothing is measured", "trouble", note).await;
    assert!(note.contains("the namespace spanwire has no agent"), "{note}");
    assert!(!opened.exists());
    let port = map.port().to_owned();
    let (code, said) = cli(
        &server.kubeconfig,
        folder.path(),
        &["map", "--no-open", "--port", &port],
    );
    assert!(
        code == 1 && said.contains(&format!("cannot listen at port {port}")),
        "{code} {said}"
    );
    drop(map);

    let map = Running::start(&server, &[], &display);
    wait_until("the browser is opened", SOON, || {
        fs::read_to_string(&opened).is_ok_and(|address| address == format!("{}\n", map.address))
    });
    let (code, said) = cli(&server.kubeconfig_of("cni"), folder.path(), &["map", "--no-open"]);
    assert!(
        code == 1 && said.contains("docs/cli.md names the rights"),
        "{code} {said}"
    );
    let api: Api<Location> = Api::all(server.client.clone());
    let params = kube::api::DeleteParams::default();
    api.delete("b", &params).await.unwrap();
    // While it is published it is there.
    let slices: Api<LocationSlice> = Api::all(server.client.clone());
    for slice in ["b-head", "b-m1"] {
        slices.delete(slice, &params).await.unwrap();
    }
    let mut page = Page::open(&map).await;
    page.until("b is gone", "mesh", |mesh| {
        (mesh["locations"].as_array()?.len() == 1).then_some(())
    })
    .await;
}
