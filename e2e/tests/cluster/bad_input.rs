//! Bad input: each gets a message that names object, field and remedy, and every other path goes on working.

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{Lab, wait_until};

use spanwire_e2e::expect::{SOON, all_reach_all, condition, event_says, loses_nothing};

const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

fn peer(name: &str, spec: &str) -> String {
    format!("apiVersion: spanwire.dev/v1alpha1\nkind: Peer\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

fn location(name: &str, spec: &str) -> String {
    format!("apiVersion: spanwire.dev/v1alpha1\nkind: Location\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// kubectl refuses it, and says all of these words.
fn refused(lab: &Lab, manifest: &str, words: &[&str]) -> Result<()> {
    let answer = lab
        .client("kubectl")
        .args(["apply", "-f", "-"])
        .input(manifest)
        .finish()?;
    ensure!(answer.code != 0, "accepted:\n{manifest}");
    let missing = words.iter().find(|word| !answer.stderr.contains(**word));
    ensure!(
        missing.is_none(),
        "{missing:?} is not in the answer to\n{manifest}\n{}",
        answer.stderr
    );
    Ok(())
}

/// The object is taken, and its condition Accepted says what is wrong with it.
fn not_accepted(lab: &Lab, kind: &str, name: &str, words: &[&str]) -> Result<()> {
    wait_until(
        &format!("{kind} {name} is not accepted and says {words:?}"),
        SOON,
        || {
            let (status, message) = condition(lab, &[kind, name], "Accepted")?;
            ensure!(
                status == "False" && words.iter().all(|word| message.contains(word)),
                "{status}: {message}"
            );
            Ok(true)
        },
    )
}

pub(crate) fn peers(lab: &Lab) -> Result<()> {
    let good = format!("publicKey: '{KEY}', allowedIPs: [10.98.0.1/32]");
    loses_nothing(lab, || {
        refused(
            lab,
            &peer("no-key", "{allowedIPs: [10.98.0.1/32]}"),
            &["no-key", "publicKey"],
        )?;
        refused(
            lab,
            &peer("short", "{publicKey: abc, allowedIPs: [10.98.0.1/32]}"),
            &["spec.publicKey", "wg pubkey"],
        )?;
        let bad = |cidr: &str| peer("bad", &format!("{{publicKey: '{KEY}', allowedIPs: ['{cidr}']}}"));
        refused(lab, &bad("10.98.0.0/33"), &["spec.allowedIPs"])?;
        refused(lab, &bad("0.0.0.0/0"), &["spec.allowedIPs"])?;
        refused(
            lab,
            &peer("bad", &format!("{{{good}, endpoint: 'nowhere'}}")),
            &["spec.endpoint"],
        )?;

        let api = lab.layout().api();
        lab.apply(&peer(
            "thief",
            &format!("{{publicKey: '{KEY}', allowedIPs: ['{api}/32', 10.98.0.1/32]}}"),
        ))?;
        not_accepted(lab, "peer", "thief", &["API server", &api.to_string()])?;
        event_says(lab, "thief", &["API server", "leave"])?;

        lab.apply(&peer(
            "twin",
            &format!("{{publicKey: '{KEY}', allowedIPs: [10.98.0.2/32]}}"),
        ))?;
        not_accepted(lab, "peer", "twin", &["peer thief", "key"])?;

        let pods = lab.get(&["node", "b1"])?;
        let pods = pods["spec"]["podCIDR"]
            .as_str()
            .context("b1 has pods")?
            .to_owned();
        let other = KEY.replacen('A', "B", 1);
        lab.apply(&peer(
            "greedy",
            &format!("{{publicKey: '{other}', allowedIPs: ['{pods}']}}"),
        ))?;
        not_accepted(lab, "peer", "greedy", &["node b1", &pods])?;

        let third = KEY.replacen('A', "C", 1);
        lab.apply(&peer(
            "lost",
            &format!(
                "{{publicKey: '{third}', allowedIPs: [10.98.0.3/32], endpoint: 'no.such.host.invalid:51820'}}"
            ),
        ))?;
        Ok(())
    })?;
    lab.kubectl(["delete", "peer", "thief", "twin", "greedy", "lost"])?;
    all_reach_all(lab)
}

pub(crate) fn locations(lab: &Lab) -> Result<()> {
    loses_nothing(lab, || {
        refused(lab, &location("bad", "{cidrs: [10.1.2.3/24]}"), &["spec.cidrs"])?;
        refused(lab, &location("bad", "{cidrs: ['::/0']}"), &["spec.cidrs"])?;
        refused(lab, &location("bad", "{endpoint: 'host'}"), &["spec.endpoint"])?;
        refused(
            lab,
            &location("bad", "{mesh: Everything}"),
            &["spec.mesh", "Leaders", "Nodes"],
        )?;
        refused(
            lab,
            &location("bad", "{leaders: {active: 0}}"),
            &["spec.leaders.active"],
        )?;

        lab.apply(&location("late", "{cidrs: [10.244.0.0/16]}"))?;
        not_accepted(lab, "location", "late", &["10.244.0.0/16"])?;
        event_says(lab, "late", &["10.244.0.0/16"])
    })?;
    lab.kubectl(["delete", "location", "late"])?;
    all_reach_all(lab)
}

pub(crate) fn annotations(lab: &Lab) -> Result<()> {
    let cases = [
        ("spanwire.dev/leader", "perhaps", "true"),
        ("spanwire.dev/location-cidrs", "10.1.0.0/99", "10.1.0.0/99"),
        ("spanwire.dev/location-cidrs", "8.8.8.0/24", "Location"),
        ("spanwire.dev/location-cidrs", "0.0.0.0/0", "0.0.0.0/0"),
        ("spanwire.dev/persistent-keepalive", "soon", "seconds"),
        ("spanwire.dev/listen-port", "70000", "65535"),
    ];
    loses_nothing(lab, || {
        for (key, value, remedy) in cases {
            lab.kubectl(["annotate", "--overwrite", "node", "b2", &format!("{key}={value}")])?;
            let said = event_says(lab, "b2", &[key, remedy]);
            lab.kubectl(["annotate", "node", "b2", &format!("{key}-")])?;
            said?;
        }
        Ok(())
    })?;
    all_reach_all(lab)
}
