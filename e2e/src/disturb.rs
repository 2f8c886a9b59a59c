//! What tests and people do to a lab's network and nodes: look on, cut, open, switch off and on.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{lab::Lab, net, node, profile::Profile, scenario::Routers};

impl Lab {
    /// Captures what passes a segment (`internet`, or a location's LAN) while something runs, as tcpdump writes it.
    pub fn capture<T>(
        &self,
        segment: &str,
        filter: &str,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<(T, String)> {
        let device = self.segment_device(segment)?;
        let dump = self.network(segment)?.dump(device, filter)?;
        let result = run()?;
        // What it was given a moment ago it has still to write.
        thread::sleep(Duration::from_millis(200));
        Ok((result, dump.interrupt()?.0))
    }

    /// Returns the device on which everything of a segment is seen.
    pub fn segment_device(&self, segment: &str) -> Result<&'static str> {
        match segment {
            net::INTERNET => Ok("internet"),
            name if self.layout.locations.iter().any(|l| l.name == name) => Ok("lan"),
            other => bail!("{other} is no segment: say `internet` or a location"),
        }
    }

    /// Cuts the path between two locations, or between two nodes of one.
    pub fn cut(&self, one: &str, other: &str) -> Result<()> {
        net::cut(&self.store, &self.layout, one, other)
    }

    /// Drops a UDP port on the internet.
    pub fn block_udp(&self, port: u16) -> Result<()> {
        net::block_udp(&self.store, port)
    }

    /// Mends every cut and block.
    pub fn heal(&self) -> Result<()> {
        net::heal(&self.store, &self.layout)
    }

    /// Opens or closes plain routing between the locations.
    pub fn set_routers(&self, routers: Routers) -> Result<()> {
        net::set_routers(&self.store, &self.record.scenario, &self.layout, routers)
    }

    /// Brings a neighbour to a node that runs.
    pub fn neighbour_comes(&self, node: &str, profile: Profile) -> Result<()> {
        net::change_neighbour(&self.store, &self.layout, node, profile, true)
    }

    /// Takes a neighbour from a node that runs.
    pub fn neighbour_goes(&self, node: &str, profile: Profile) -> Result<()> {
        net::change_neighbour(&self.store, &self.layout, node, profile, false)
    }

    /// Cuts a node's power.
    pub fn crash(&self, node: &str) -> Result<()> {
        net::unplug(&self.store, &self.layout, node)?;
        node::crash(&self.store, &self.record, node)
    }

    /// Removes a file below /var/lib of a node without power.
    pub fn forget(&self, node: &str, file: &str) -> Result<()> {
        let path = self.store.node(node).join("lib").join(file);
        fs::remove_file(&path).with_context(|| format!("{}", path.display()))
    }

    /// Starts a node, after a power cut if it is up. Its files are as they were.
    pub fn reboot(&self, node: &str) -> Result<()> {
        self.crash(node)?;
        net::renew(&self.store, &self.record.scenario, &self.layout, node)?;
        node::start(&self.store, &self.record, node)
    }
}
