//! Capsules over a session's request stream, as relay and agent read and write them (RFC 9297 §3.1).

use bytes::{Buf, Bytes};

use super::{
    datagrams::{Datagrams, SendError},
    http3::{ClientReceive, ClientSend, Code, ServerReceive, ServerSend, StreamError},
};
use crate::{
    ledger::{Place, Reason},
    wire::{
        capsule::{Capsule, CapsuleError, Decoder},
        datagram,
    },
};

/// The longest packet that goes as a DATAGRAM capsule when it does not fit a QUIC datagram: what every IPv6 link carries
/// (RFC 8200 §5). A longer one is for Packet Too Big.
pub const CAPSULE_PACKET_BYTES_MAX: usize = 1280;

/// Why no more capsules come or go.
#[derive(Debug, thiserror::Error)]
pub enum CapsulesError {
    #[error("the session's stream ended: {0}")]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Capsule(#[from] CapsuleError),
}

/// Reads the peer's capsules. After the peer's breach of protocol the stream is stopped with `H3_MESSAGE_ERROR`.
pub struct CapsuleReader {
    stream: Receive,
    decoder: Decoder,
    chunk: Bytes,
}

/// Writes capsules. Dropped without [`CapsuleWriter::finish`] it resets its direction.
pub struct CapsuleWriter {
    stream: Send,
    finished: bool,
}

enum Receive {
    Relay(ServerReceive),
    Agent(ClientReceive),
}

enum Send {
    Relay(ServerSend),
    Agent(ClientSend),
}

impl From<ServerReceive> for CapsuleReader {
    fn from(stream: ServerReceive) -> Self {
        Self::new(Receive::Relay(stream))
    }
}

impl From<ClientReceive> for CapsuleReader {
    fn from(stream: ClientReceive) -> Self {
        Self::new(Receive::Agent(stream))
    }
}

impl From<ServerSend> for CapsuleWriter {
    fn from(stream: ServerSend) -> Self {
        Self { stream: Send::Relay(stream), finished: false }
    }
}

impl From<ClientSend> for CapsuleWriter {
    fn from(stream: ClientSend) -> Self {
        Self { stream: Send::Agent(stream), finished: false }
    }
}

impl CapsuleReader {
    fn new(stream: Receive) -> Self {
        Self { stream, decoder: Decoder::default(), chunk: Bytes::new() }
    }

    /// The next capsule; `None` when the peer has ended the session. Cancel-safe.
    ///
    /// # Errors
    /// See [`CapsulesError`]; nothing more can be read then.
    pub async fn next(&mut self) -> Result<Option<Capsule>, CapsulesError> {
        loop {
            match self.decoder.decode(&mut self.chunk) {
                Ok(Some(capsule)) => return Ok(Some(capsule)),
                Ok(None) => {}
                Err(error) => return Err(self.refuse(error)),
            }
            match self.stream.data().await? {
                Some(chunk) => self.chunk = chunk,
                None => {
                    return self.decoder.finish().map(|()| None).map_err(|error| self.refuse(error));
                }
            }
        }
    }

    fn refuse(&mut self, error: CapsuleError) -> CapsulesError {
        match &mut self.stream {
            Receive::Relay(stream) => stream.stop_sending(Code::H3_MESSAGE_ERROR),
            Receive::Agent(stream) => stream.stop_sending(Code::H3_MESSAGE_ERROR),
        }
        error.into()
    }
}

impl Receive {
    async fn data(&mut self) -> Result<Option<Bytes>, StreamError> {
        Ok(match self {
            Self::Relay(stream) => stream.recv_data().await?.map(whole),
            Self::Agent(stream) => stream.recv_data().await?.map(whole),
        })
    }
}

fn whole(mut data: impl Buf) -> Bytes {
    data.copy_to_bytes(data.remaining())
}

impl CapsuleWriter {
    /// Sends a capsule, waiting while the peer's window is full. Cancelled, the capsule may or may not go out, but whole.
    ///
    /// # Errors
    /// The peer stopped reading, or the connection ended.
    pub async fn send(&mut self, capsule: &Capsule) -> Result<(), StreamError> {
        match &mut self.stream {
            Send::Relay(stream) => stream.send_data(capsule.to_bytes()).await,
            Send::Agent(stream) => stream.send_data(capsule.to_bytes()).await,
        }
    }

    /// Ends the session from our side.
    ///
    /// # Errors
    /// The peer stopped reading, or the connection ended.
    pub async fn finish(mut self) -> Result<(), StreamError> {
        self.finished = true;
        match &mut self.stream {
            Send::Relay(stream) => stream.finish().await,
            Send::Agent(stream) => stream.finish().await,
        }
    }
}

/// Why a packet was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    #[error("the packet is larger than the path takes, and than goes as a capsule")]
    TooBig,
    #[error("the queue to the peer is full, or the connection has ended")]
    Lost,
}

