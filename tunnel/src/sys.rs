//! The system calls that neither std, nix nor socket2 wraps. The only unsafe code of this crate.
#![allow(
    unsafe_code,
    reason = "ioctl, one socket option and messages with control data have no safe wrapper that allocates nothing"
)]

use std::{
    ffi::{c_int, c_uint},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use libc::{cmsghdr, ifreq, iovec, msghdr};
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socket};
use socket2::{SockAddr, SockAddrStorage};

/// What kind of tun a file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TunKind {
    /// Every packet has a virtio-net header.
    pub(crate) vnet: bool,
    /// The interface may have several files, each a queue of its own.
    pub(crate) queues: bool,
}

/// Makes the open `/dev/net/tun` an interface of this name. With `new`, EBUSY says that the name is taken; without, that
/// another process holds that interface, unless it may have several queues. EINVAL: it exists, and is of another kind.
pub(crate) fn tun_set_interface(tun: &impl AsFd, name: &str, kind: TunKind, new: bool) -> io::Result<()> {
    let mut request = request(name)?;
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
    if new {
        flags |= libc::IFF_TUN_EXCL;
    }
    if kind.vnet {
        flags |= libc::IFF_VNET_HDR;
    }
    if kind.queues {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags = flags as i16;
    call(tun, libc::TUNSETIFF, &mut request)
}

/// Sets which super-packets the kernel may hand to a tun's reader: `TUN_F_*`. EINVAL when it does not know one of them.
pub(crate) fn tun_set_offload(tun: &impl AsFd, offloads: c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of this process.
    let result = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
    checked(result).map(drop)
}

/// Sets whether a tun's interface stays when no process holds it any more.
pub(crate) fn tun_set_persist(tun: &impl AsFd, persist: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value and touches no memory of this process.
    let result = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETPERSIST, c_int::from(persist)) };
    checked(result).map(drop)
}

/// Sets how long the virtio-net header of each packet is, in bytes.
pub(crate) fn tun_set_header_size(tun: &impl AsFd, size: c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives for the time of the call.
    let result = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
    checked(result).map(drop)
}

/// Returns what kind a tun is of; an error when it is no tun, or its interface is gone.
pub(crate) fn tun_kind(tun: &impl AsFd) -> io::Result<TunKind> {
    let mut request = request("")?;
    call(tun, libc::TUNGETIFF, &mut request)?;
    // SAFETY: TUNGETIFF has written this member.
    let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags } as u16);
    Ok(TunKind {
        vnet: flags & libc::IFF_VNET_HDR != 0,
        queues: flags & libc::IFF_MULTI_QUEUE != 0,
    })
}

/// Puts a queue of a tun into use, or out of it: the kernel gives no packet to such a one, and takes none from it.
pub(crate) fn tun_set_queue(tun: &impl AsFd, used: bool) -> io::Result<()> {
    let mut request = request("")?;
    let flags = if used {
        IFF_ATTACH_QUEUE
    } else {
        libc::IFF_DETACH_QUEUE
    };
    request.ifr_ifru.ifru_flags = flags as i16;
    call(tun, libc::TUNSETQUEUE, &mut request)
}

/// From linux/if_tun.h.
const IFF_ATTACH_QUEUE: c_int = 0x0200;

