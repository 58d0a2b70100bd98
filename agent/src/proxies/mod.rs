//! The proxies for programs on this host: SOCKS5 and HTTP CONNECT on one port, told apart by the first byte.
//!
//! Owns a program's connection until its flow stands. Where a flow leads is the relay's (`link::outward`); what the bytes
//! mean is said, purely, in `socks5` and `http_connect`.

pub mod http_connect;
pub mod socks5;
pub mod users;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, info_span, warn};

use self::{
    http_connect::ESTABLISHED,
    socks5::{Malformed, Method, Reply},
    users::Users,
};
use crate::link::outward::{NotConnected, Outward, OutwardFlow, Target};

/// How many programs' connections there are at once; further ones wait to be accepted. As many flows as a relay lets one
/// session have.
const CLIENTS_MAX: usize = 4_096;

/// How long a program may take to say what it wants.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long, and for how many bytes, a program that was refused may go on sending before it is cut, so that it reads why.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES_MAX: usize = 64 << 10;

/// How much is looked at at once, in bytes.
const READ_BYTES: usize = 1 << 10;

/// The pause after the system gave no connection, such as for want of files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The proxies, bound.
#[derive(Debug)]
pub struct Proxies {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    outward: Outward,
    /// `None`: whoever can connect may.
    users: Option<Users>,
}

/// Why a program's connection ended before its flow stood.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it broke off: {0}")]
    Broken(#[from] io::Error),
    #[error("it ended before it had said what it wants")]
    Early,
    #[error("it took too long to say what it wants")]
    Slow,
    #[error("it speaks neither SOCKS5 nor HTTP")]
    Foreign,
    #[error("it was refused: {0}")]
    Refused(String),
}

impl Proxies {
    /// Binds `address`. With `users` each program must prove to be one's.
    ///
    /// # Errors
    /// The port is taken, or the address is not this host's.
    pub async fn bind(address: SocketAddr, users: Option<Users>, outward: Outward) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, shared: Arc::new(Shared { outward, users }) })
    }

    /// Where they are bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves programs until `stop` is cancelled; flows that stand then live on, on `tasks`.
    pub async fn run(self, tasks: TaskTracker, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let (program, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "no connection of a program was accepted");
                    sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
            let serve = async move {
                let _place = place;
                let begun = tokio::select! {
                    begun = shared.begin(program) => begun,
                    () = stop.cancelled() => return,
                };
                match begun {
                    Ok((flow, program)) => {
                        let copied = flow.copy(program).await;
                        let (bytes_in, bytes_out) = (copied.bytes_to_tcp, copied.bytes_to_lane);
                        debug!(bytes_in, bytes_out, error = ?copied.error, "flow ended");
                    }
                    Err(reason) => debug!(%reason, "no flow"),
                }
            };
            tasks.spawn(serve.instrument(info_span!("program", %from)));
        }
    }
}