/// Sends a frame that [`datagram::encode`] or a [`datagram::Framer`] made: as a datagram, or as a DATAGRAM capsule where it
/// does not fit one.
///
/// # Errors
/// The outer one ends the session: the peer reads no more capsules, or the connection ended.
pub async fn send_packet(
    datagrams: &Datagrams,
    capsules: &mut CapsuleWriter,
    frame: &Bytes,
) -> Result<Result<(), NotSent>, StreamError> {
    let payload = match datagrams.send(frame) {
        Ok(()) => return Ok(Ok(())),
        Err(SendError::Full | SendError::Closed) => return Ok(Err(NotSent::Lost)),
        Err(SendError::TooLarge) => capsule_payload(frame),
    };
    let Some(payload) = payload else {
        datagrams.ledger().lose(Place::QuicSend, Reason::TooBig, 1);
        return Ok(Err(NotSent::TooBig));
    };
    let sent = capsules.send(&Capsule::Datagram(payload)).await;
    match sent {
        Ok(()) => datagrams.ledger().deliver(Place::QuicSend, 1),
        Err(_) => datagrams.ledger().lose(Place::QuicSend, Reason::NoSession, 1),
    }
    sent.map(Ok)
}

/// What goes into a DATAGRAM capsule for a frame whose packet fits no datagram; `None` when it is too long for that too.
#[must_use]
pub fn capsule_payload(frame: &Bytes) -> Option<Bytes> {
    let (stream_id, payload) = datagram::decode(frame.clone()).ok()?;
    let packet_bytes = frame.len() - datagram::header_bytes(stream_id);
    (packet_bytes <= CAPSULE_PACKET_BYTES_MAX).then_some(payload)
}

impl Drop for CapsuleWriter {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        match &mut self.stream {
            Send::Relay(stream) => stream.stop_stream(Code::H3_REQUEST_CANCELLED),
            Send::Agent(stream) => stream.stop_stream(Code::H3_REQUEST_CANCELLED),
        }
    }
}