/// Takes a descriptor that this process was started with, and makes it one that nothing waits for and no child gets. To be called
/// once for each number.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: F_SETFD has an int and touches no memory of this process; a number that is no descriptor is refused.
    checked(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the same.
    let flags = checked(unsafe { libc::fcntl(number, libc::F_GETFL) })?;
    // SAFETY: the same.
    checked(unsafe { libc::fcntl(number, libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    // SAFETY: it is open, and was opened by the process before exec, so that nothing here owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Returns the network namespace in which a tun's interface is (Linux 5.2).
pub(crate) fn tun_namespace(tun: &impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: TUNGETDEVNETNS has no argument and touches no memory of this process.
    let fd = checked(unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNGETDEVNETNS) })?;
    // SAFETY: the kernel has just opened it for this process, and no other owner exists.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns the present name of a tun's interface; fails when the interface is gone.
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

/// Returns whether an interface is up.
pub(crate) fn link_is_up(name: &str) -> io::Result<bool> {
    let mut request = request(name)?;
    call(&control()?, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has written this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(c_int::from(flags) & libc::IFF_UP != 0)
}

/// Returns an interface's MTU.
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

/// Has a netlink socket receive notifications of all network namespaces that its own has a number for, or of its own alone.
pub(crate) fn listen_everywhere(socket: &impl AsFd, everywhere: bool) -> io::Result<()> {
    let value = c_int::from(everywhere);
    // SAFETY: the kernel reads an int, which lives.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_LISTEN_ALL_NSID,
            (&raw const value).cast(),
            std::mem::size_of::<c_int>() as libc::socklen_t,
        )
    };
    checked(result).map(drop)
}

/// Sets how many packets wait in an interface for its reader.
pub(crate) fn set_queue_length(name: &str, packets: u16) -> io::Result<()> {
    let mut request = request(name)?;
    // The kernel reads the member ifr_qlen, an int in the place of this one.
    request.ifr_ifru.ifru_mtu = packets.into();
    call(&control()?, libc::SIOCSIFTXQLEN, &mut request)
}

/// Lets the kernel fragment what does not fit, as its own WireGuard does, whatever an ICMP message says.
pub(crate) fn allow_fragments(socket: &impl AsFd, v6: bool) -> io::Result<()> {
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
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    checked(result).map(drop)
}

/// From asm-generic/socket.h.
const SO_ATTACH_REUSEPORT_CBPF: c_int = 51;

/// Gives all sockets that share this one's port a program that picks the socket for each datagram: the one of the shard
/// ([`crate::index::shard`]) that serves the peer whose index is in the message, the first for handshake
/// initiations. The sockets count in the order in which they were bound.
///
/// A message's receiver index is in little-endian order behind the four bytes of the type, in a handshake response behind
/// the sender's (WireGuard whitepaper, section 5.4). So the byte that decides, the lowest but one, is at 4 + 1, or at 8 + 1
/// in a response.
pub(crate) fn steer(socket: &impl AsFd, shards: usize) -> io::Result<()> {
    let code = |class: u32, operation: u32, source: u32| (class | operation | source) as u16;
    let load = code(libc::BPF_LD, libc::BPF_B, libc::BPF_ABS);
    let equal = code(libc::BPF_JMP, libc::BPF_JEQ, libc::BPF_K);
    let jump = code(libc::BPF_JMP, libc::BPF_JA, 0);
    let modulo = code(libc::BPF_ALU, libc::BPF_MOD, libc::BPF_K);
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let give = |what| code(libc::BPF_RET, 0, what);
    let shards = u32::try_from(shards).map_err(io::Error::other)?;
    // Classic BPF (Documentation/networking/filter.rst); A is the accumulator. Offsets count from the payload of the datagram,
    // and what is returned is the index of the socket (`run_bpf_filter` in net/core/sock_reuseport.c). A jump skips as many
    // instructions as it says, counted from the next one: `jt` if the comparison holds, else `jf`. A load behind the end of a
    // datagram ends the program with 0: what is too short to be a message goes to the first socket.
    let mut program = [
        // 0: A = the type of the message, its first byte.
        step(load, 0, 0, 0),
        // 1: data (4)? Then to 6, else on.
        step(equal, 4, 4, 0),
        // 2: a cookie reply (3)? Then to 6, else on.
        step(equal, 3, 3, 0),
        // 3: a handshake response (2)? Then on, else (an initiation, or no message at all) to 9.
        step(equal, 2, 0, 5),
        // 4: A = the byte that decides in a response.
        step(load, 9, 0, 0),
        // 5: to 7.
        step(jump, 1, 0, 0),
        // 6: A = the byte that decides in data and cookie replies.
        step(load, 5, 0, 0),
        // 7: A = the shard that serves the peer, as `index::shard` has it.
        step(modulo, shards, 0, 0),
        // 8: the socket with that number.
        step(give(libc::BPF_A), 0, 0, 0),
        // 9: the first socket.
        step(give(libc::BPF_K), 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the program and its instructions live for the time of the call, and are as long as they say.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            length,
        )
    };
    checked(result).map(drop)
}

/// What came in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) source: SocketAddr,
    /// Bytes, of all datagrams.
    pub(crate) length: usize,
    /// Bytes of each datagram but the last, when the kernel joined several.
    pub(crate) segment: Option<usize>,
    /// The ECN bits of the outer header.
    pub(crate) ecn: u8,
    /// Which address of this machine it was sent to, if one can be sent from without naming an interface, too.
    pub(crate) local: Option<IpAddr>,
    /// The interface that it came in by; zero when the kernel does not say.
    pub(crate) interface: u32,
}

/// Room for every control message that is asked for or sent here, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// Receives one datagram, or several of one sender that the kernel joined (`UDP_GRO`).
pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Arrival> {
    let mut control = Control([0; 128]);
    let mut from = SockAddrStorage::zeroed();
    // SAFETY: msghdr is plain old data, of which zeros are a valid value.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    let mut part = iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = from.size_of();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: all that the message points to lives and is as long as it says.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;

    let (mut segment, mut ecn, mut local, mut interface) = (None, 0, None, 0);
    // SAFETY: the kernel has written `msg_controllen` bytes of whole control messages, which these macros walk.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    segment = usize::try_from(data.cast::<c_int>().read_unaligned()).ok();
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => ecn = *data & 3,
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    ecn = (data.cast::<c_int>().read_unaligned() & 3) as u8;
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    local = usable_v4(u32::from_be(info.ipi_spec_dst.s_addr).into());
                    interface = info.ipi_ifindex.cast_unsigned();
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    local = usable_v6(info.ipi6_addr.s6_addr.into());
                    interface = info.ipi6_ifindex;
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    // SAFETY: the kernel has written `msg_namelen` bytes of an address into the storage.
    let source = unsafe { SockAddr::new(from, message.msg_namelen) };
    let source = source.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    // From a link-local address can be sent to where the interface is known, which a link-local remote has with it.
    let local = local.filter(|local| !is_link_local(*local) || has_scope(source));
    Ok(Arrival {
        source,
        length,
        segment: segment.filter(|size| *size > 0),
        ecn,
        local,
        interface,
    })
}

fn usable_v4(addr: Ipv4Addr) -> Option<IpAddr> {
    let unusable = addr.is_unspecified() || addr.is_multicast() || addr.is_broadcast();
    (!unusable).then_some(addr.into())
}

fn usable_v6(addr: Ipv6Addr) -> Option<IpAddr> {
    let unusable = addr.is_unspecified() || addr.is_multicast();
    (!unusable).then_some(addr.into())
}

pub(crate) fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

fn has_scope(addr: SocketAddr) -> bool {
    matches!(addr, SocketAddr::V6(addr) if addr.scope_id() != 0)
}

/// What the sender says of a datagram's IP header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OuterHeader {
    /// The traffic class.
    pub(crate) tos: u8,
    /// The time to live; zero is the kernel's default.
    pub(crate) hops: u8,
}

