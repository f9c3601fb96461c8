//! Attacks on the network and on sockets outside.

use crate::{Outcome, Targets, errno, outcome, raw};

fn socket(family: i32, kind: i32, protocol: i32) -> Result<i64, i32> {
    let fd = raw!(libc::SYS_socket, family, kind, protocol);
    if fd < 0 { Err(errno()) } else { Ok(fd) }
}

/// sockaddr_in of 127.0.0.1.
fn here(port: u16) -> [u8; 16] {
    let mut address = [0u8; 16];
    address[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    address
}

pub fn connect_tcp(t: &Targets) -> Outcome {
    let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    outcome(raw!(libc::SYS_connect, fd, here(t.tcp).as_ptr(), 16))
}
pub fn connect_tcp6(t: &Targets) -> Outcome {
    // ::ffff:127.0.0.1, the same listener by another family.
    let fd = socket(libc::AF_INET6, libc::SOCK_STREAM, 0)?;
    let mut address = [0u8; 28];
    address[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
    address[2..4].copy_from_slice(&t.tcp.to_be_bytes());
    address[18..24].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
    outcome(raw!(libc::SYS_connect, fd, address.as_ptr(), 28))
}
pub fn connect_multipath(t: &Targets) -> Outcome {
    let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 262)?;
    outcome(raw!(libc::SYS_connect, fd, here(t.tcp).as_ptr(), 16))
}
pub fn connect_by_sending(t: &Targets) -> Outcome {
    let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let sent = raw!(libc::SYS_sendto, fd, c"x".as_ptr(), 1, 0x2000_0000, here(t.tcp).as_ptr(), 16);
    outcome(sent)
}
pub fn ask_udp(t: &Targets) -> Outcome {
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    outcome(raw!(libc::SYS_connect, fd, here(t.udp).as_ptr(), 16))?;
    outcome(raw!(libc::SYS_sendto, fd, c"x".as_ptr(), 1, 0, std::ptr::null::<u8>(), 0))?;
    let wait = [1i64, 0];
    outcome(raw!(libc::SYS_setsockopt, fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, wait.as_ptr(), 16))?;
    let mut answer = [0u8; 8];
    outcome(raw!(libc::SYS_recvfrom, fd, answer.as_mut_ptr(), 8, 0, std::ptr::null::<u8>(), std::ptr::null::<u8>()))
}
pub fn raw_socket(_: &Targets) -> Outcome {
    socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP).map(drop)
}
pub fn raw_socket_high_bits(_: &Targets) -> Outcome {
    // The kernel reads the family as 32 bits; a filter must too.
    outcome(raw!(libc::SYS_socket, (1i64 << 32) | i64::from(libc::AF_PACKET), libc::SOCK_RAW, 0))
}
pub fn packet_socket(_: &Targets) -> Outcome {
    socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map(drop)
}
pub fn packet_datagrams(_: &Targets) -> Outcome {
    socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0).map(drop)
}
pub fn kernel_events(_: &Targets) -> Outcome {
    socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT).map(drop)
}
pub fn audit_socket(_: &Targets) -> Outcome {
    socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT).map(drop)
}
pub fn generic_netlink(_: &Targets) -> Outcome {
    socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_GENERIC).map(drop)
}
pub fn socket_diagnosis(_: &Targets) -> Outcome {
    socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG).map(drop)
}
pub fn vsock(_: &Targets) -> Outcome {
    socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0).map(drop)
}
pub fn fast_path_socket(_: &Targets) -> Outcome {
    socket(libc::AF_XDP, libc::SOCK_RAW, 0).map(drop)
}
pub fn crypto_socket(_: &Targets) -> Outcome {
    socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0).map(drop)
}
pub fn abstract_socket(t: &Targets) -> Outcome {
    unix(&[&[0], t.abstract_name.as_bytes()].concat())
}
pub fn abstract_datagram(t: &Targets) -> Outcome {
    let fd = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    let (address, length) = unix_address(&[&[0], format!("{}-datagram", t.abstract_name).as_bytes()].concat());
    outcome(raw!(libc::SYS_sendto, fd, c"x".as_ptr(), 1, 0, address.as_ptr(), length))
}
pub fn socket_in_directory(t: &Targets) -> Outcome {
    unix(format!("{}/socket", t.outside).as_bytes())
}
fn unix(name: &[u8]) -> Outcome {
    let fd = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let (address, length) = unix_address(name);
    outcome(raw!(libc::SYS_connect, fd, address.as_ptr(), length))
}
fn unix_address(name: &[u8]) -> ([u8; 110], usize) {
    let mut address = [0u8; 110];
    address[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    let name = &name[..name.len().min(107)];
    address[2..2 + name.len()].copy_from_slice(name);
    (address, 2 + name.len())
}
