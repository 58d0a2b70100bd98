//! Names of backends → addresses: the host's resolvers are asked over DNS, and answers are kept as long as they say.
//!
//! As the host's own library does it, `/etc/hosts` comes first, search domains count, and changes of both files are seen.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use hickory_resolver::{TokioResolver, config::LookupIpStrategy};
use tokio::sync::Mutex;

use super::dial::ADDRESSES_MAX;
use crate::clock;

/// The answers that are kept, those of both families and those that there is none; then the one used least goes.
const ANSWERS_MAX: u64 = 4_096;

/// The longest that an answer is kept, whatever it says: a mistake in a zone must not outlive the day's work on it.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(3_600);

/// The longest that it is kept that there is no such name: who has just made one waits for it.
const ABSENCE_AGE_MAX: Duration = Duration::from_secs(30);

/// How long one resolver may take before the next is asked; two rounds of two fit into the time to connect.
const QUERY: Duration = Duration::from_secs(2);

/// How often the files are looked at for changes.
const REREAD: Duration = Duration::from_secs(10);

/// What says where names are resolved. Without them nothing is.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// The names of backends, for all workers.
#[derive(Debug, Default)]
pub(super) struct Names {
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    resolver: TokioResolver,
    files: Vec<Vec<u8>>,
    checked: Instant,
}

impl Names {
    /// The addresses of `name`, IPv6 first, with `port`: one at least, [`ADDRESSES_MAX`] of each family at most.
    ///
    /// # Errors
    /// The name does not resolve, or the host does not say how names are.
    pub(super) async fn addresses(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let found = self.resolver().await?.lookup_ip(name).await.map_err(io::Error::other)?;
        let (six, four): (Vec<_>, Vec<_>) = found.iter().partition(std::net::IpAddr::is_ipv6);
        let some = six.into_iter().take(ADDRESSES_MAX).chain(four.into_iter().take(ADDRESSES_MAX));
        let addresses: Vec<_> = some.map(|ip| SocketAddr::new(ip, port)).collect();
        if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) }
    }

    async fn resolver(&self) -> io::Result<TokioResolver> {
        let mut current = self.current.lock().await;
        let now = clock::instant();
        if let Some(known) = current.as_ref().filter(|known| now.saturating_duration_since(known.checked) < REREAD) {
            return Ok(known.resolver.clone());
        }
        let mut files = Vec::new();
        for file in FILES {
            // One that is not there says nothing.
            files.push(tokio::fs::read(file).await.unwrap_or_default());
        }
        let resolver = match &*current {
            Some(known) if known.files == files => known.resolver.clone(),
            _ => build(TokioResolver::builder_tokio().map_err(io::Error::other)?)?,
        };
        *current = Some(Current { resolver: resolver.clone(), files, checked: now });
        Ok(resolver)
    }
}

type Builder = hickory_resolver::ResolverBuilder<hickory_resolver::net::runtime::TokioRuntimeProvider>;

fn build(mut builder: Builder) -> io::Result<TokioResolver> {
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.cache_size = ANSWERS_MAX;
    options.positive_max_ttl = Some(ANSWER_AGE_MAX);
    options.negative_max_ttl = Some(ABSENCE_AGE_MAX);
    options.timeout = QUERY;
    builder.build().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
    };

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use tokio::net::UdpSocket;

    use super::*;

    const A: u16 = 1;

    /// A resolver that answers each question for `A` with 192.0.2.7 for `ttl` seconds, and others with nothing; counts
    /// the former.
    async fn server(ttl: u32) -> (Names, Arc<AtomicUsize>) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                let name_end = 12 + query[12..length].iter().position(|&byte| byte == 0).unwrap() + 1;
                let is_a = query[name_end..name_end + 2] == A.to_be_bytes();
                counter.fetch_add(usize::from(is_a), Relaxed);
                let mut answer = query[..name_end + 4].to_vec();
                // A response with recursion, one question, at most one answer (RFC 1035 §4.1).
                answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
                if is_a {
                    answer.extend([0xc0, 12, 0, 1, 0, 1]);
                    answer.extend(ttl.to_be_bytes());
                    answer.extend([0, 4, 192, 0, 2, 7]);
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        let mut udp = ConnectionConfig::udp();
        udp.port = address.port();
        let servers = vec![NameServerConfig::new(address.ip(), true, vec![udp])];
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let builder = TokioResolver::builder_with_config(config, Default::default());
        let current = Current { resolver: build(builder).unwrap(), files: Vec::new(), checked: clock::instant() };
        (Names { current: Mutex::new(Some(current)) }, count)
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_as_long_as_it_says() {
        for (ttl, asked) in [(60, 1), (0, 3)] {
            let (names, count) = server(ttl).await;
            for _ in 0..3 {
                let found = names.addresses("a.example", 8080).await.unwrap();
                assert_eq!(found, ["192.0.2.7:8080".parse().unwrap()]);
            }
            assert_eq!(count.load(Relaxed), asked, "{ttl} seconds");
        }
    }

    #[tokio::test]
    async fn the_host_s_own_names_are_known() {
        let found = Names::default().addresses("localhost", 1).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
    }
}