/// Sends one datagram, or with `segment` one after every so many bytes (`UDP_SEGMENT`), all with this header; from this address,
/// or the one that the kernel chooses.
pub(crate) fn send(
    socket: &UdpSocket,
    to: &SockAddr,
    from: Option<IpAddr>,
    datagrams: &[u8],
    segment: Option<u16>,
    header: OuterHeader,
) -> io::Result<()> {
    let mut control = Control([0; 128]);
    // SAFETY: msghdr is plain old data, of which zeros are a valid value.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    let mut part = iovec {
        iov_base: datagrams.as_ptr().cast_mut().cast(),
        iov_len: datagrams.len(),
    };
    // The kernel reads through this pointer and those in `part` and never writes.
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.len();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    let mut used = 0;
    if let Some(segment) = segment {
        used += control.put(used, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    let [level, tos, hops] = if to.is_ipv6() {
        [libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::IPV6_HOPLIMIT]
    } else {
        [libc::IPPROTO_IP, libc::IP_TOS, libc::IP_TTL]
    };
    for (kind, value) in [(tos, header.tos), (hops, header.hops)] {
        if value != 0 {
            used += control.put(used, level, kind, &c_int::from(value).to_ne_bytes());
        }
    }
    match from {
        Some(IpAddr::V4(addr)) => {
            // in_pktinfo: the interface (any), the source, and the destination, which only a receiver gets.
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&addr.octets());
            used += control.put(used, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(addr)) => {
            // in6_pktinfo: the source, the interface (any).
            let mut info = [0; 20];
            info[..16].copy_from_slice(&addr.octets());
            used += control.put(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        None => {}
    }
    if used > 0 {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = used as _;
    }
    // SAFETY: all that the message points to lives and is as long as it says.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Control {
    /// Writes a control message at a place that the one before left; returns how much room it takes.
    fn put(&mut self, at: usize, level: c_int, kind: c_int, data: &[u8]) -> usize {
        // SAFETY: these two only compute.
        let (length, space) = unsafe {
            (
                libc::CMSG_LEN(data.len() as c_uint),
                libc::CMSG_SPACE(data.len() as c_uint),
            )
        };
        // SAFETY: cmsghdr is plain old data, of which zeros are a valid value.
        let mut header: cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = length as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        let data_at = at + length as usize - data.len();
        let place = &mut self.0[at..at + space as usize];
        // SAFETY: `place` is longer than a header; the write needs no alignment.
        unsafe { place.as_mut_ptr().cast::<cmsghdr>().write_unaligned(header) };
        self.0[data_at..data_at + data.len()].copy_from_slice(data);
        space as usize
    }
}

/// So many descriptors may come with one message.
pub(crate) const MAX_DESCRIPTORS: usize = 16;

/// Receives bytes, and what descriptors come with them; zero bytes are the end.
pub(crate) fn receive_descriptors(
    stream: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut impl Extend<OwnedFd>,
) -> io::Result<usize> {
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    for received in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = received {
            // SAFETY: the kernel has just opened them for this process, and no other owner exists.
            descriptors.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(message.bytes)
}

/// Opens a socket to ask about interfaces; any will do.
fn control() -> io::Result<OwnedFd> {
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
    checked(result).map(drop)
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
