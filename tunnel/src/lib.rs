//! A userspace WireGuard device that speaks the WireGuard UAPI.
//!
//! It stands in for wireguard-go, or for the kernel's WireGuard where there is none: it creates a TUN interface, is
//! configured by `wg` through `/var/run/wireguard/INTERFACE.sock`, and talks to any other WireGuard. It is no library for
//! embedding WireGuard elsewhere, and it assigns no addresses and routes.
//!
//! # The flow of a packet
//!
//! Out:
//! 1. [`runtime`] waits in its poll loop; the [`tun`] has a packet.
//! 2. [`device::Device::handle_packet`] looks up the destination in [`allowed_ips`]: the longest prefix names the peer.
//! 3. The packet is padded to 16 bytes and given to the peer's [`noise`], which encrypts it, or keeps it and starts a
//!    handshake.
//! 4. The datagram leaves through [`udp`] for the peer's endpoint.
//!
//! In:
//! 1. [`udp`] has a datagram; [`device::Device::handle_datagram`] takes it with its source.
//! 2. [`admission`] finds the peer: by the index in the message, or for a handshake initiation by the key inside. It answers
//!    with cookies when there are too many handshakes.
//! 3. The peer's [`noise`] authenticates, decrypts, and answers handshakes. Where an authentic message came from is the
//!    peer's endpoint from then on (roaming).
//! 4. The packet's source must belong to that peer in [`allowed_ips`], or to one of its [`group`]; then it goes to the
//!    [`tun`].
//!
//! Time: [`device::Device::poll_timeout`] says when [`device::Device::handle_timeout`] is wanted.
//!
//! # What knows what
//!
//! From below; nothing imports what stands further down, and `scripts/cycles` holds every module to that:
//!
//! | | |
//! |---|---|
//! | [`id`], [`index`], [`path`], [`key`], [`prefix`], [`clock`] | values |
//! | [`allowed_ips`], [`group`], [`admission`], [`noise`], [`peer`], [`device`] | all protocol state. They know no socket, file or thread: bytes in, bytes out to a [`device::Wire`] |
//! | [`offload`], [`ecn`], [`mod@unreachable`] | functions over packets: cutting, joining, congestion marks, ICMP errors |
//! | [`tun`], [`udp`] with [`gso_queue`], [`link`], [`listener`], [`inherited`], [`notify`], the private `sys` and `rtnetlink` | the kernel |
//! | [`handover`] | what two processes say when one takes over from the other; it knows no device |
//! | [`uapi`] | text into changes of a device, and back |
//! | [`runtime`] | joins everything in a loop for each thread |
//! | [`serve`] | several devices in one process |
//! | [`alive`] | whether such a process answers, asked from another one |
pub mod admission;
pub mod alive;
pub mod allowed_ips;
pub mod clock;
pub mod device;
pub mod ecn;
pub mod group;
pub mod gso_queue;
pub mod handover;
pub mod id;
pub mod index;
pub mod inherited;
pub mod key;
pub mod link;
pub mod listener;
pub mod noise;
pub mod notify;
pub mod offload;
pub mod path;
pub mod peer;
pub mod prefix;
mod rtnetlink;
pub mod runtime;
pub mod serve;
mod sys;
pub mod tun;
pub mod uapi;
pub mod udp;
pub mod unreachable;
