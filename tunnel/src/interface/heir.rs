//! A device of another process, understood but not touched yet.

use std::{io, os::fd::OwnedFd, path::Path, time::Instant};

use thiserror::Error;

use crate::{
    device::Device,
    hand_over::parcel::Handed,
    interface::{Interface, InterfaceError, Options, shards},
    link::Bell,
    tun::{Tun, TunError, is_tun},
    uapi::{
        UapiError,
        restore::{Wanted, restore},
        server::{ListenError, Listener},
    },
    udp::port_of,
};

/// What another process hands over is no device.
#[derive(Debug, Error)]
pub enum HeirError {
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
    /// The kernel does not tell of links.
    #[error("cannot listen for changes of interfaces")]
    Bell(#[source] io::Error),
}

/// A device that still belongs to another process.
#[derive(Debug)]
pub struct Heir {
    name: String,
    shards: Vec<Device>,
    wanted: Wanted,
    tun: OwnedFd,
    udp: [Option<OwnedFd>; 2],
    listener: Listener,
    bell: Bell,
    options: Options,
}

impl Heir {
    /// Does everything that can fail, and nothing that the other process would notice.
    pub fn prepare(
        handed: Handed<OwnedFd>,
        socket_folder: &Path,
        options: Options,
    ) -> Result<Self, HeirError> {
        let Handed {
            name,
            uapi,
            tun,
            udp,
            configuration,
        } = handed;
        let mut shards = shards(options);
        let wanted = restore(
            Instant::now(),
            &configuration,
            &mut shards.iter_mut().collect::<Vec<_>>(),
        )
        .map_err(HeirError::Configuration)?;
        if !is_tun(&tun) {
            return Err(HeirError::Tun);
        }
        for (socket, v6) in udp.iter().zip([false, true]) {
            if socket
                .as_ref()
                .is_some_and(|socket| port_of(socket, v6) != Some(wanted.port))
            {
                return Err(HeirError::Udp);
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
            wanted,
            tun,
            udp,
            listener,
            bell: Bell::new().map_err(HeirError::Bell)?,
            options,
        })
    }

    /// Goes on with it, and tells every peer, now that it belongs to this process.
    pub fn inherit(mut self) -> Result<Interface, InterfaceError> {
        let now = Instant::now();
        self.listener.own(true);
        let set_up = |source| TunError::SetUp {
            name: self.name.clone(),
            source,
        };
        let tun = Tun::adopt(self.tun, self.options.offload).map_err(set_up)?;
        tun.keep(self.options.keep).map_err(set_up)?;
        tracing::info!(name = self.name, offloads = ?tun.offloads(), "taken over");
        let mut interface = Interface::new(
            self.name,
            self.shards,
            tun,
            self.bell,
            self.listener,
            self.options,
        )?;
        let Interface { main, crew, .. } = &mut interface;
        let sockets = main
            .settings
            .resume(self.wanted, self.udp)
            .map_err(InterfaceError::Udp)?;
        if let Some(sockets) = sockets {
            main.shard.io.listen(sockets);
            main.with_all(crew, |all| {
                for device in &mut all.devices {
                    device.handle_up(now, &mut all.outside);
                }
            });
            main.shard.io.flush_network();
        }
        Ok(interface)
    }
}
