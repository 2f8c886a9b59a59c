//! A userspace WireGuard device that speaks the WireGuard UAPI.
//!
//! It stands in for wireguard-go, or for the kernel's WireGuard where there is none: it makes a TUN interface, is
//! configured by `wg` through `/var/run/wireguard/INTERFACE.sock`, and talks to any other WireGuard. It is no library for
//! embedding WireGuard elsewhere, and it assigns no addresses and routes.
//!
//! # The flow of a packet
//!
//! Out:
//! 1. [`interface`] waits in its poll loop; the [`tun`] has a packet.
//! 2. [`device::Device::handle_packet`] looks up the destination in [`allowed_ips`]: the longest prefix names the peer.
//! 3. The packet is padded to 16 bytes and given to the peer's [`noise`], which encrypts it, or keeps it and starts a
//!    handshake.
//! 4. The datagram leaves through [`udp`] for the peer's endpoint.
//!
//! In:
//! 1. [`udp`] has a datagram; [`device::Device::handle_datagram`] takes it with its source.
//! 2. [`gate`] finds the peer: by the index in the message, or for a handshake initiation by the key inside. It answers
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
//! [`device`], [`peer`], [`noise`], [`gate`], [`allowed_ips`], [`group`] hold all protocol state and know no socket, file or thread:
//! bytes in, bytes out to a [`device::Wire`]. [`uapi`] turns text into changes of a device. [`tun`], [`udp`], [`link`] and
//! the private `sys` are the kernel; [`interface`] joins everything in a loop for each thread, [`serve`] runs several devices.
//! [`hand_over`] moves running devices to another process.
pub mod allowed_ips;
pub mod device;
pub mod ecn;
pub mod gate;
pub mod group;
pub mod hand_over;
pub mod interface;
pub mod key;
pub mod link;
pub mod noise;
pub mod offload;
pub mod outbox;
pub mod peer;
pub mod prefix;
pub mod serve;
mod sys;
pub mod tun;
pub mod uapi;
pub mod udp;
