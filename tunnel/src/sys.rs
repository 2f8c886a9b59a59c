//! The system calls that neither std, nix nor socket2 wraps. The only unsafe code of this crate.
#![allow(unsafe_code, reason = "ioctl and one socket option have no safe wrapper")]

use std::{
    ffi::c_int,
    io,
    net::UdpSocket,
    os::fd::{AsFd, AsRawFd},
};

use libc::ifreq;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Makes the open `/dev/net/tun` a new interface of this name; fails when the name is taken.
pub(crate) fn tun_set_interface(tun: &impl AsFd, name: &str) -> io::Result<()> {
    let mut request = request(name)?;
    // IFF_TUN_EXCL: never take over a device that another process left or holds.
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as i16;
    call(tun, libc::TUNSETIFF, &mut request)
}

/// The present name of a tun's interface; fails when the interface is gone.
pub(crate) fn tun_name(tun: &impl AsFd) -> io::Result<String> {
    let mut request = request("")?;
    call(tun, libc::TUNGETIFF, &mut request)?;
    let bytes: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|c| *c as u8)
        .take_while(|c| *c != 0)
        .collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether an interface is up.
pub(crate) fn link_is_up(name: &str) -> io::Result<bool> {
    let mut request = request(name)?;
    call(&control()?, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has written this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(c_int::from(flags) & libc::IFF_UP != 0)
}

/// An interface's MTU.
pub(crate) fn link_mtu(name: &str) -> io::Result<usize> {
    let mut request = request(name)?;
    call(&control()?, libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: SIOCGIFMTU has written this member.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(usize::try_from(mtu).unwrap_or(0))
}

/// Sets an interface's MTU.
pub(crate) fn set_link_mtu(name: &str, mtu: u16) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu = mtu.into();
    call(&control()?, libc::SIOCSIFMTU, &mut request)
}

/// Sets how many packets wait in an interface for its reader.
pub(crate) fn set_queue_length(name: &str, packets: u16) -> io::Result<()> {
    let mut request = request(name)?;
    // The kernel reads the member ifr_qlen, an int in the place of this one.
    request.ifr_ifru.ifru_mtu = packets.into();
    call(&control()?, libc::SIOCSIFTXQLEN, &mut request)
}

/// Lets the kernel fragment what does not fit, as its own WireGuard does, whatever an ICMP message says.
pub(crate) fn allow_fragments(socket: &UdpSocket, v6: bool) -> io::Result<()> {
    let (level, option, value) = if v6 {
        (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        )
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    };
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` is a live int of `length` bytes for the time of the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Any socket will do to ask about interfaces.
fn control() -> io::Result<std::os::fd::OwnedFd> {
    Ok(socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

fn request(name: &str) -> io::Result<ifreq> {
    if name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: ifreq is plain old data, of which zeros are a valid value.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn call(fd: &impl AsFd, what: libc::Ioctl, request: &mut ifreq) -> io::Result<()> {
    // SAFETY: each `what` used here takes a pointer to one ifreq, which lives and is initialised.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), what, std::ptr::from_mut(request)) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
