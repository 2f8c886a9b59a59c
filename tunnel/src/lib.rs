//! A userspace WireGuard device that speaks the WireGuard UAPI.
