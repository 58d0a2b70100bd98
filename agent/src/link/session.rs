//! A CONNECT-IP session with a relay, seen from the agent: capsules, packets, and the flows that the relay opens.
//!
//! Owns what crosses one session. Where a flow leads is `service`'s; packets go to and come from the device.

use std::{
    collections::VecDeque,
    net::Ipv6Addr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode};
use ipnet::IpNet;
use tokio::{
    task::yield_now,
    time::{interval, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{Instrument as _, debug, info, info_span};
use underpass_shared::{
    ledger::{Place, Reason},
    packet::{
        IpView,
        icmp::{self, Allowance},
    },
    prefix::ProjectPrefix,
    quic::{
        capsules::{CAPSULE_PACKET_BYTES_MAX, CapsuleReader, CapsuleWriter, CapsulesError, NotSent, send_packet},
        datagrams::{Datagrams, Receiver, SendError},
        endpoint::RELAY_STREAMS,
        http3::{self, StreamError},
        lane,
        streams::StreamLimit,
    },
    wire::{
        capsule::Capsule,
        connect_ip::AddressAssign,
        datagram,
        preface::{self, Host, RefusedCode},
    },
};

use super::{ANSWER, Link, LinkError};
use crate::{
    clock,
    config::Lane,
    device::{BATCH_PACKETS, Device, DeviceError},
    node::{
        publish::{Caller, Published},
        routes::Routes,
    },
    service,
};

/// How often the ledger is told what QUIC has sent.
const SETTLE: Duration = Duration::from_secs(5);

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// The relay asked us to go elsewhere, and named these relays; flows in flight live on.
    Drained(Vec<String>),
    /// We were asked to stop; flows in flight live on.
    Stopped,
    /// The relay ended the session, or the connection broke; the text says which.
    Lost(String),
    /// Packets can appear nowhere any more.
    NoDevice(DeviceError),
}

/// An open session. Flows that the relay opened live until their own ends, or until the link is dropped.
#[derive(Debug)]
pub struct Session {
    connection: quinn::Connection,
    id: u64,
    address: Ipv6Addr,
    /// What the relay has said so far.
    routes: Routes,
    reader: CapsuleReader,
    writer: CapsuleWriter,
    datagrams: Datagrams,
    incoming: Receiver,
    flows: TaskTracker,
    /// Limits the errors that the device is told, counted from the session's beginning.
    errors: Allowance,
    since: Instant,
    _accepting: Option<AbortOnDropHandle<()>>,
}

impl Link {
    /// Asks the relay for an IP session, and waits until it has said which address is ours.
    ///
    /// # Errors
    /// [`LinkError::Refused`] with the relay's reason, or what went wrong on the way.
    pub async fn open_session(&self, lane: Lane, published: Arc<Published>) -> Result<Session, LinkError> {
        http3::extended_connect_offered(&self.requests)
            .await
            .map_err(|source| LinkError::NoRelay { relay: self.relay.clone(), source })?;
        let mut request = http3::connect_ip_request();
        if lane == Lane::Auto {
            let offer = HeaderValue::try_from(preface::offer()).expect("digits and commas make a header value");
            request.headers_mut().insert(preface::LANE_HEADER, offer);
        }
        let datagrams = Datagrams::spawn(self.connection.clone(), Arc::clone(&self.ledger));
        let (stream, incoming, streams) = self
            .in_time(async {
                let mut stream = self.send(request).await?;
                let id = stream.id().into_inner();
                let incoming = datagrams.register(id).expect("a link has one session");
                let response = stream.recv_response().await.map_err(|source| self.broke(source))?;
                if response.status() != StatusCode::OK {
                    self.read::<()>(response.status(), &mut stream).await?;
                    return Err(self.protocol("a refusal without a reason"));
                }
                Ok((stream, incoming, response.headers().contains_key(preface::LANE_HEADER)))
            })
            .await?;
        let id = stream.id().into_inner();
        let (send, receive) = stream.split();
        let mut reader = CapsuleReader::from(receive);
        let (address, routes) = match timeout(ANSWER, assigned(&mut reader)).await {
            Ok(Ok(Some(assigned))) => assigned,
            Ok(Ok(None)) => return Err(self.protocol("it assigned no IPv6 address")),
            Ok(Err(CapsulesError::Stream(source))) => return Err(self.broke(source)),
            Ok(Err(CapsulesError::Capsule(_))) => return Err(self.protocol("a malformed capsule")),
            Err(_) => return Err(LinkError::TimedOut { relay: self.relay.clone() }),
        };
        let flows = TaskTracker::new();
        let accepting = streams.then(|| {
            let accept = accept(self.connection.clone(), (id, address), published, flows.clone());
            AbortOnDropHandle::new(tokio::spawn(accept.in_current_span()))
        });
        Ok(Session {
            connection: self.connection.clone(),
            id,
            address,
            routes,
            reader,
            writer: send.into(),
            datagrams,
            incoming,
            flows,
            errors: Allowance::default(),
            since: clock::instant(),
            _accepting: accepting,
        })
    }

    fn protocol(&self, what: &'static str) -> LinkError {
        LinkError::Protocol { relay: self.relay.clone(), what }
    }
}

impl Session {
    /// The agent's own address in the overlay.
    #[must_use]
    pub fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// The flows of the stream lane that are under way.
    #[must_use]
    pub fn flows(&self) -> TaskTracker {
        self.flows.clone()
    }

    /// Moves capsules and packets until the session ends or `stop` is cancelled.
    pub async fn live(mut self, device: &mut Device, stop: &CancellationToken) -> End {
        let mut waiting = VecDeque::new();
        let end = self.pump(device, &mut waiting, stop).await;
        self.lose(waiting.len());
        if matches!(end, End::Drained(_) | End::Stopped) {
            // The relay learns of it, chooses us no more, and lets flows in flight finish.
            let _ = self.writer.finish().await;
        }
        info!(packets = %device.crossed(), lost = %self.datagrams.ledger().sums(), "session ended");
        end
    }

    /// `waiting` are the frames that the device gave and the connection has no room for yet; while there are any, the
    /// device waits too, and the host's own queue behind it.
    async fn pump(&mut self, device: &mut Device, waiting: &mut VecDeque<Bytes>, stop: &CancellationToken) -> End {
        let prefix = datagram::encode(self.id, &[]);
        let mut arrived = Vec::with_capacity(BATCH_PACKETS);
        let mut settle = interval(SETTLE);
        loop {
            tokio::select! {
                capsule = self.reader.next() => match capsule {
                    Ok(Some(Capsule::Datagram(payload))) => self.take(payload, device),
                    Ok(Some(Capsule::Drain(drain))) => return End::Drained(drain.alternatives().to_vec()),
                    Ok(Some(capsule)) => if let Some(end) = self.handle(&capsule) {
                        return end;
                    },
                    Ok(None) => return End::Lost("the relay ended the session".to_owned()),
                    Err(error) => return self.lost(&error),
                },
                1.. = self.incoming.recv_many(&mut arrived, BATCH_PACKETS) => {
                    device.deliver(&self.routes, &mut arrived);
                    yield_now().await;
                }
                sent = outbound((device, &self.routes), &self.datagrams, &prefix, waiting) => {
                    match sent {
                        Ok(sent) => device.count_sent(sent),
                        Err(error) => return End::NoDevice(error),
                    }
                    if let Err(error) = self.send(device, waiting).await {
                        return self.lost(&error);
                    }
                    // Once a batch the connection puts what it was given on the wire.
                    yield_now().await;
                }
                _ = settle.tick() => self.datagrams.settle(),
                () = stop.cancelled() => return End::Stopped,
            }
        }
    }

    /// Takes what the relay says of addresses and routes; the end of the session when it takes ours back.
    fn handle(&mut self, capsule: &Capsule) -> Option<End> {
        match capsule {
            Capsule::AddressAssign(assign) => {
                self.routes.set_assigned(assign);
                // Whatever stands at the old address is of no use any more.
                let is_lost = own_address(assign) != Some(self.address);
                is_lost.then(|| End::Lost("the relay took the address back".to_owned()))
            }
            Capsule::RouteAdvertisement(advertised) => {
                self.routes.set_advertised(advertised);
                None
            }
            // Nobody has asked us for an address, and we have none to give; the others have had their turn.
            Capsule::AddressRequest(_) | Capsule::Datagram(_) | Capsule::Drain(_) => None,
        }
    }

    /// Takes a packet that came as a capsule.
    fn take(&self, payload: Bytes, device: &mut Device) {
        match datagram::decode_payload(payload) {
            Ok(packet) => device.deliver(&self.routes, &mut vec![packet]),
            Err(_) => {
                self.datagrams.ledger().enter(Place::QuicReceive, 1);
                self.datagrams.ledger().lose(Place::QuicReceive, Reason::Malformed, 1);
            }
        }
    }

    /// Sends what waits, until the connection has no more room.
    async fn send(&mut self, device: &mut Device, waiting: &mut VecDeque<Bytes>) -> Result<(), StreamError> {
        loop {
            let before = waiting.len();
            let stopped = self.datagrams.send_frames(waiting);
            device.count_sent(before - waiting.len());
            match stopped {
                None | Some(SendError::Full) => return Ok(()),
                Some(SendError::TooLarge) => {
                    let Some(frame) = waiting.pop_front() else { continue };
                    match send_packet(&self.datagrams, &mut self.writer, &frame).await? {
                        Ok(()) => device.count_sent(1),
                        Err(NotSent::TooBig) if self.errors.take(self.since.elapsed()) => {
                            device.deliver(&self.routes, &mut self.too_big(frame).into_iter().collect());
                        }
                        Err(NotSent::TooBig | NotSent::Lost) => {}
                    }
                }
                Some(SendError::Closed) => {
                    self.lose(waiting.len());
                    waiting.clear();
                    return Ok(());
                }
            }
        }
    }

    /// Counts packets that will not be sent any more.
    fn lose(&self, packets: usize) {
        self.datagrams.ledger().enter(Place::QuicSend, packets as u64);
        self.datagrams.ledger().lose(Place::QuicSend, Reason::NoSession, packets as u64);
    }

    /// Packet Too Big for a packet of the device's, as from the relay, which is the next hop.
    fn too_big(&self, frame: Bytes) -> Option<Bytes> {
        let packet = datagram::decode_payload(datagram::decode(frame).ok()?.1).ok()?;
        let relay = ProjectPrefix::of(self.address)?.relay_address();
        let takes = self.datagrams.packet_bytes_max(self.id).unwrap_or(0).max(CAPSULE_PACKET_BYTES_MAX);
        let takes = u16::try_from(takes).unwrap_or(u16::MAX);
        icmp::too_big(&IpView::parse(&packet).ok()?, relay.into(), takes).map(BytesMut::freeze)
    }

    /// What ended the session: the relay's own words where it closed the connection, else what was noticed.
    fn lost(&self, noticed: &dyn std::error::Error) -> End {
        End::Lost(match self.connection.close_reason() {
            Some(quinn::ConnectionError::ApplicationClosed(close)) if !close.reason.is_empty() => {
                let words = String::from_utf8_lossy(&close.reason);
                format!("the relay closed the connection: {}", words.replace(char::is_control, " "))
            }
            Some(quinn::ConnectionError::TimedOut) => "the relay was silent for too long".to_owned(),
            Some(other) => other.to_string(),
            None => noticed.to_string(),
        })
    }
}

/// Waits for room for what waits, else for the device to have something. Says how many frames were sent meanwhile.
async fn outbound(
    (device, routes): (&mut Device, &Routes),
    datagrams: &Datagrams,
    prefix: &[u8],
    waiting: &mut VecDeque<Bytes>,
) -> Result<usize, DeviceError> {
    let Some(frame) = waiting.front() else {
        return device.collect(routes, prefix, waiting).await.map(|()| 0);
    };
    // Where it cannot be sent at all, `send` says why.
    let sent = datagrams.send_when_room(frame.clone()).await.is_ok();
    Ok(if sent { waiting.drain(..1).len() } else { 0 })
}

/// The agent's address, and what the relay has said until it was told.
async fn assigned(reader: &mut CapsuleReader) -> Result<Option<(Ipv6Addr, Routes)>, CapsulesError> {
    let mut routes = Routes::default();
    while let Some(capsule) = reader.next().await? {
        match capsule {
            Capsule::RouteAdvertisement(advertised) => routes.set_advertised(&advertised),
            Capsule::AddressAssign(assign) => {
                routes.set_assigned(&assign);
                if let Some(address) = own_address(&assign) {
                    return Ok(Some((address, routes)));
                }
            }
            Capsule::Datagram(_) | Capsule::AddressRequest(_) | Capsule::Drain(_) => {}
        }
    }
    Ok(None)
}

/// The agent's own among the addresses assigned: the first IPv6 network's first address plus one (see `prefix`).
fn own_address(assign: &AddressAssign) -> Option<Ipv6Addr> {
    assign.entries().iter().find_map(|entry| match entry.prefix {
        IpNet::V6(net) => Some(Ipv6Addr::from(u128::from(net.network()) | u128::from(net.prefix_len() < 128))),
        IpNet::V4(_) => None,
    })
}

/// Takes the flows that the relay opens, and raises the limit before it is reached.
async fn accept(
    connection: quinn::Connection,
    session: (u64, Ipv6Addr),
    published: Arc<Published>,
    flows: TaskTracker,
) {
    let limit = Arc::new(Mutex::new(StreamLimit::new(RELAY_STREAMS)));
    while let Ok((send, receive)) = connection.accept_bi().await {
        if let Some(raised) = limit.lock().unwrap_or_else(PoisonError::into_inner).handle_opened() {
            connection.set_max_concurrent_bi_streams(raised.into());
        }
        let (limit, published) = (Arc::clone(&limit), Arc::clone(&published));
        let flow = async move {
            serve(send, receive, session, &published).await;
            limit.lock().unwrap_or_else(PoisonError::into_inner).handle_closed();
        };
        flows.spawn(flow.instrument(info_span!("flow")));
    }
}

/// Joins one flow to the service it is for, in a session and at the address that is ours there.
async fn serve(
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    (session, own): (u64, Ipv6Addr),
    published: &Published,
) {
    let (preface, mut flow) = match lane::accept_flow(send, receive).await {
        Ok(accepted) => accepted,
        Err(error) => return debug!(%error, "flow refused"),
    };
    let refusal = if preface.session != session {
        Some("the flow names another session")
    } else if preface.host != Host::Loopback {
        Some("hosts behind the agent are not offered")
    } else {
        None
    };
    if let Some(reason) = refusal {
        // Whether the relay still listens changes nothing here.
        let _ = flow.refuse(RefusedCode::NotPublished, reason).await;
        return;
    }
    let caller = Caller::of(preface.client.map(|client| client.ip()), own);
    let dialled = tokio::select! {
        dialled = service::dial(published, preface.port, caller) => dialled,
        () = flow.abandoned() => return,
    };
    match dialled {
        Err(refused) => {
            debug!(port = preface.port, reason = %refused, "flow refused");
            let _ = flow.refuse(refused.code, refused.reason.as_str()).await;
        }
        Ok(service) => {
            let Ok(stream) = flow.connected().await else { return };
            let copied = lane::copy(stream, service).await;
            debug!(
                port = preface.port,
                bytes_in = copied.bytes_to_tcp,
                bytes_out = copied.bytes_to_lane,
                error = ?copied.error,
                "flow ended"
            );
        }
    }
}
