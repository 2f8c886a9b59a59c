//! Installing into a cluster whose locations reach each other already: nothing is cut; they move into the tunnel when
//! it is proven, and not before.

use std::{process::ExitCode, thread, time::Duration};

use anyhow::{Result, ensure};
use spanwire_e2e::{
    Lab, Progress,
    expect::{SOON, condition, loses_nothing},
    suite, wait_until,
};

/// flannel's packets, and packets of pods in the open.
const PLAIN: &str = "udp port 8472 or (ip and (src net 10.244.0.0/16 or dst net 10.244.0.0/16))";

fn main() -> ExitCode {
    suite::run(
        "t-open",
        "open.yaml",
        &suite::options(false),
        &[
            ("pods_reach_pods_in_plaintext_before", plaintext_before),
            (
                "with_the_wireguard_port_blocked_traffic_stays_where_it_was",
                blocked,
            ),
            ("when_the_port_opens_traffic_moves_into_the_tunnel", opened),
            ("then_no_plaintext_is_left", nothing_plain),
            ("every_node_and_location_is_ready", Lab::wait_mesh_ready),
        ],
        &[],
    )
}

fn plaintext_before(lab: &Lab) -> Result<()> {
    let (matrix, plain) = lab.capture("internet", PLAIN, || lab.ping_all())?;
    ensure!(matrix.complete(), "\n{matrix}");
    ensure!(
        plain.contains("ICMP echo request"),
        "the capture sees no plaintext:\n{plain}"
    );
    Ok(())
}

fn blocked(lab: &Lab) -> Result<()> {
    lab.block_udp(51820)?;
    loses_nothing(lab, || {
        lab.install_spanwire(&Progress::shown())?;
        wait_until("the condition says why", SOON, || {
            let (status, message) = condition(lab, &["location", "a"], "Connected")?;
            ensure!(
                status == "False" && message.contains("UDP port"),
                "{status}: {message}"
            );
            Ok(true)
        })
    })?;
    let (_, plain) = lab.capture("internet", PLAIN, || lab.ping_all())?;
    ensure!(
        plain.contains("ICMP echo request"),
        "it should still be in the open:\n{plain}"
    );
    Ok(())
}

fn opened(lab: &Lab) -> Result<()> {
    loses_nothing(lab, || {
        lab.heal()?;
        for location in ["a", "b", "c"] {
            wait_until("the location is connected", SOON, || {
                let (status, message) = condition(lab, &["location", location], "Connected")?;
                ensure!(status == "True", "{location}: {status}: {message}");
                Ok(true)
            })?;
        }
        // Past the moment from which agents drop plaintext.
        thread::sleep(Duration::from_secs(35));
        Ok(())
    })
}

fn nothing_plain(lab: &Lab) -> Result<()> {
    let (matrix, plain) = lab.capture("internet", PLAIN, || lab.ping_all())?;
    ensure!(matrix.complete(), "\n{matrix}");
    ensure!(plain.trim().is_empty(), "plaintext on the internet:\n{plain}");
    Ok(())
}
