//! iperf3 and ping through a tunnel.

use std::{
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::Value;
use spanwire_testbed::wait_until;

use crate::world::{INNER, PATIENCE, World};

/// An iperf3 server on side b.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(world: &World) -> Self {
        let server = world.command(1, "iperf3").arg("-s");
        let server = Self(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn());
        wait_until("iperf3", PATIENCE, || {
            let listening = world.command(1, "ss").args(["-Htln", "sport = :5201"]).output();
            !listening.stdout.is_empty()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrived {
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
    pub(crate) packets: f64,
    pub(crate) lost: f64,
}

impl Arrived {
    pub(crate) fn gigabits(&self) -> f64 {
        self.bytes * 8e-9 / self.seconds
    }
}

/// Runs a client on side a. A server that is still busy with the one before is waited for.
pub(crate) fn client(world: &World, seconds: u32, words: &[&str]) -> anyhow::Result<Arrived> {
    let mut said = String::new();
    for _ in 0..5 {
        let seconds = seconds.to_string();
        let output = world
            .command(0, "iperf3")
            .args(["-J", "--connect-timeout", "3000", "-c", INNER[1], "-t", &seconds])
            .args(words)
            .output();
        let json: Value = serde_json::from_slice(&output.stdout).context("iperf3 speaks no JSON")?;
        if let Some(error) = json["error"].as_str() {
            said = error.to_owned();
            thread::sleep(Duration::from_millis(500));
            continue;
        }
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        let end = &json["end"];
        if words.contains(&"-u") {
            let sum = &end["sum"];
            return Ok(Arrived {
                bytes: number(&sum["bytes"]),
                seconds: number(&sum["seconds"]),
                packets: number(&sum["packets"]),
                lost: number(&sum["lost_packets"]),
            });
        }
        let sum = &end["sum_received"];
        return Ok(Arrived {
            bytes: number(&sum["bytes"]),
            seconds: number(&sum["seconds"]),
            ..Arrived::default()
        });
    }
    bail!("iperf3 fails again and again: {said}")
}

/// A ping on its way.
pub(crate) struct Ping(Child);

impl Ping {
    pub(crate) fn start(world: &World, seconds: u32, per_second: u32) -> Self {
        let count = (seconds * per_second).to_string();
        let interval = (1.0 / f64::from(per_second)).to_string();
        let ping = world
            .command(0, "ping")
            .args(["-q", "-c", &count, "-i", &interval, "-W", "1", INNER[1]])
            .stdout(Stdio::piped())
            .spawn();
        Self(ping)
    }

    /// Returns the mean round trip in milliseconds.
    pub(crate) fn finish(self) -> anyhow::Result<f64> {
        let output = self.0.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        said.lines()
            .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "))
            .and_then(|line| line.split('/').nth(1)?.parse().ok())
            .with_context(|| format!("no ping came back: {said}"))
    }
}
