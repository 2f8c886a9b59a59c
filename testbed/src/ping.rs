//! A ping that runs while something is done.

use std::{
    io::Read,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::namespace::Namespace;

/// Requests that may still be on their way at the end are not judged: on a busy machine answers take longer than the time
/// between two requests.
const ON_THEIR_WAY: u32 = 20;
/// For how long a ping goes on after it was asked to end, so that the others are answered.
const GRACE: Duration = Duration::from_millis(200);

/// A running ping.
#[derive(Debug)]
pub struct Ping {
    process: Child,
    /// What it says is read all the while: with a full pipe it would wait, and send no more.
    said: thread::JoinHandle<String>,
}

// Here and not in its own module, which would have to import this one in turn.
impl Namespace {
    /// Begins to ping every 10 ms.
    ///
    /// # Panics
    /// What it says cannot be read.
    #[must_use]
    pub fn start_ping(&self, to: &str) -> Ping {
        let ping = self.command("ping").args(["-n", "-i", "0.01", "-W", "1", to]);
        let mut process = ping.stdout(Stdio::piped()).spawn();
        let mut output = process.stdout.take().expect("it is piped");
        let said = thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).expect("a ping says text");
            text
        });
        Ping { process, said }
    }
}

impl Ping {
    /// Ends it and returns how many requests were sent and how many of these were answered, without the last twenty, or the
    /// second half of a few, which may still be on their way.
    ///
    /// # Panics
    /// It has ended before, or says something else than pings say.
    #[must_use]
    pub fn stop(mut self) -> (u32, u32) {
        thread::sleep(GRACE);
        let pid = Pid::from_raw(i32::try_from(self.process.id()).expect("process numbers are small"));
        kill(pid, Signal::SIGINT).expect("it runs");
        self.process.wait().expect("a child can be waited for");
        judge(&self.said.join().expect("reading does not panic"))
    }
}

fn judge(text: &str) -> (u32, u32) {
    let summary = text.lines().find(|line| line.contains("packets transmitted"));
    let sent = summary.and_then(|line| line.split(' ').next()?.parse::<u32>().ok());
    let sent = sent.unwrap_or_else(|| panic!("no summary: {text}"));
    let judged = sent - ON_THEIR_WAY.min(sent / 2);
    let answered = text
        .lines()
        .filter(|line| line.contains("time=") && !line.ends_with("(DUP!)"))
        .filter_map(|line| {
            line.split("icmp_seq=")
                .nth(1)?
                .split(' ')
                .next()?
                .parse::<u32>()
                .ok()
        })
        .filter(|sequence| *sequence <= judged);
    let answered = u32::try_from(answered.count()).expect("it is no more than were sent");
    (judged, answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_is_counted_and_what_may_be_on_its_way_is_not() {
        let said = |sent: u32, answered: &[u32]| {
            let mut text = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n".to_owned();
            for number in answered {
                text += &format!("64 bytes from 10.0.0.1: icmp_seq={number} ttl=64 time=0.1 ms\n");
            }
            text += "64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.2 ms (DUP!)\n";
            text += "From 10.0.0.9 icmp_seq=2 Destination Host Unreachable\n";
            format!(
                "{text}\n--- 10.0.0.1 ping statistics ---\n{sent} packets transmitted, 0 received, +1 errors\n"
            )
        };
        let all: Vec<u32> = (1..=100).collect();
        assert_eq!(judge(&said(100, &all)), (80, 80));
        assert_eq!(
            judge(&said(100, &all[..80])),
            (80, 80),
            "the last are on their way"
        );
        assert_eq!(
            judge(&said(100, &all[..70])),
            (80, 70),
            "a silence at the end is a loss"
        );
        assert_eq!(judge(&said(100, &all[5..])), (80, 75));
        assert_eq!(judge(&said(3, &[1, 3])), (2, 1));
        assert_eq!(judge(&said(1, &[])), (1, 0));
    }
}
