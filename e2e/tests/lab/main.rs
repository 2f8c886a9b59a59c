//! The lab itself: that it is the network it says it is, that nodes die and come back, and that nothing is left.

use std::{
    fs,
    process::{ExitCode, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use spanwire_e2e::{Cmd, Lab, Ping, Profile, Spanwire, scenario::Routers, suite, wait_until};

const SOON: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    suite::run(
        "t-lab",
        "open.yaml",
        &suite::options(Spanwire::Absent),
        &[
            ("open_routers_let_every_pod_reach_every_pod", open),
            (
                "closed_routers_and_the_internet_let_nothing_private_through",
                closed,
            ),
            ("a_strict_lan_drops_what_is_not_its_own", strict_lan),
            ("a_cut_is_a_cut_and_heals", cut),
            ("a_steady_ping_counts_what_a_cut_costs", ping),
            ("a_crashed_node_is_silent_and_comes_back_with_its_files", crash),
            ("a_killed_service_is_started_again", service),
            (
                "a_node_speaks_with_the_credentials_of_its_kubelet_and_no_others",
                kubelet,
            ),
            ("neighbours_come_to_a_node_and_leave_it_as_it_was", neighbours),
            ("a_lab_whose_maker_was_killed_goes_down_without_a_trace", killed),
        ],
        &[],
    )
}

fn ip(lab: &Lab, node: &str) -> Result<std::net::IpAddr> {
    Ok(lab.node_layout(node)?.addresses[0])
}

fn answers(lab: &Lab, from: &str, to: &str) -> Result<bool> {
    let to = ip(lab, to)?.to_string();
    Ok(lab
        .node(from)?
        .finish(["ping", "-n", "-c", "1", "-W", "1", &to])?
        .code
        == 0)
}

fn open(lab: &Lab) -> Result<()> {
    let matrix = lab.ping_all()?;
    ensure!(matrix.complete(), "\n{matrix}");
    ensure!(lab.status()?.ready(), "{}", lab.status()?);
    Ok(())
}

fn closed(lab: &Lab) -> Result<()> {
    lab.set_routers(Routers::Closed)?;
    let (matrix, seen) = lab.capture("internet", "net 192.168.0.0/16 or net 10.0.0.0/8", || {
        lab.ping_all()
    })?;
    lab.set_routers(Routers::Open)?;
    ensure!(
        seen.trim().is_empty(),
        "private addresses on the internet: {seen}"
    );
    let sizes: Vec<usize> = lab
        .layout()
        .locations
        .iter()
        .map(|location| location.nodes.len())
        .collect();
    let all: usize = sizes.iter().sum();
    let between = all * all - sizes.iter().map(|size| size * size).sum::<usize>();
    for (from, unreached) in &matrix.unreached {
        let home = from.chars().next();
        ensure!(
            unreached.iter().all(|to| to.chars().next() != home),
            "inside a location:\n{matrix}"
        );
    }
    ensure!(
        matrix.unreached.values().map(Vec::len).sum::<usize>() == between,
        "between locations:\n{matrix}"
    );
    let (_, seen) = lab.capture("internet", "net 192.168.0.0/16", || lab.ping_all())?;
    ensure!(
        seen.contains("192.168.2.11"),
        "open routers must let private addresses through: {seen}"
    );
    Ok(())
}

fn strict_lan(lab: &Lab) -> Result<()> {
    let (sender, receiver) = (lab.node("a2")?, lab.node("a1")?);
    let via = ip(lab, "a1")?.to_string();
    let filter = "dst host 10.9.9.9 or dst host 198.51.100.9";
    for address in ["10.9.9.9", "198.51.100.9"] {
        sender.run(["ip", "route", "add", address, "via", &via])?;
    }
    let dump = receiver.dump("eth0", filter)?;
    for address in ["10.9.9.9", "198.51.100.9"] {
        sender.finish(["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", address])?;
        sender.run(["ip", "route", "del", address])?;
    }
    let (seen, _) = dump.interrupt()?;
    ensure!(
        seen.contains("198.51.100.9"),
        "the world's addresses must pass: {seen}"
    );
    ensure!(
        !seen.contains("10.9.9.9"),
        "others' private addresses must not pass: {seen}"
    );
    Ok(())
}

fn cut(lab: &Lab) -> Result<()> {
    lab.cut("a", "b")?;
    ensure!(
        !answers(lab, "a1", "b1")? && answers(lab, "a1", "a2")?,
        "a cut between locations"
    );
    lab.heal()?;
    lab.cut("a1", "a2")?;
    ensure!(
        !answers(lab, "a1", "a2")? && answers(lab, "a1", "b1")?,
        "a cut between nodes"
    );
    lab.heal()?;
    ensure!(answers(lab, "a1", "b1")? && answers(lab, "a1", "a2")?, "healed");
    ensure!(
        lab.cut("a1", "b1").is_err() && lab.cut("a", "nowhere").is_err(),
        "nonsense is refused"
    );
    Ok(())
}

fn ping(lab: &Lab) -> Result<()> {
    let (node, to) = (lab.node("a1")?, ip(lab, "b1")?);
    let ping = Ping::start(&node, to, Duration::from_millis(10))?;
    thread::sleep(Duration::from_secs(1));
    let calm = ping.finish()?;
    ensure!(calm.lost() == 0 && calm.sent > 20, "{calm:?}");
    let ping = Ping::start(&node, to, Duration::from_millis(10))?;
    thread::sleep(Duration::from_millis(300));
    lab.cut("a", "b")?;
    thread::sleep(Duration::from_millis(500));
    lab.heal()?;
    thread::sleep(Duration::from_millis(300));
    let report = ping.finish()?;
    ensure!(
        report.lost() > 20 && report.longest_gap > Duration::from_millis(400),
        "{report:?}"
    );
    Ok(())
}

fn crash(lab: &Lab) -> Result<()> {
    lab.node("b2")?
        .sh("echo here > /var/lib/mark; echo gone > /run/mark")?;
    lab.crash("b2")?;
    ensure!(!answers(lab, "b1", "b2")?, "a node without power answers");
    ensure!(
        lab.node("b2")?.run(["true"]).is_err(),
        "a node without power runs commands"
    );
    let status = lab.status()?;
    ensure!(
        status.missing.iter().any(|why| why.contains("b2: it is down")),
        "{status}"
    );
    lab.reboot("b2")?;
    lab.wait_ready()?;
    ensure!(
        lab.node("b2")?.sh("cat /var/lib/mark")?.trim() == "here",
        "its files are lost"
    );
    ensure!(!lab.node("b2")?.has("/run/mark"), "/run outlives a reboot");
    wait_until("every pod reaches every pod again", SOON, || {
        Ok(lab.ping_all()?.complete())
    })
}

fn service(lab: &Lab) -> Result<()> {
    let node = lab.node("a2")?;
    let pid = || node.sh("cat /run/lab/kubelet.pid");
    let before = pid()?;
    node.kill_service("kubelet")?;
    wait_until("the kubelet is another", SOON, || {
        Ok(pid().is_ok_and(|now| now != before))
    })?;
    node.stop_service("kubelet")?;
    thread::sleep(Duration::from_secs(1));
    ensure!(!node.has("/run/lab/kubelet.pid"), "a stopped service runs");
    node.start_service("kubelet")?;
    wait_until("the kubelet runs", SOON, || Ok(node.has("/run/lab/kubelet.pid")))
}

fn kubelet(lab: &Lab) -> Result<()> {
    let speak = |verb: &str, node: &str, words: &[&str]| {
        Cmd::new(env!("CARGO_BIN_EXE_lab"))
            .args(["--name", lab.name(), verb, node, "--", "kubectl"])
            .args(words)
            .finish()
    };
    // Of a location that reaches the API server by its private address, and of one that does not.
    for node in ["a2", "b1"] {
        let who = speak("kubelet", node, &["auth", "whoami", "-o", "json"])?;
        let user = format!("\"system:node:{node}\"");
        ensure!(
            who.stdout.contains(&user) && who.stdout.contains("\"system:nodes\""),
            "{who:?}"
        );
    }
    let own = speak(
        "kubelet",
        "a2",
        &["annotate", "node", "a2", "lab.test/x=y", "--overwrite"],
    )?;
    ensure!(own.code == 0, "its own Node: {own:?}");
    let other = speak("kubelet", "a2", &["annotate", "node", "b1", "lab.test/x=y"])?;
    ensure!(
        other.code != 0 && other.stderr.contains("User \"system:node:a2\" cannot"),
        "another's Node: {other:?}"
    );
    let cni = speak("cni", "a2", &["auth", "whoami", "-o", "json"])?;
    ensure!(cni.stdout.contains("\"flannel\""), "{cni:?}");
    let agent = speak("agent", "a2", &["auth", "whoami"])?;
    ensure!(
        agent.code != 0 && agent.stderr.contains("no agent runs on a2"),
        "there is no agent here: {agent:?}"
    );
    Ok(())
}

fn neighbours(lab: &Lab) -> Result<()> {
    let node = lab.node("a2")?;
    // What each leaves behind that another one could take for its own: not the kernel's numbers, counters and empty chains.
    let traces = "ip -br link | sed -E 's/@if[0-9]+//; s/ .*//' | sort; ip -br -4 address | sort; ip rule; \
                  ip -4 route show table all; nft list tables | sort; iptables -S; iptables -t nat -S; \
                  echo IPv6 is off: $(cat /proc/sys/net/ipv6/conf/all/disable_ipv6)";
    let before = node.sh(traces)?;
    let marks = [
        (Profile::Docker, "-P FORWARD DROP"),
        (Profile::Firewalld, "table inet firewalld"),
        (Profile::WideLan, "10.0.0.5/8"),
        (Profile::NoIpv6, "IPv6 is off: 1"),
        (Profile::VpnRules, "not from all fwmark 0xca6c lookup 51820"),
        (Profile::ForeignMarks, "100.64.9.1/24"),
    ];
    for (profile, mark) in marks {
        lab.neighbour_comes("a2", profile)?;
        let with = node.sh(traces)?;
        lab.neighbour_goes("a2", profile)?;
        ensure!(with.contains(mark), "{profile:?} is not seen:\n{with}");
        let after = node.sh(traces)?;
        ensure!(
            before == after,
            "{profile:?} leaves something:\n{before}\n{after}"
        );
    }
    let fixed = lab.neighbour_comes("a2", Profile::StaleNode);
    ensure!(fixed.is_err(), "a stale Node does not come to a node that runs");
    Ok(())
}

fn killed(lab: &Lab) -> Result<()> {
    let name = "t-killed";
    let file = lab.folder().join("one.yaml");
    fs::write(
        &file,
        "locations: [{name: x, nodes: [{name: x1, forward: 51820}]}]",
    )?;
    let lab_command = |words: &[&str]| {
        let mut command = spanwire_testbed::command(env!("CARGO_BIN_EXE_lab"));
        command
            .args(["--name", name])
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    ensure!(lab_command(&["down"]).status()?.success());
    let path = file.to_string_lossy();
    let mut maker = lab_command(&["up", &path, "--without-spanwire"]).spawn()?;
    let folder = lab.folder().with_file_name(name);
    wait_until("its node runs pods", SOON * 2, || {
        Ok(folder.join("ready").exists() && Lab::attach(name)?.node("x1")?.has("/run/flannel/subnet.env"))
    })?;
    maker.kill()?;
    maker.wait()?;
    ensure!(
        !traces(name)?.is_empty(),
        "nothing of it is seen, so nothing can be missed later"
    );
    ensure!(lab_command(&["down"]).status()?.success());
    ensure!(traces(name)?.is_empty(), "left behind: {:#?}", traces(name)?);
    ensure!(!folder.exists(), "its folder is left");
    ensure!(lab.status()?.ready(), "the lab beside it suffered");
    Ok(())
}

/// Whatever on this machine bears the lab's name.
fn traces(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut look = |what: &str, text: String| {
        let lines = text.lines().filter(|line| line.contains(name));
        found.extend(lines.map(|line| format!("{what}: {line}")));
    };
    look("namespace", Cmd::of(["ip", "netns"]).run()?);
    look("mount", fs::read_to_string("/proc/self/mountinfo")?);
    look(
        "cgroup",
        Cmd::of(["find", "/sys/fs/cgroup", "-type", "d", "-name", "spanwire-lab-*"]).run()?,
    );
    look("device", Cmd::of(["ip", "-d", "link"]).run()?);
    for entry in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let folder = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        look("process", read("cmdline").replace('\0', " "));
        look("process in", folder.display().to_string());
        look("group of process", read("cgroup"));
    }
    Ok(found)
}
