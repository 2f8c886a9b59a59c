//! Every ordered pair of addresses: what the design says of it, and what a trace finds.

use spanwire_topology::{
    Mesh,
    trace::{GroundTruth, Plans, Spot, Verdict, plans, trace},
};

use crate::expect::{Expected, expected};

/// Traces every ordered pair, as text: how many arrive, and what is not as it should be.
pub(crate) fn report(mesh: &Mesh) -> String {
    let (mut arrived, mut stopped, mut plain, mut longest) = (0, 0, 0, 0);
    let mut faults = String::new();
    for (from, to, expected, verdict) in pairs(mesh) {
        match &verdict {
            Verdict::Arrived(hops) => (arrived, longest) = (arrived + 1, longest.max(*hops)),
            Verdict::Dropped(..) => stopped += 1,
            Verdict::Underlay(_) => plain += 1,
            Verdict::Misdelivered(..) | Verdict::Loop => {}
        }
        if !expected.met(&verdict) {
            faults += &format!("FAULT {from} to {to}: {expected:?}, but {verdict:?}\n");
        }
    }
    format!(
        "{arrived} pairs arrive within {longest} hops, {stopped} stop, {plain} are left to the CNI\n{faults}"
    )
}

/// Returns every ordered pair that the design speaks about, with what should happen and what does.
pub(crate) fn pairs(mesh: &Mesh) -> Vec<(Spot, Spot, Expected, Verdict)> {
    pairs_by(mesh, &plans(mesh))
}

/// As [`pairs`], where the nodes do this.
pub(crate) fn pairs_by(mesh: &Mesh, plans: &Plans) -> Vec<(Spot, Spot, Expected, Verdict)> {
    let ground = GroundTruth::new([mesh]);
    let spots = ground.spots();
    let all = spots
        .iter()
        .flat_map(|from| spots.iter().map(move |to| (from, to)));
    let judged = all.filter_map(|(from, to)| Some((from, to, expected(mesh, from, to)?)));
    judged
        .map(|(from, to, expected)| {
            let verdict = trace(&ground, plans, from, to.address).verdict;
            (from.clone(), to.clone(), expected, verdict)
        })
        .collect()
}
