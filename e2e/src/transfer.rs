//! A steady TCP stream between two pods, and how long it stood still.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, bail};

use crate::machine::{Background, Machine};

/// No other program in the pods listens here.
const PORT: &str = "5299";
/// How often the receiver says what has come.
const INTERVAL: Duration = Duration::from_millis(100);

/// A stream that flows until it is finished: 4 Mb/s, in pieces so small that some come in every [`INTERVAL`].
#[derive(Debug)]
pub struct Transfer {
    sends: Background,
    receives: Background,
}

/// What became of a stream, in steps of [`INTERVAL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferReport {
    /// The longest time in which nothing came, that at the end included.
    pub longest_stall: Duration,
    /// For so long nothing had come in the end.
    pub silence: Duration,
}

impl Transfer {
    /// Starts sending from one machine to an address of another, and waits until something has come there.
    pub fn start(from: &Machine<'_>, to: &Machine<'_>, address: IpAddr) -> Result<Self> {
        let interval = INTERVAL.as_secs_f64().to_string();
        let server = ["iperf3", "-s", "-1", "-p", PORT, "-i", &interval, "--forceflush"];
        let mut receives = to.spawn(server)?;
        receives.writes("Server listening")?;
        let address = address.to_string();
        let client = ["iperf3", "-c", &address, "-p", PORT, "-t", "86400"];
        let slowly = ["-b", "4M", "-l", "4K", "--connect-timeout", "5000"];
        let mut sends = from.spawn(client.into_iter().chain(slowly))?;
        receives.writes_by("KBytes", &mut sends)?;
        Ok(Self { sends, receives })
    }

    /// Ends the stream and says how it flowed.
    pub fn finish(self) -> Result<TransferReport> {
        // The receiver first: what it counts then is before the end.
        let (out, err) = self.receives.interrupt()?;
        drop(self.sends);
        parse(&out).with_context(|| format!("iperf3 said: {out}{err}"))
    }
}

/// Reads what the receiver says: `[  5]   0.10-0.20   sec  48.0 KBytes  3.93 Mbits/sec`.
fn parse(text: &str) -> Result<TransferReport> {
    let (mut longest, mut stall, mut lines) = (Duration::ZERO, Duration::ZERO, 0);
    for line in text.lines().take_while(|line| !line.contains("- - -")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(at) = words.iter().position(|word| *word == "sec") else {
            continue;
        };
        let came: f64 = words
            .get(at + 1)
            .and_then(|amount| amount.parse().ok())
            .context("an interval without an amount")?;
        lines += 1;
        stall = if came > 0.0 {
            Duration::ZERO
        } else {
            stall + INTERVAL
        };
        longest = longest.max(stall);
    }
    if lines == 0 {
        bail!("nothing came");
    }
    Ok(TransferReport {
        longest_stall: longest,
        silence: stall,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_in_which_nothing_came_are_counted() {
        let interval = |amount: &str| format!("[  5]   0.10-0.20   sec  {amount}  3.93 Mbits/sec\n");
        let said = |amounts: &[&str]| {
            let head = "Server listening on 5299\n[ ID] Interval           Transfer     Bitrate\n";
            let intervals: String = amounts.iter().map(|amount| interval(amount)).collect();
            let end = "- - - - -\n[  5]   0.00-1.00   sec  0.00 Bytes  0.00 bits/sec  receiver\n";
            parse(&format!("{head}{intervals}{end}"))
        };
        let (some, none) = ("48.0 KBytes", "0.00 Bytes");
        let ms = Duration::from_millis;
        let report = |longest_stall, silence| TransferReport {
            longest_stall,
            silence,
        };
        assert_eq!(
            said(&[some, none, none, some, none, some]).unwrap(),
            report(ms(200), ms(0))
        );
        assert_eq!(
            said(&[some, none, some, none, none, none]).unwrap(),
            report(ms(300), ms(300))
        );
        assert!(said(&[]).is_err());
    }
}
