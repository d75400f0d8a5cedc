//! Making a TUN device, by `/dev/net/tun` and ioctls of netdevice(7). It isn't persistent: the kernel removes it, with its
//! address and its route, when the last descriptor of it is closed, whatever ends the process.

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Opcode, Setter, Updater};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

/// The most bytes of an interface's name.
pub(super) const NAME: usize = 15;

const TUNSETIFF: Opcode = 0x4004_54ca;
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCSIFNETMASK: Opcode = 0x891c;
const SIOCSIFMTU: Opcode = 0x8922;

/// Of the device: packets of IP, nothing before them, and none that is there already.
const TUN_NO_PI_EXCL: u16 = 0x0001 | 0x1000 | 0x8000;
const UP: u16 = 0x1;
const AF_INET: u16 = 2;

/// The kernel's `struct ifreq`: a name, and a union whose longest member has 24 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    name: [u8; NAME + 1],
    value: [u8; 24],
}

impl Request {
    fn new(name: &str, value: &[u8]) -> Self {
        let mut request = Self { name: [0; NAME + 1], value: [0; 24] };
        request.name.iter_mut().take(NAME).zip(name.bytes()).for_each(|(to, from)| *to = from);
        request.value.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        request
    }

    /// With a `struct sockaddr_in`.
    fn with_address(name: &str, address: Ipv4Addr) -> Self {
        let mut value = AF_INET.to_ne_bytes().to_vec();
        value.extend([0, 0]);
        value.extend(address.octets());
        Self::new(name, &value)
    }

    fn short(&self) -> u16 {
        let [first, second, ..] = self.value;
        u16::from_ne_bytes([first, second])
    }
}

/// Makes the device, and has it up with that address, the route to its network, and that MTU. It doesn't block.
pub(super) fn make(name: &str, address: Ipv4Addr, prefix: u8, mtu: u16) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    set::<TUNSETIFF>(&device, Request::new(name, &TUN_NO_PI_EXCL.to_ne_bytes()))?;
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    set::<SIOCSIFMTU>(&socket, Request::new(name, &i32::from(mtu).to_ne_bytes()))?;
    set::<SIOCSIFADDR>(&socket, Request::with_address(name, address))?;
    set::<SIOCSIFNETMASK>(&socket, Request::with_address(name, Ipv4Addr::from(mask)))?;
    let mut is = Request::new(name, &[]);
    get::<SIOCGIFFLAGS>(&socket, &mut is)?;
    set::<SIOCSIFFLAGS>(&socket, Request::new(name, &(is.short() | UP).to_ne_bytes()))?;
    Ok(device)
}

fn set<const OPCODE: Opcode>(file: impl AsFd, request: Request) -> io::Result<()> {
    // SAFETY: each of these operations reads a `struct ifreq`, which this is at least as long as.
    #[expect(unsafe_code, reason = "an ioctl is no safe call for anybody")]
    unsafe {
        Ok(rustix::ioctl::ioctl(file, Setter::<OPCODE, Request>::new(request))?)
    }
}

fn get<const OPCODE: Opcode>(file: impl AsFd, request: &mut Request) -> io::Result<()> {
    // SAFETY: the operation reads and writes a `struct ifreq`, which this is at least as long as; any bytes are one.
    #[expect(unsafe_code, reason = "an ioctl is no safe call for anybody")]
    unsafe {
        Ok(rustix::ioctl::ioctl(file, Updater::<OPCODE, Request>::new(request))?)
    }
}
