//! What the kernel dropped before our UDP socket, as it says in `/proc/net/udp` and `udp6`; and the way to lose less.

use std::fs;

use super::endpoint::SOCKET_BUFFER;
use crate::ledger::{Ledger, Place, Reason};

/// The kernel's count of one socket. It needs no privilege.
#[derive(Debug)]
pub struct SocketLosses {
    inode: u64,
    counted: u64,
}

impl SocketLosses {
    /// The count of `endpoint`'s socket, `None` where there is no `/proc` to read.
    #[must_use]
    pub fn of(endpoint: &quinn::Endpoint) -> Option<Self> {
        let port = endpoint.local_addr().ok()?.port();
        let own: Vec<u64> =
            fs::read_dir("/proc/self/fd").ok()?.flatten().filter_map(|entry| inode_of(&entry)).collect();
        let inode = sockets().find(|socket| socket.port == port && own.contains(&socket.inode))?.inode;
        Some(Self { inode, counted: 0 })
    }

    /// Tells the ledger what was dropped since the last time, and says how many that are.
    pub fn settle(&mut self, ledger: &Ledger) -> u64 {
        let Some(now) = sockets().find(|socket| socket.inode == self.inode) else { return 0 };
        let more = now.drops.saturating_sub(self.counted);
        self.counted = now.drops;
        ledger.enter(Place::Socket, more);
        ledger.lose(Place::Socket, Reason::ReceiveOverflow, more);
        more
    }
}

/// What a user can do against such losses; `None` when the host allows buffers as large as we ask for.
#[must_use]
pub fn larger_buffers_hint() -> Option<String> {
    let allowed: usize = fs::read_to_string("/proc/sys/net/core/rmem_max").ok()?.trim().parse().ok()?;
    (allowed < SOCKET_BUFFER).then(|| {
        format!(
            "the kernel dropped packets because this host allows sockets a receive buffer of {} KiB only; allow more with \
             `sysctl -w net.core.rmem_max={SOCKET_BUFFER} net.core.wmem_max={SOCKET_BUFFER}` and start again",
            allowed / 1024
        )
    })
}

/// A line of the kernel's tables.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    port: u16,
    inode: u64,
    drops: u64,
}

fn sockets() -> impl Iterator<Item = Line> {
    let tables = ["/proc/net/udp", "/proc/net/udp6"].into_iter();
    tables.flat_map(|path| lines(&fs::read_to_string(path).unwrap_or_default()))
}

/// Reads a table; a line that is not as the kernel writes it is passed over, as its heading is.
fn lines(table: &str) -> Vec<Line> {
    let line = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let (_, port) = columns.nth(1)?.rsplit_once(':')?;
        let inode = columns.nth(7)?.parse().ok()?;
        let drops = columns.nth(2)?.parse().ok()?;
        Some(Line { port: u16::from_str_radix(port, 16).ok()?, inode, drops })
    };
    table.lines().filter_map(line).collect()
}

fn inode_of(descriptor: &fs::DirEntry) -> Option<u64> {
    let target = fs::read_link(descriptor.path()).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quic::{
        endpoint,
        testbed::{Ca, soon},
    };

    #[test]
    fn the_kernels_table_is_read_by_its_columns() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref \
                     pointer drops\n 1234: 00000000000000000000000000000000:1D13 00000000000000000000000000000000:0000 07 \
                     00000000:00000000 00:00000000 00000000  1000        0 98765 2 0000000000000000 42\n nonsense\n";
        assert_eq!(lines(table), [Line { port: 7443, inode: 98765, drops: 42 }]);
    }

    #[tokio::test]
    async fn what_the_kernel_drops_before_the_socket_is_counted_once() {
        let relay = endpoint::listen("127.0.0.1:0".parse().unwrap(), Ca::new().relay_tls()).unwrap();
        let mut losses = SocketLosses::of(&relay).unwrap();
        let ledger = Ledger::default();
        assert_eq!(losses.settle(&ledger), 0);
        let flood = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        flood.connect(relay.local_addr().unwrap()).unwrap();
        let mut sent = 0;
        let more = soon(async {
            loop {
                // Nothing is awaited, so that nobody reads meanwhile.
                for _ in 0..2000 {
                    flood.send(&[0; 1200]).unwrap();
                }
                sent += 2000;
                match losses.settle(&ledger) {
                    0 => {}
                    more => break more,
                }
            }
        })
        .await;
        assert!(more < sent, "{more}");
        assert_eq!(losses.settle(&ledger), 0, "what was counted is not counted again");
        assert_eq!(ledger.sums().to_string(), format!("socket receive_overflow {more}"));
    }
}
