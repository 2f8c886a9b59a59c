//! Throughput that two agents measure through the mesh, from one follower to another.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::world::{Node, World};

const SECONDS: f64 = 2.0;

/// Asks an agent; the answer is still to come.
fn ask(node: &Node, path: &str) -> BufReader<TcpStream> {
    let request = format!("GET /debug/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut stream = node.host.inside(|| TcpStream::connect("127.0.0.1:9477").unwrap());
    stream.write_all(request.as_bytes()).unwrap();
    BufReader::new(stream)
}

/// Returns the next line of the answer that is JSON.
fn next(answer: &mut BufReader<TcpStream>) -> Value {
    let mut before = String::new();
    loop {
        let mut line = String::new();
        assert!(answer.read_line(&mut line).unwrap() > 0, "{before}");
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
        before += &line;
    }
}

/// Has one node send to another one; returns what came, and the processors of the sender.
fn measured(from: &Node, to: &Node, [source, destination]: [&str; 2]) -> (Value, Value) {
    let mut receiving = ask(to, &format!("bench/receive/{destination}/2"));
    let offer = next(&mut receiving);
    let (port, token) = (&offer["port"], offer["token"].as_str().unwrap());
    let way = format!("bench/send/{source}/{destination}/{port}/{token}/2");
    let mut sending = ask(from, &way);
    let mut watching = ask(from, "processors/2");
    for _ in 0..10 {
        let asked = Instant::now();
        assert!(from.ask("/healthz").starts_with("HTTP/1.1 200"));
        let took = asked.elapsed();
        assert!(
            took < Duration::from_secs(1),
            "the event loop waits for it: {took:?}"
        );
    }
    let received = next(&mut receiving);
    let sent = next(&mut sending);
    assert!(sent["sent"].as_u64() >= received["bytes"].as_u64(), "{sent}");
    (received, next(&mut watching))
}

#[test]
fn agents_measure_throughput_between_locations_in_both_directions() {
    let mut world = World::with_agents(true);
    world.wait_for_pods();
    let [near, far] = ["10.1.0.2", "10.2.0.4"];
    let nodes: Vec<&Node> = world.nodes.iter().collect();
    let (a2, b2) = (nodes[1], nodes[3]);
    for (from, to, addresses) in [(a2, b2, [near, far]), (b2, a2, [far, near])] {
        let (received, processors) = measured(from, to, addresses);
        assert!(received["bytes"].as_u64() > Some(100_000), "{received}");
        let seconds = received["seconds"].as_f64().unwrap();
        assert!((0.9 * SECONDS..=SECONDS).contains(&seconds), "{received}");
        assert!(processors["busy"].as_f64() > Some(0.01), "{processors}");
    }
    for node in [nodes[0], nodes[2]] {
        let metrics = node.ask("/metrics");
        let up = metrics.lines().find(|line| line.contains("link_up{"));
        assert!(up.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
    }
    // What does not come through the tunnel is lost, and said to be.
    world.network.router.run("nft flush ruleset; nft add table inet x; nft add chain inet x f '{ type filter hook forward priority 0; policy drop; }'");
    let (a2, b2) = (&world.nodes[1], &world.nodes[3]);
    let offer = next(&mut ask(b2, &format!("bench/receive/{far}/2")));
    let token = "0".repeat(32);
    let failed = next(&mut ask(
        a2,
        &format!("bench/send/{near}/{far}/{}/{token}/2", offer["port"]),
    ));
    assert!(
        failed["failed"].as_str().unwrap().contains("no TCP connection"),
        "{failed}"
    );
}
