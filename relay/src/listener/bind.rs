//! Opens the sockets of a listener: one per worker on the same address, among which the kernel spreads the clients.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted, per socket.
const BACKLOG: i32 = 1024;

/// What may wait in a socket for datagrams, in bytes; the kernel drops what comes beyond, and may allow less.
const DATAGRAM_BUFFER_BYTES: usize = 1024 * 1024;

/// Binds `count` listening sockets (at least one) to `address`; port 0 becomes one free port for all of them.
///
/// # Errors
/// When the address is in use, even by another process of this user, which `SO_REUSEPORT` alone would share it with.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let sockets = open_all(address, count, Type::STREAM)?;
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

/// The same for datagrams. The kernel gives all of one client to the same socket.
///
/// # Errors
/// As [`bind`].
pub fn bind_datagrams(address: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let sockets = open_all(address, count, Type::DGRAM)?;
    for socket in &sockets {
        socket.set_recv_buffer_size(DATAGRAM_BUFFER_BYTES)?;
    }
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

fn open_all(address: SocketAddr, count: usize, kind: Type) -> io::Result<Vec<Socket>> {
    if address.port() != 0 {
        open(address, kind, Sharing::Alone)?;
    }
    let first = open(address, kind, Sharing::Workers)?;
    let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(open(address, kind, Sharing::Workers)?);
    }
    Ok(sockets)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Workers,
}

fn open(address: SocketAddr, kind: Type, sharing: Sharing) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    // Among datagram sockets this would share the address with any other, and take its clients.
    socket.set_reuse_address(kind == Type::STREAM)?;
    if sharing == Sharing::Workers {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // The wildcard takes IPv4 as well.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
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
    fn datagrams_share_a_port_among_workers_and_with_connections_only() {
        let sockets = bind_datagrams((Ipv4Addr::LOCALHOST, 0).into(), 2).unwrap();
        let taken = sockets[0].local_addr().unwrap();
        assert_eq!(sockets[1].local_addr().unwrap(), taken);
        assert_eq!(bind_datagrams(taken, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        assert!(bind_datagrams(taken, 2).is_ok());
    }
}
