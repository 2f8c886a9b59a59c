//! Looks at the packets of one device, as many of them as a filter in the kernel lets through.
//!
//! A packet socket that is bound to a device is given what leaves by it, after all rules, and what enters by it, before all of them.
//! It changes nothing of these packets, costs those of other devices nothing, and goes with the process, however that ends.
//! What it is given and what does not fit into its buffer the kernel counts, so that nothing is missed unnoticed.

use std::{io, os::fd::AsRawFd as _};

use nix::{
    libc,
    net::if_::if_nametoindex,
    sys::socket::{setsockopt, sockopt},
};
use socket2::{Domain, SockFilter, Socket, Type};
use spanwire_host::LinkName;
use thiserror::Error;

/// Enough for some thousand packets, which come in bursts.
const BUFFER: usize = 2 << 20;

/// Of the instructions of the classic BPF.
const RETURN: u16 = 0x06;

/// An instruction of the filter: the fields of `struct sock_filter`.
type Instruction = (u16, u8, u8, u32);

/// Why packets cannot be looked at.
#[derive(Debug, Error)]
#[error("the packets of {link} cannot be looked at")]
pub struct TapError {
    /// The device.
    link: LinkName,
    /// The cause.
    source: io::Error,
}

/// The packets of a device.
#[derive(Debug)]
pub struct Tap {
    socket: Socket,
    ethernet: bool,
    /// How many packets the filter has let through, and how many of these were taken.
    passed: u64,
    taken: u64,
}

impl Tap {
    /// Begins to look at a device.
    ///
    /// # Errors
    /// When there is no such device, or the kernel does not allow it or does not take the filter.
    pub fn open(link: &LinkName, filter: &[Instruction]) -> Result<Self, TapError> {
        let open = || {
            let tap = Self::with(Type::RAW, link, filter)?;
            if tap.ethernet {
                return Ok(tap);
            }
            // Only of Ethernet is the link-layer header known; of the others it is taken off.
            Self::with(Type::DGRAM, link, filter)
        };
        open().map_err(|source| TapError {
            link: link.clone(),
            source,
        })
    }

    fn with(kind: Type, link: &LinkName, filter: &[Instruction]) -> io::Result<Self> {
        // Of no protocol: before it is bound it is given nothing.
        let socket = Socket::new(Domain::PACKET, kind.nonblocking(), None)?;
        let filter: Vec<SockFilter> = filter
            .iter()
            .map(|(code, so, not, operand)| SockFilter::new(*code, *so, *not, *operand))
            .collect();
        socket.attach_filter(&filter)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        bind(&socket, if_nametoindex(link.as_str())?)?;
        let ethernet = kind_of_link(&socket)? == libc::ARPHRD_ETHER;
        Ok(Self {
            socket,
            ethernet,
            passed: 0,
            taken: 0,
        })
    }

    /// Returns whether packets begin with a header of Ethernet, not with that of IP.
    #[must_use]
    pub fn is_ethernet(&self) -> bool {
        self.ethernet
    }

    /// Takes the next packet: how many of its bytes are in the buffer now, and whether it leaves. `None`: there is none yet.
    ///
    /// # Errors
    /// When the device is gone or down.
    pub fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<(usize, bool)>> {
        loop {
            let (length, kind) = match receive(&self.socket, buffer) {
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            self.taken += 1;
            // A device in promiscuous mode shows what is for other machines, too.
            if kind != libc::PACKET_OTHERHOST {
                return Ok(Some((length, kind == libc::PACKET_OUTGOING)));
            }
        }
    }

    /// Lets no more packets through; those that are there can still be taken.
    ///
    /// # Errors
    /// When the kernel does not take the filter.
    pub fn stop(&self) -> io::Result<()> {
        const NOTHING: u32 = 0;
        self.socket
            .attach_filter(&[SockFilter::new(RETURN, 0, 0, NOTHING)])
    }

    /// Returns how many packets the filter has let through that were not taken: there was no room for them, or they are still there.
    ///
    /// # Errors
    /// When the kernel does not say.
    #[expect(unsafe_code, reason = "nix does not know this option")]
    pub fn missed(&mut self) -> io::Result<u64> {
        // All since this was last asked, and those among them that there was no room for.
        let mut counts = [0_u32; 2];
        let mut length = size_of_val(&counts) as u32;
        // SAFETY: the kernel writes `length` bytes at most, which is how many there are.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        done(result as isize)?;
        self.passed += u64::from(counts[0]);
        Ok(self.passed.saturating_sub(self.taken))
    }
}

/// The address of a packet socket. nix takes it for none where the kernel gives it shorter.
fn address() -> (libc::sockaddr_ll, u32) {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    (address, size_of_val(&address) as u32)
}

#[expect(
    unsafe_code,
    reason = "neither nix nor socket2 makes the address of a packet socket"
)]
fn bind(socket: &Socket, link: u32) -> io::Result<()> {
    let (mut to, length) = address();
    to.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    to.sll_ifindex = i32::try_from(link).map_err(io::Error::other)?;
    // SAFETY: the pointer is to what lives on this stack, with its length.
    done(unsafe { libc::bind(socket.as_raw_fd(), (&raw const to).cast(), length) } as isize)?;
    Ok(())
}

/// Returns the kind of the device that the socket is bound to.
#[expect(unsafe_code, reason = "nix does not read the address of a packet socket")]
fn kind_of_link(socket: &Socket) -> io::Result<u16> {
    let (mut bound, mut length) = address();
    // SAFETY: the kernel writes `length` bytes at most, which is how many there are.
    done(
        unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut bound).cast(), &raw mut length) } as isize,
    )?;
    Ok(bound.sll_hatype)
}

/// Receives a packet: how many bytes of it fit, and for whom it is.
#[expect(unsafe_code, reason = "nix does not read the address of a packet socket")]
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, u8)> {
    let (mut from, mut length) = address();
    // SAFETY: the kernel writes as many bytes at most as there are behind either pointer.
    let received = done(unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut from).cast(),
            &raw mut length,
        )
    })?;
    Ok((received, from.sll_pkttype))
}

fn done(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
