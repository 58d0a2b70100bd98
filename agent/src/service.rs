//! From a flow that the gateway or another node opened to a service on this host's loopback.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};
use underpass_shared::wire::preface::{Reason, Refused, RefusedCode};

use crate::node::publish::{Caller, Published};

/// How long a local service may take to accept.
///
/// Loopback connects at once or never; a full backlog is retried by the kernel after one and three seconds.
const CONNECT: Duration = Duration::from_secs(5);

/// Connects to the loopback service behind `port`: IPv4 first, then IPv6, as services listen on either.
///
/// # Errors
/// What the relay is told: the port is not published, nothing listens there, or it did not answer.
pub async fn dial(published: &Published, port: u16, caller: Caller) -> Result<TcpStream, Refused> {
    let Some(local) = published.local(port, caller) else {
        return Err(refused(RefusedCode::NotPublished, &format!("port {port} is not published")));
    };
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, local));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, local));
    match connect(v4).await {
        Err(first) if first.code == RefusedCode::Refused => connect(v6).await.map_err(|_| first),
        done => done,
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Refused> {
    let stream = match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(refused(RefusedCode::Refused, &format!("nothing listens on {address}")));
        }
        Ok(Err(error)) => return Err(refused(RefusedCode::Unreachable, &format!("{address}: {error}"))),
        Err(_) => return Err(refused(RefusedCode::TimedOut, &format!("{address} did not answer"))),
    };
    // Small writes such as server-sent events must not wait for an acknowledgement.
    stream.set_nodelay(true).map_err(|error| refused(RefusedCode::Unreachable, &format!("{address}: {error}")))?;
    Ok(stream)
}

fn refused(code: RefusedCode, reason: &str) -> Refused {
    Refused { code, reason: Reason::new(reason) }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::node::publish::Publication;

    fn only(port: u16, local: u16) -> Published {
        Published::new(&[Publication { port, local }]).unwrap()
    }

    #[tokio::test]
    async fn a_published_port_leads_to_its_service_on_either_family() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(loopback).await.unwrap();
            let address = listener.local_addr().unwrap();
            let published = only(80, address.port());
            let (dialled, accepted) = tokio::join!(dial(&published, 80, Caller::Gateway), listener.accept());
            assert_eq!(dialled.unwrap().peer_addr().unwrap(), address);
            accepted.unwrap();
        }
    }

    #[tokio::test]
    async fn an_unpublished_port_is_never_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let refused = dial(&only(if port == 80 { 81 } else { 80 }, port), port, Caller::Gateway).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::NotPublished);
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens_is_named() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let refused = dial(&Published::default(), port, Caller::Gateway).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::Refused);
        assert_eq!(refused.reason.as_str(), format!("nothing listens on 127.0.0.1:{port}"));
    }
}
