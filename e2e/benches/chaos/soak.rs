//! Faults one after the other, for long.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use spanwire_e2e::{
    Lab, Progress,
    expect::{all_reach_all, pid},
    fault::{FAULTS, Noticed, Roles, noticing},
    plaintext::nothing_plain,
    report::Report,
};

/// How much more memory a program may have in the end, in MB of 10⁶ bytes: an allocator keeps some of what it once had.
const GROWTH: f64 = 3.0;
/// How often a leader that comes back is taken away.
const PERIOD: Duration = Duration::from_secs(20);

/// Lets faults happen at random for so long, each for some seconds, with some seconds in between; what is drawn follows from the
/// seed. Nothing may leave in plaintext, everything has to be well in the end, and programs may not have grown.
pub(crate) fn mixed(lab: &Lab, lasts: Duration, seed: u64, report: &mut Report) -> Result<()> {
    let (progress, mut drawn, begun) = (Progress::shown(), Drawn(seed), Instant::now());
    let before = memory(lab)?;
    let (mut faults, mut recovered) = (0, 0);
    nothing_plain(lab, || -> Result<()> {
        while begun.elapsed() < lasts {
            let fault = FAULTS[drawn.below(FAULTS.len())];
            let (suffers, rests) = (2 + drawn.below(10), drawn.below(15));
            let what = format!("{} for {suffers} s, then {rests} s of rest", fault.name);
            let noticed = progress.stage(&what, || -> Result<_> {
                let [suffers, rests] = [suffers, rests].map(|seconds| Duration::from_secs(seconds as u64));
                fault.suffer(lab, &Roles::now(lab)?, suffers, rests)
            })?;
            faults += 1;
            // What lasts for two seconds may end before TCP sends again.
            let is_short = |seconds: usize, noticed: &Noticed| seconds < 7 || noticed.recovered().is_ok();
            recovered += usize::from(is_short(suffers, &noticed.during) && is_short(rests, &noticed.after));
        }
        Ok(())
    })?;
    all_reach_all(lab)?;
    lab.wait_mesh_ready()?;
    report.goal(
        &format!("{faults} faults at random, seed {seed}"),
        format!("recovered {recovered}; nothing in plaintext; all is Ready in the end"),
        "all recovered",
        recovered == faults,
    );
    grown(&before, &memory(lab)?, report);
    Ok(())
}

/// Takes the power of the leader in use away every twenty seconds, so many times, each time as soon as it has booted.
pub(crate) fn restarts(lab: &Lab, times: usize, report: &mut Report) -> Result<()> {
    let (progress, roles) = (Progress::shown(), Roles::now(lab)?);
    let noticed = noticing(lab, &roles, || -> Result<()> {
        for time in 1..=times {
            let what = format!("{} is restarted, {time} of {times}", roles.leader);
            progress.stage(&what, || -> Result<()> {
                let begun = Instant::now();
                lab.reboot(&roles.leader)?;
                thread::sleep(PERIOD.saturating_sub(begun.elapsed()));
                Ok(())
            })?;
        }
        Ok(())
    })?;
    all_reach_all(lab)?;
    lab.wait_mesh_ready()?;
    let (gap, stall) = (noticed.gap(), noticed.transfer.longest_stall);
    report.goal(
        &format!("the leader is restarted every 20 s, {times} times"),
        format!(
            "longest gap {} ms, {} pings lost on four paths; longest stall of TCP {} ms; all is Ready in the end",
            gap.as_millis(),
            noticed.lost(),
            stall.as_millis(),
        ),
        "every gap < 1200 ms",
        gap < Duration::from_millis(1200) && noticed.recovered().is_ok(),
    );
    Ok(())
}

/// The resident memory of the agents and tunnels of the nodes to which no power is lost, in MB of 10⁶ bytes.
fn memory(lab: &Lab) -> Result<Vec<(String, f64)>> {
    let mut all = Vec::new();
    for node in lab.node_names().into_iter().filter(|node| !node.starts_with('b')) {
        for program in ["spanwire-agent", "spanwire-tunnel"] {
            let pid = pid(lab, &node, program)?;
            let kilobytes = lab
                .node(&node)?
                .sh(&format!("awk '/VmRSS/ {{print $2}}' /proc/{pid}/status"))?;
            let kilobytes: f64 = kilobytes.trim().parse()?;
            all.push((format!("{program} of {node}"), kilobytes * 1024.0 / 1e6));
        }
    }
    Ok(all)
}

fn grown(before: &[(String, f64)], after: &[(String, f64)], report: &mut Report) {
    let growth = before
        .iter()
        .zip(after)
        .map(|((name, old), (_, new))| (new - old, name, old, new));
    let most = growth.max_by(|one, other| one.0.total_cmp(&other.0));
    if let Some((growth, name, old, new)) = most {
        report.goal(
            "memory that grew most",
            format!("{name}: {old:.1} to {new:.1} MB"),
            "at most 3 MB more",
            growth <= GROWTH,
        );
    }
}

/// Numbers that follow from a seed (`SplitMix64`, Steele, Lea and Flood, 2014).
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.0;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        drawn ^= drawn >> 31;
        (drawn % end as u64) as usize
    }
}
