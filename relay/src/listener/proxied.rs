//! For whom a connection is, when a proxy that stands before the gateway says so.

use std::{io, time::Duration};

use tokio::{io::AsyncReadExt, net::TcpStream, time::sleep};

use crate::{
    proxy_protocol::{Addresses, DecodeError, Decoded, HEADER_BYTES_MAX, Header, decode},
    route::client::FromProxies,
};

/// How long is waited for more when too little has come to say whether it begins a header.
///
/// Proxies send a header at once: this is for clients that send a few bytes and rest.
const UNSURE_PAUSE: Duration = Duration::from_millis(20);

/// Bytes looked at in one step; longer headers take several.
const STEP_BYTES: usize = 512;

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("the connection broke: {}", .0.kind())]
    Io(#[from] io::Error),
    #[error("it closed before its PROXY header was complete")]
    Closed,
    #[error("{0}")]
    Bad(#[from] DecodeError),
}

/// Reads the header that `stream` begins with, and nothing behind it; returns both ends as the proxy saw them, or
/// `None` when the connection's own ones hold.
///
/// What is not known to be a header yet is only looked at, so that a connection without one loses nothing.
pub(super) async fn read(stream: &mut TcpStream, from: FromProxies) -> Result<Option<Addresses>, HeaderError> {
    let mut taken = Vec::new();
    loop {
        let begun = taken.len();
        taken.resize(HEADER_BYTES_MAX.min(begun + STEP_BYTES), 0);
        let seen = stream.peek(&mut taken[begun..]).await?;
        taken.truncate(begun + seen);
        if seen == 0 {
            return Err(HeaderError::Closed);
        }
        match decode(&taken) {
            Ok(Decoded::Header(header, length)) => {
                taken.truncate(length);
                stream.read_exact(&mut taken[begun..]).await?;
                return Ok(match header {
                    Header::Local => None,
                    Header::Proxied(addresses) => Some(addresses),
                });
            }
            Ok(Decoded::More) => {
                stream.read_exact(&mut taken[begun..]).await?;
            }
            Ok(Decoded::Unsure) => {
                taken.clear();
                sleep(UNSURE_PAUSE).await;
            }
            Err(DecodeError::None) if from == FromProxies::OrNot => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}
