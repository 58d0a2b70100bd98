//! Opens the sockets of a listener: one per worker on the same address, among which the kernel spreads connections.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted, per socket.
const BACKLOG: i32 = 1024;

/// What a UDP socket asks for, in bytes; the kernel may grant less.
const UDP_BUFFER_BYTES: usize = 2 << 20;

/// Binds `count` listening sockets (at least one) to `address`; port 0 becomes one free port for all of them.
///
/// # Errors
/// When the address is in use, even by another process of this user, which `SO_REUSEPORT` alone would share it with.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        open(address, Sharing::Alone)?;
    }
    let first = open(address, Sharing::Workers)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(open(address, Sharing::Workers)?);
    }
    Ok(sockets)
}

/// Binds `count` UDP sockets (at least one) to `address`, as [`bind`] does for TCP.
///
/// # Errors
/// As [`bind`].
pub fn bind_udp(address: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    if address.port() != 0 {
        open_udp(address, Sharing::Alone)?;
    }
    let first = open_udp(address, Sharing::Workers)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(open_udp(address, Sharing::Workers)?);
    }
    Ok(sockets)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Workers,
}

fn open(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Workers {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // The wildcard takes IPv4 as well.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if sharing == Sharing::Workers {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

fn open_udp(address: SocketAddr, sharing: Sharing) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if sharing == Sharing::Workers {
        socket.set_reuse_port(true)?;
        // Best effort: a smaller buffer loses packets under load, and works.
        let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(UDP_BUFFER_BYTES);
    }
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn all_workers_share_one_free_port() {
        let sockets = bind((Ipv4Addr::LOCALHOST, 0).into(), 3).unwrap();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses.len(), 3);
        assert!(addresses.iter().all(|address| *address == addresses[0] && address.port() != 0));
    }

    #[test]
    fn a_port_in_use_is_refused_although_it_could_be_shared() {
        let first = bind((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap();
        let taken = first[0].local_addr().unwrap();
        assert_eq!(bind(taken, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(bind(taken, 2).is_ok());
    }

    #[test]
    fn all_workers_share_one_udp_port_and_nobody_else_does() {
        let sockets = bind_udp((Ipv4Addr::LOCALHOST, 0).into(), 3).unwrap();
        let taken = sockets[0].local_addr().unwrap();
        assert!(sockets.len() == 3 && sockets.iter().all(|socket| socket.local_addr().unwrap() == taken));
        assert_eq!(bind_udp(taken, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        assert!(bind_udp(taken, 2).is_ok());
    }
}