impl Shared {
    /// Listens to what a program wants, connects, and tells it so.
    async fn begin(&self, program: TcpStream) -> Result<(OutwardFlow, TcpStream), Ended> {
        // Both sides are mostly short messages until the flow stands, and afterwards somebody else's.
        program.set_nodelay(true)?;
        let mut first = [0];
        match timeout(HANDSHAKE, program.peek(&mut first)).await {
            Err(_) => Err(Ended::Slow),
            Ok(Ok(0)) => Err(Ended::Early),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(_)) if first[0] == socks5::VERSION => self.socks5(program).await,
            Ok(Ok(_)) if first[0].is_ascii_uppercase() => self.http(program).await,
            Ok(Ok(_)) => Err(Ended::Foreign),
        }
    }

    async fn socks5(&self, mut program: TcpStream) -> Result<(OutwardFlow, TcpStream), Ended> {
        let target = match timeout(HANDSHAKE, self.socks5_request(&mut program)).await.map_err(|_| Ended::Slow)?? {
            Ok(target) => target,
            Err(refusal) => return Err(farewell(program, &refusal, "the request is not served").await),
        };
        match self.outward.connect(&target).await {
            Ok(flow) => {
                program.write_all(&socks5::replied(Reply::Succeeded)).await?;
                Ok((flow, program))
            }
            Err(error) => {
                let reply = socks5::replied(error.cause().into());
                Err(farewell(program, &reply, &error.to_string()).await)
            }
        }
    }

    /// The target, or with what the program is sent away.
    async fn socks5_request(&self, program: &mut TcpStream) -> Result<Result<Target, Vec<u8>>, Ended> {
        let Ok(methods) = read(program, socks5::greeting).await? else {
            return Ok(Err(socks5::chosen(Method::Unacceptable).to_vec()));
        };
        let method = socks5::choose(methods, self.users.is_some());
        if method == Method::Unacceptable {
            return Ok(Err(socks5::chosen(method).to_vec()));
        }
        program.write_all(&socks5::chosen(method)).await?;
        if let Some(users) = &self.users {
            let shown = read(program, socks5::credentials).await?;
            if !shown.is_ok_and(|shown| users.know(&shown)) {
                return Ok(Err(socks5::judged(false).to_vec()));
            }
            program.write_all(&socks5::judged(true)).await?;
        }
        let refused = |malformed: Malformed| socks5::replied(malformed.into()).to_vec();
        Ok(read(program, socks5::request).await?.map_err(refused))
    }

    async fn http(&self, mut program: TcpStream) -> Result<(OutwardFlow, TcpStream), Ended> {
        let asked = match timeout(HANDSHAKE, read(&mut program, http_connect::head)).await {
            Err(_) => return Err(farewell_http(program, 408, "the request did not come in time").await),
            Ok(Err(ended)) => return Err(ended),
            Ok(Ok(Err(refused))) => return Err(farewell_http(program, refused.status(), &refused.to_string()).await),
            Ok(Ok(Ok(asked))) => asked,
        };
        if let Some(users) = &self.users
            && !asked.credentials.is_some_and(|shown| users.know(&shown))
        {
            return Err(farewell_http(program, 407, "name and password are needed").await);
        }
        match self.outward.connect(&asked.target).await {
            Ok(flow) => {
                program.write_all(ESTABLISHED).await?;
                Ok((flow, program))
            }
            Err(error) => {
                let status = match &error {
                    NotConnected::NoSession => 503,
                    NotConnected::TimedOut => 504,
                    NotConnected::Broke(_) => 502,
                    NotConnected::Refused { status, .. } if status.is_client_error() => status.as_u16(),
                    NotConnected::Refused { status, .. } if status.is_server_error() => status.as_u16(),
                    NotConnected::Refused { .. } => 502,
                };
                Err(farewell_http(program, status, &error.to_string()).await)
            }
        }
    }
}

/// The next message of a program, by the decoder that knows it; what follows stays with the kernel, for the flow.
///
/// The decoder sets the limit of how much is read.
async fn read<T, E>(
    program: &mut TcpStream,
    decode: impl Fn(&[u8]) -> Result<Option<(T, usize)>, E>,
) -> Result<Result<T, E>, Ended> {
    let (mut message, mut chunk) = (Vec::new(), [0; READ_BYTES]);
    loop {
        let came = program.peek(&mut chunk).await?;
        if came == 0 {
            return Err(Ended::Early);
        }
        let before = message.len();
        message.extend_from_slice(&chunk[..came]);
        let decoded = decode(&message);
        let taken = match &decoded {
            Ok(Some((_, length))) => length.saturating_sub(before),
            Ok(None) | Err(_) => came,
        };
        program.read_exact(&mut chunk[..taken]).await?;
        match decoded {
            Ok(None) => {}
            Ok(Some((value, _))) => return Ok(Ok(value)),
            Err(error) => return Ok(Err(error)),
        }
    }
}

async fn farewell_http(program: TcpStream, status: u16, why: &str) -> Ended {
    farewell(program, &http_connect::refusal(status, why), why).await
}

/// Sends a program away with `words`, which it is given time to read.
async fn farewell(mut program: TcpStream, words: &[u8], why: &str) -> Ended {
    let read = async {
        program.write_all(words).await?;
        program.shutdown().await?;
        // What comes unread before the end would be answered by a reset, which takes the words away again.
        let (mut thrown, mut chunk) = (0, [0; READ_BYTES]);
        while thrown < FAREWELL_BYTES_MAX {
            match program.read(&mut chunk).await? {
                0 => break,
                count => thrown += count,
            }
        }
        io::Result::Ok(())
    };
    // Whether it was read is its own affair.
    let _ = timeout(FAREWELL, read).await;
    Ended::Refused(why.to_owned())
}

#[cfg(test)]
mod tests;
