//! A CONNECT-IP session with a relay, seen from the agent: capsules, packets, and the flows that the relay opens.
//!
//! Owns what crosses one session. Where a flow leads is `service`'s; packets go to and come from the device.

use std::{
    net::Ipv6Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode};
use ipnet::IpNet;
use tokio::{
    sync::watch,
    time::{interval, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{Instrument as _, debug, info_span};
use underpass_shared::{
    ledger::{Place, Reason},
    packet::{
        IpView,
        icmp::{self, Allowance},
    },
    prefix::ProjectPrefix,
    quic::{
        capsules::{CAPSULE_PACKET_BYTES_MAX, CapsuleReader, CapsuleWriter, CapsulesError, NotSent, send_packet},
        datagrams::{Datagrams, Receiver},
        endpoint::RELAY_STREAMS,
        http3, lane,
        streams::StreamLimit,
    },
    wire::{
        capsule::Capsule,
        connect_ip::AddressAssign,
        datagram::{self, Framer},
        preface::{self, Host, RefusedCode},
    },
};

use super::{ANSWER, Link, LinkError};
use crate::{
    clock,
    config::Lane,
    device::user::UserDevice,
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
}

/// An open session. Flows that the relay opened live until their own ends, or until the link is dropped.
#[derive(Debug)]
pub struct Session {
    connection: quinn::Connection,
    id: u64,
    address: Ipv6Addr,
    /// What the relay has said so far; whoever sets a host up waits for more.
    routes: watch::Sender<Routes>,
    reader: CapsuleReader,
    writer: CapsuleWriter,
    datagrams: Datagrams,
    incoming: Receiver,
    flows: TaskTracker,
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
            routes: watch::Sender::new(routes),
            reader,
            writer: send.into(),
            datagrams,
            incoming,
            flows,
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

    /// The session's addresses, and where packets may go; both change while it lives.
    #[must_use]
    pub fn routes(&self) -> watch::Receiver<Routes> {
        self.routes.subscribe()
    }

    /// The flows of the stream lane that are under way.
    #[must_use]
    pub fn flows(&self) -> TaskTracker {
        self.flows.clone()
    }

    /// Moves capsules and packets until the session ends or `stop` is cancelled.
    pub async fn live(mut self, device: &mut UserDevice, stop: &CancellationToken) -> End {
        let mut framer = Framer::default();
        let mut errors = Allowance::default();
        let since = clock::instant();
        let mut settle = interval(SETTLE);
        loop {
            tokio::select! {
                capsule = self.reader.next() => match capsule {
                    Ok(Some(Capsule::Datagram(payload))) => match datagram::decode_payload(payload) {
                        Ok(packet) => self.admit(packet, device),
                        Err(_) => {
                            self.datagrams.ledger().enter(Place::QuicReceive, 1);
                            self.datagrams.ledger().lose(Place::QuicReceive, Reason::Malformed, 1);
                        }
                    },
                    Ok(Some(Capsule::Drain(drain))) => {
                        let _ = self.writer.finish().await;
                        return End::Drained(drain.alternatives().to_vec());
                    }
                    Ok(Some(Capsule::AddressAssign(assign))) => {
                        self.routes.send_modify(|routes| routes.set_assigned(&assign));
                        if own_address(&assign) != Some(self.address) {
                            // Whatever stands at the old address is of no use any more.
                            let _ = self.writer.finish().await;
                            return End::Lost("the relay took the address back".to_owned());
                        }
                    }
                    Ok(Some(Capsule::RouteAdvertisement(advertised))) => {
                        self.routes.send_modify(|routes| routes.set_advertised(&advertised));
                    }
                    // Nobody has asked us for an address, and we have none to give.
                    Ok(Some(Capsule::AddressRequest(_))) => {}
                    Ok(None) => return End::Lost("the relay ended the session".to_owned()),
                    Err(error) => return self.lost(&error),
                },
                Some(packet) = self.incoming.recv() => self.admit(packet, device),
                Some(packet) = device.recv() => {
                    if !self.agrees(self.routes.borrow().lead(&packet)) {
                        continue;
                    }
                    let frame = framer.frame(self.id, &packet).freeze();
                    match send_packet(&self.datagrams, &mut self.writer, &frame).await {
                        Ok(Ok(()) | Err(NotSent::Lost)) => {}
                        Ok(Err(NotSent::TooBig)) if errors.take(since.elapsed()) => {
                            if let Some(answer) = self.too_big(&packet) {
                                device.push(answer.freeze());
                            }
                        }
                        Ok(Err(NotSent::TooBig)) => {}
                        Err(error) => return self.lost(&error),
                    }
                }
                _ = settle.tick() => self.datagrams.settle(),
                () = stop.cancelled() => {
                    // The relay learns of it, chooses us no more, and lets flows in flight finish.
                    let _ = self.writer.finish().await;
                    return End::Stopped;
                }
            }
        }
    }

    /// Hands a packet of the relay's to the device, if it is one for us.
    fn admit(&self, packet: Bytes, device: &UserDevice) {
        if self.agrees(self.routes.borrow().admit(&packet)) {
            device.push(packet);
        }
    }

    fn agrees(&self, verdict: Result<(), Reason>) -> bool {
        let ledger = self.datagrams.ledger();
        ledger.enter(Place::Policy, 1);
        match verdict {
            Ok(()) => ledger.deliver(Place::Policy, 1),
            Err(reason) => ledger.lose(Place::Policy, reason, 1),
        }
        verdict.is_ok()
    }

    /// Packet Too Big for a packet of the device's, as from the relay, which is the next hop.
    fn too_big(&self, packet: &[u8]) -> Option<BytesMut> {
        let relay = ProjectPrefix::of(self.address)?.relay_address();
        let takes = self.datagrams.packet_bytes_max(self.id).unwrap_or(0).max(CAPSULE_PACKET_BYTES_MAX);
        icmp::too_big(&IpView::parse(packet).ok()?, relay.into(), u16::try_from(takes).unwrap_or(u16::MAX))
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
