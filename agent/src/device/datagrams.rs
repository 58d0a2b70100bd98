//! Datagrams that arrive as packets, joined to loopback services: a flow for each client and port, with a socket of its own.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tracing::debug;
use underpass_shared::{
    ledger::{Ledger, Place, Reason},
    netstack::{Datagram, DatagramReceiver, DatagramSender},
};

use crate::node::publish::{Caller, Published};

/// How many flows there are at once, each with a socket and [`ANSWER_BYTES_MAX`]; beyond it the one that was silent for
/// longest gives way, as most clients ask once and are answered.
const FLOWS_MAX: usize = 1024;

/// Datagrams of one flow that wait for its socket; further ones are lost.
const WAITING_MAX: usize = 32;

/// How long a flow may be silent in both directions: the least that RFC 4787 §4.3 allows who does not know what it carries.
const IDLE: Duration = Duration::from_secs(120);

/// The longest answer, in bytes: no lane takes more in one packet, and nothing on the way fragments.
const ANSWER_BYTES_MAX: usize = 2048;

/// A client, and the port that it asked for.
type Ends = (SocketAddr, SocketAddr);

/// The flows of one netstack.
struct Flows {
    /// The agent's address.
    own: Ipv6Addr,
    published: Arc<Published>,
    sender: DatagramSender,
    ledger: Arc<Ledger>,
    flow_by_ends: HashMap<Ends, Flow>,
    /// The flows by when a datagram of the client's last came, oldest first.
    by_use: BTreeMap<u64, Ends>,
    uses: u64,
    tasks: JoinSet<(Ends, u64)>,
}

struct Flow {
    queue: mpsc::Sender<Datagram>,
    used: u64,
    /// Tells a flow from a later one between the same ends.
    begun: u64,
    task: AbortHandle,
}

/// Serves what comes out of the netstack at `own` until that ends.
pub(super) async fn serve(
    own: Ipv6Addr,
    mut receiver: DatagramReceiver,
    sender: DatagramSender,
    published: Arc<Published>,
    ledger: Arc<Ledger>,
) {
    let mut flows = Flows {
        own,
        published,
        sender,
        ledger,
        flow_by_ends: HashMap::new(),
        by_use: BTreeMap::new(),
        uses: 0,
        tasks: JoinSet::new(),
    };
    loop {
        tokio::select! {
            datagram = receiver.recv() => match datagram {
                Some(datagram) => flows.handle(datagram),
                None => return,
            },
            Some(ended) = flows.tasks.join_next() => {
                if let Ok((ends, begun)) = ended
                    && flows.flow_by_ends.get(&ends).is_some_and(|flow| flow.begun == begun)
                {
                    flows.end(ends);
                }
            }
        }
    }
}

impl Flows {
    fn handle(&mut self, datagram: Datagram) {
        let ends = (datagram.remote(), datagram.local());
        if !self.flow_by_ends.contains_key(&ends) {
            let caller = Caller::of(Some(datagram.remote().ip()), self.own);
            let Some(port) = self.published.local(datagram.local().port(), caller) else {
                return self.sender.refuse(datagram);
            };
            self.begin(ends, port);
        }
        self.uses += 1;
        let Some(flow) = self.flow_by_ends.get_mut(&ends) else { return };
        self.by_use.remove(&flow.used);
        flow.used = self.uses;
        self.by_use.insert(self.uses, ends);
        if flow.queue.try_send(datagram).is_err() {
            self.ledger.lose(Place::Flow, Reason::FlowFull, 1);
        }
    }

    fn begin(&mut self, ends: Ends, port: u16) {
        if self.flow_by_ends.len() >= FLOWS_MAX
            && let Some((_, &oldest)) = self.by_use.first_key_value()
        {
            self.end(oldest);
        }
        self.uses += 1;
        let (begun, sender, ledger) = (self.uses, self.sender.clone(), Arc::clone(&self.ledger));
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let task = self.tasks.spawn(async move {
            if let Err(error) = join(waiting, port, &sender, &ledger).await {
                debug!(port, %error, "datagrams could not be passed on");
            }
            (ends, begun)
        });
        self.by_use.insert(begun, ends);
        self.flow_by_ends.insert(ends, Flow { queue, used: begun, begun, task });
    }

    fn end(&mut self, ends: Ends) {
        if let Some(flow) = self.flow_by_ends.remove(&ends) {
            self.by_use.remove(&flow.used);
            flow.task.abort();
        }
    }
}

/// Passes datagrams between a client and the loopback service on `port` until neither says anything: IPv4 first, then IPv6,
/// as services listen on either.
async fn join(
    mut waiting: mpsc::Receiver<Datagram>,
    port: u16,
    sender: &DatagramSender,
    ledger: &Ledger,
) -> io::Result<()> {
    let mut socket = dial(Ipv4Addr::LOCALHOST.into(), port).await?;
    let mut other = Some(IpAddr::from(Ipv6Addr::LOCALHOST));
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let Some(mut last) = waiting.recv().await else { return Ok(()) };
    let mut sent = socket.send(last.payload()).await;
    loop {
        let heard = match sent {
            Ok(_) => {
                let hear = async {
                    tokio::select! {
                        next = waiting.recv() => Ok(Heard::Client(next)),
                        length = socket.recv(&mut answer) => length.map(Heard::Service),
                    }
                };
                let Ok(heard) = timeout(IDLE, hear).await else { return Ok(()) };
                heard
            }
            Err(error) => Err(error),
        };
        sent = Ok(0);
        match heard {
            Ok(Heard::Client(None)) => return Ok(()),
            Ok(Heard::Client(Some(next))) => {
                last = next;
                sent = socket.send(last.payload()).await;
            }
            Ok(Heard::Service(length)) if length < ANSWER_BYTES_MAX => {
                other = None;
                sender.send(last.local(), last.remote(), Bytes::copy_from_slice(&answer[..length]));
            }
            // It may have been longer, and was cut.
            Ok(Heard::Service(_)) => ledger.lose(Place::Flow, Reason::TooBig, 1),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let Some(address) = other.take() else { return refuse(sender, last) };
                let Ok(second) = dial(address, port).await else { return refuse(sender, last) };
                socket = second;
                sent = socket.send(last.payload()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Nothing listens there.
fn refuse(sender: &DatagramSender, last: Datagram) -> io::Result<()> {
    sender.refuse(last);
    Ok(())
}

enum Heard {
    Client(Option<Datagram>),
    /// An answer of so many bytes.
    Service(usize),
}

async fn dial(loopback: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((loopback, 0)).await?;
    socket.connect((loopback, port)).await?;
    Ok(socket)
}
