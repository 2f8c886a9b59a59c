//! What a machine that is no node has to know of its own network: the addresses of its other devices, and how large packets to
//! endpoints may be. The [inventory](Kernel::inventory) of a node has that too, and much that such a machine has not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use spanwire_host::LinkName;

use crate::{Kernel, address, error::ReadError, inventory::mtu, link, route};

impl Kernel {
    /// Returns the addresses of every device that is up and not Spanwire's own, each with the length of the network that it is
    /// in; without link-local ones and those of loopback.
    ///
    /// # Errors
    /// [`ReadError`] says what could not be read.
    pub async fn other_addresses(&mut self) -> Result<BTreeMap<LinkName, BTreeSet<(IpAddr, u8)>>, ReadError> {
        let devices = link::devices(&mut self.route).await;
        let devices = devices.map_err(ReadError::netlink("the devices"))?;
        let addresses = address::addresses(&mut self.route, None).await;
        let addresses = addresses.map_err(ReadError::netlink("the addresses"))?;
        let others = devices
            .into_iter()
            .filter(|device| device.up && device.name != self.owned.link);
        let of_it = |device: link::Device| {
            let of_it = addresses
                .iter()
                .filter(|assigned| assigned.device == device.index && !assigned.address.is_loopback());
            let of_it = of_it.map(|assigned| (assigned.address, assigned.length));
            (device.name, of_it.collect())
        };
        Ok(others.map(of_it).collect())
    }

    /// Returns the size of the largest packet that the devices on the ways to these endpoints take, where there are such ways.
    ///
    /// # Errors
    /// [`ReadError`] says what could not be read.
    pub async fn mtu_towards(
        &mut self,
        endpoints: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Option<u32>, ReadError> {
        let devices = link::devices(&mut self.route).await;
        let devices = devices.map_err(ReadError::netlink("the devices"))?;
        let mtus: BTreeMap<u32, u32> = devices.iter().map(|device| (device.index, device.mtu)).collect();
        let mut smallest = None;
        for endpoint in endpoints {
            let way = route::towards(&mut self.route, endpoint, 0).await;
            let way = way.map_err(ReadError::netlink("the way to an endpoint"))?;
            let of_way = way.and_then(|way| mtu(&way, &mtus));
            smallest = smallest.into_iter().chain(of_way).min();
        }
        Ok(smallest)
    }
}