impl std::fmt::Debug for CapsuleReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CapsuleReader").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for CapsuleWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CapsuleWriter").field("finished", &self.finished).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use http::{Method, StatusCode};

    use super::*;
    use crate::{
        quic::{
            http3::{ClientStream, Protocol, ServerStream, connect_ip_request, connect_ip_response},
            testbed::{self, PATH_1280, Pair, pair, pair_over, soon},
        },
        wire::{
            capsule::Drain,
            connect_ip::{AddressAssign, AddressRange, AssignedAddress, RouteAdvertisement},
            preface::{LANE_HEADER, negotiate, offer},
        },
    };

    /// An open CONNECT-IP session; what else must live as long comes last.
    async fn session(pair: &Pair) -> (ServerStream, ClientStream, impl Sized) {
        let (server, mut requests) = testbed::http3(pair).await;
        let mut incoming = testbed::requests(server);
        crate::quic::http3::extended_connect_offered(&requests).await.unwrap();
        let mut request = connect_ip_request();
        request.headers_mut().insert(LANE_HEADER, offer().parse().unwrap());
        let mut client = requests.send_request(request).await.unwrap();
        let (request, mut server) = soon(incoming.recv()).await.unwrap().unwrap();
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(request.extensions().get::<Protocol>(), Some(&Protocol::CONNECT_IP));
        assert_eq!(request.uri().path(), "/.well-known/masque/ip/*/*/");
        let version = negotiate(request.headers()[LANE_HEADER].to_str().unwrap()).unwrap();
        let mut response = connect_ip_response();
        response.headers_mut().insert(LANE_HEADER, version.into());
        server.send_response(response).await.unwrap();
        let response = soon(client.recv_response()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["capsule-protocol"], "?1");
        assert_eq!(response.headers()[LANE_HEADER], "1");
        (server, client, (requests, incoming))
    }

    fn assign() -> Capsule {
        let prefix = "fd00:1:2:3::/96".parse().unwrap();
        Capsule::AddressAssign(AddressAssign::new([AssignedAddress { request_id: 0, prefix }]))
    }

    #[tokio::test]
    async fn a_session_carries_capsules_both_ways_until_it_is_finished() {
        let pair = pair().await;
        let (server, client, _alive) = session(&pair).await;
        let (relay_send, relay_receive) = server.split();
        let (agent_send, agent_receive) = client.split();
        let (mut to_agent, mut from_agent) = (CapsuleWriter::from(relay_send), CapsuleReader::from(relay_receive));
        let (mut to_relay, mut from_relay) = (CapsuleWriter::from(agent_send), CapsuleReader::from(agent_receive));
        let routes = RouteAdvertisement::new([AddressRange::of("fd00:1:2::/48".parse().unwrap())]).unwrap();
        let down = [
            assign(),
            Capsule::RouteAdvertisement(routes),
            Capsule::Datagram(vec![0; 60_000].into()),
            Capsule::Drain(Drain::new(vec!["192.0.2.1:7443".to_owned()]).unwrap()),
        ];
        for capsule in &down {
            to_agent.send(capsule).await.unwrap();
            assert_eq!(soon(from_relay.next()).await.unwrap().as_ref(), Some(capsule));
        }
        let up = Capsule::Datagram(Bytes::from_static(b"\0packet"));
        to_relay.send(&up).await.unwrap();
        assert_eq!(soon(from_agent.next()).await.unwrap(), Some(up));
        to_agent.finish().await.unwrap();
        assert_eq!(soon(from_relay.next()).await.unwrap(), None);
        to_relay.finish().await.unwrap();
        assert_eq!(soon(from_agent.next()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_dropped_writer_does_not_look_like_an_orderly_end() {
        let pair = pair().await;
        let (server, client, _alive) = session(&pair).await;
        let (send, _receive) = server.split();
        let (_send, receive) = client.split();
        let mut writer = CapsuleWriter::from(send);
        writer.send(&assign()).await.unwrap();
        let mut reader = CapsuleReader::from(receive);
        assert_eq!(soon(reader.next()).await.unwrap(), Some(assign()));
        drop(writer);
        let ended = soon(reader.next()).await;
        let code = Code::H3_REQUEST_CANCELLED;
        assert!(
            matches!(&ended, Err(CapsulesError::Stream(StreamError::RemoteTerminate { code: c })) if *c == code),
            "{ended:?}"
        );
    }

    #[tokio::test]
    async fn a_malformed_capsule_stops_the_stream_and_not_the_connection() {
        let pair = pair().await;
        let (server, client, _alive) = session(&pair).await;
        let (_send, receive) = server.split();
        let (mut send, _receive) = client.split();
        send.send_data(Bytes::from_static(&[1, 3, 0, 5, 0])).await.unwrap();
        let mut reader = CapsuleReader::from(receive);
        assert!(matches!(soon(reader.next()).await, Err(CapsulesError::Capsule(_))));
        let stopped = soon(async {
            loop {
                if let Err(error) = send.send_data(Bytes::from_static(b"more")).await {
                    break error;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        let code = Code::H3_MESSAGE_ERROR;
        assert!(matches!(&stopped, StreamError::RemoteTerminate { code: c } if *c == code), "{stopped:?}");
        assert_eq!(pair.relay.close_reason(), None);
    }

    #[tokio::test]
    async fn a_session_that_ends_inside_a_capsule_is_an_error() {
        let pair = pair().await;
        let (server, client, _alive) = session(&pair).await;
        let (_send, receive) = server.split();
        let (mut send, _receive) = client.split();
        send.send_data(Bytes::from_static(&[0, 50, 1, 2, 3])).await.unwrap();
        send.finish().await.unwrap();
        let ended = soon(CapsuleReader::from(receive).next()).await;
        assert!(matches!(ended, Err(CapsulesError::Capsule(CapsuleError::Truncated))), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_packet_of_the_ipv6_minimum_arrives_whatever_the_path_takes_and_a_longer_one_is_said_to_be() {
        let (pair, _path) = pair_over(PATH_1280).await;
        let (server, client, _alive) = session(&pair).await;
        let id = client.id().into_inner();
        let (relay, agent) = (
            Datagrams::spawn(pair.relay.clone(), Arc::default()),
            Datagrams::spawn(pair.agent.clone(), Arc::default()),
        );
        let mut datagrams = agent.register(id).unwrap();
        let (send, _receive) = server.split();
        let (_send, receive) = client.split();
        let (mut writer, mut reader) = (CapsuleWriter::from(send), CapsuleReader::from(receive));
        while relay.packet_bytes_max(id).unwrap() >= CAPSULE_PACKET_BYTES_MAX {
            let _ = relay.send(&datagram::encode(id, &[0; CAPSULE_PACKET_BYTES_MAX]));
            let _ = tokio::time::timeout(Duration::from_millis(20), pair.agent.closed()).await;
        }
        let packet = Bytes::from(vec![6; CAPSULE_PACKET_BYTES_MAX]);
        let frame = datagram::encode(id, &packet);
        for _ in 0..50 {
            assert_eq!(send_packet(&relay, &mut writer, &frame).await.unwrap(), Ok(()));
            let arrived = soon(async {
                tokio::select! {
                    packet = datagrams.recv() => packet.unwrap(),
                    capsule = reader.next() => match capsule.unwrap().unwrap() {
                        Capsule::Datagram(payload) => datagram::decode_payload(payload).unwrap(),
                        other => panic!("{other:?}"),
                    },
                }
            });
            assert_eq!(arrived.await, packet);
        }
        let longer = datagram::encode(id, &[6; 9000]);
        assert_eq!(send_packet(&relay, &mut writer, &longer).await.unwrap(), Err(NotSent::TooBig));
        assert_eq!(relay.ledger().lost(Place::QuicSend, Reason::TooBig), 1);
    }
}
