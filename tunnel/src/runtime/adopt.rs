//! Going on with devices of another process: each is first understood without touching it, and belongs to this process
//! once all of them are.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    time::Instant,
};

use thiserror::Error;

use crate::{
    device::Device,
    handover::{
        format::TransferredDevice,
        receiver::{Offer, ReceiveError},
    },
    link::Notifier,
    listener::{ListenError, Listener},
    runtime::{Options, Runtime, RuntimeError, shards},
    tun::{Tun, TunError, is_tun},
    uapi::{
        UapiError,
        restore::{RestoredPorts, restore},
    },
    udp::port_of,
};

/// Devices of another process cannot be taken over. They are where they were.
#[derive(Debug, Error)]
pub enum AdoptError {
    /// The other process does not hand over, or not in the way that this one understands.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// It hands over something else than was asked for.
    #[error("the running process hands over something else than what was asked for")]
    Other,
    /// A device is not what it should be.
    #[error("cannot go on with the device {name}")]
    Device {
        /// The device.
        name: String,
        /// Why.
        source: PrepareError,
    },
}

/// Devices by name. One that fails after all takes no other along.
pub type Adopted = Vec<(String, Result<Runtime, RuntimeError>)>;

/// Takes over the device that this UAPI socket belongs to; `None` when no process serves it.
pub fn one(
    name: &str,
    socket_folder: &Path,
    options: Options,
    stop: BorrowedFd<'_>,
) -> Result<Option<Result<Runtime, RuntimeError>>, AdoptError> {
    let path = socket_folder.join(format!("{name}.sock"));
    let Some(offer) = Offer::ask(&path, "hand-over=", stop)? else {
        return Ok(None);
    };
    if !matches!(&offer.transfer.devices[..], [device] if device.name == name) {
        return Err(AdoptError::Other);
    }
    let adopted = all(offer, socket_folder, options)?;
    Ok(adopted.into_iter().next().map(|(_, runtime)| runtime))
}

/// Takes over all devices that another process offers.
pub fn all(mut offer: Offer<'_>, socket_folder: &Path, options: Options) -> Result<Adopted, AdoptError> {
    let mut prepared = Vec::new();
    for device in std::mem::take(&mut offer.transfer.devices) {
        let name = device.name.clone();
        match PreparedAdoption::new(device, socket_folder, options) {
            Ok(adoption) => prepared.push((name, adoption)),
            Err(source) => return Err(AdoptError::Device { name, source }),
        }
    }
    offer.accept()?;
    let adopted = prepared
        .into_iter()
        .map(|(name, adoption)| (name, adoption.complete()));
    Ok(adopted.collect())
}

/// What another process hands over is no device.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// The configuration is none.
    #[error("its configuration cannot be understood")]
    Configuration(#[source] UapiError),
    /// The interface is none.
    #[error("its interface is none")]
    Tun,
    /// The sockets are none, or not on one port.
    #[error("its UDP sockets are none, or not on the port of its configuration")]
    Udp,
    /// The UAPI's socket is in another place, and cannot be made here.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The kernel sends no notifications about links.
    #[error("cannot subscribe to changes of interfaces")]
    Notifier(#[source] io::Error),
}

/// A device that still belongs to another process, understood and not touched yet.
#[derive(Debug)]
struct PreparedAdoption {
    name: String,
    shards: Vec<Device>,
    ports: RestoredPorts,
    tun: OwnedFd,
    udp: [Option<OwnedFd>; 2],
    listener: Listener,
    notifier: Notifier,
    options: Options,
}

impl PreparedAdoption {
    /// Does everything that can fail, and nothing that the other process would notice.
    fn new(
        transfer: TransferredDevice<OwnedFd>,
        socket_folder: &Path,
        options: Options,
    ) -> Result<Self, PrepareError> {
        let TransferredDevice {
            name,
            uapi,
            tun,
            udp,
            configuration,
        } = transfer;
        let mut shards = shards(options);
        let ports = restore(
            Instant::now(),
            &configuration,
            &mut shards.iter_mut().collect::<Vec<_>>(),
        )
        .map_err(PrepareError::Configuration)?;
        if !is_tun(&tun) {
            return Err(PrepareError::Tun);
        }
        for (socket, v6) in udp.iter().zip([false, true]) {
            if socket
                .as_ref()
                .is_some_and(|socket| port_of(socket, v6) != Some(ports.port))
            {
                return Err(PrepareError::Udp);
            }
        }
        let listener = Listener::adopt(
            uapi.socket,
            uapi.file,
            &socket_folder.join(format!("{name}.sock")),
        )?;
        Ok(Self {
            name,
            shards,
            ports,
            tun,
            udp,
            listener,
            notifier: Notifier::new().map_err(PrepareError::Notifier)?,
            options,
        })
    }

    /// Goes on with it, and starts a handshake with every peer, now that it belongs to this process.
    fn complete(mut self) -> Result<Runtime, RuntimeError> {
        let now = Instant::now();
        self.listener.own(true);
        let set_up = |source| TunError::SetUp {
            name: self.name.clone(),
            source,
        };
        let tun = Tun::adopt(self.tun, self.options.offload).map_err(set_up)?;
        tun.keep(self.options.keep).map_err(set_up)?;
        tracing::info!(name = self.name, offloads = ?tun.offloads(), "taken over");
        let mut runtime = Runtime::new(
            self.name,
            self.shards,
            tun,
            self.notifier,
            self.listener,
            self.options,
        )?;
        let Runtime { main, pool, .. } = &mut runtime;
        let sockets = main
            .settings
            .resume(self.ports, self.udp)
            .map_err(RuntimeError::Udp)?;
        if let Some(sockets) = sockets {
            main.shard.io.listen(sockets);
            main.with_all_shards(pool, |all| {
                for device in &mut all.devices {
                    device.handle_succession(now, &mut all.sockets);
                }
            });
            main.shard.io.flush_network();
        }
        Ok(runtime)
    }
}
