//! Many packets as one: what the kernel's segmentation offloads hand over and take, as functions over bytes.
//!
//! With a virtio-net header in front, a tun gives and takes *super-packets* of up to 64 KiB: one IP and TCP (or UDP)
//! header and the payloads of many packets behind it. [`segment`] cuts one into the packets that WireGuard carries,
//! [`coalesce`] joins packets that arrived into one, by the rules of the kernel's own GRO. What is cut and joined again
//! is, byte for byte, what it was.
//!
//! Sources: the kernel's `Documentation/networking/segmentation-offloads.rst`, `include/uapi/linux/virtio_net.h`, and
//! for the rules of joining `net/ipv4/tcp_offload.c` and `udp_offload.c`.

pub mod checksum;
pub mod coalesce;
pub mod headers;
pub mod segment;
pub mod vnet;
