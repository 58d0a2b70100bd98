//! A host in the overlay that sends packets of its own making: an agent's session without an agent, for what no agent does.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use bytes::{Buf as _, Bytes};
use http::{Request, StatusCode, header};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use underpass_shared::{
    enrolment::{ENROL_PATH, EnrolRequest, EnrolmentToken, Issued},
    quic::{
        capsules::{CapsuleReader, CapsuleWriter},
        datagrams::{Datagrams, Receiver},
        endpoint,
        http3::{self, ClientStream, Requests},
        tls::{self, Credential, SERVER_NAME, Trust},
    },
    wire::{capsule::Capsule, connect_ip::AddressRange, datagram},
};

use crate::{
    eventually::{PATIENCE, within},
    relay::Relay,
};

/// A session of the packet lane.
pub struct Host {
    /// Its own address.
    pub address: Ipv6Addr,
    /// What lies behind the relay, as it last said.
    pub routes: Vec<AddressRange>,
    /// The relays that it was told to go to instead, when it was told to go.
    pub drained_to: Option<Vec<String>>,
    session: u64,
    datagrams: Datagrams,
    incoming: Receiver,
    reader: CapsuleReader,
    writer: CapsuleWriter,
    _requests: Requests,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({})", self.address)
    }
}

/// What comes out of a session.
enum Heard {
    Packet(Bytes),
    Capsule(Capsule),
}

impl Host {
    /// Enrols with a token for `node` of `project`, and opens a session; it has its address and its first routes then.
    ///
    /// # Panics
    /// When the relay refuses anything of it.
    pub async fn join(relay: &Relay, project: Option<&str>, node: &str) -> Self {
        let token: EnrolmentToken = relay.cli().in_project(project).token(node).await.parse().expect("a token");
        let key = KeyPair::generate().expect("a key");
        let csr = CertificateParams::default().serialize_request(&key).and_then(|csr| csr.pem()).expect("a request");
        let wanted = EnrolRequest {
            project: token.project.clone(),
            node: token.node.clone(),
            agent: "a-host".parse().expect("an agent's id"),
            csr,
        };
        let issued = enrol(&token, &wanted).await;
        let ca = CertificateDer::from_pem_slice(issued.ca.as_bytes()).expect("a certificate");
        let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("a certificate");
        let credential = (vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()));
        let (connection, requests) = dial(&token, Trust::Ca(ca), Some(credential)).await;
        http3::extended_connect_offered(&requests).await.expect("a relay");
        let datagrams = Datagrams::spawn(connection, Arc::default());
        let mut stream = requests.clone().send_request(http3::connect_ip_request()).await.expect("a session");
        let session = stream.id().into_inner();
        let incoming = datagrams.register(session).expect("the first session");
        assert_eq!(stream.recv_response().await.expect("an answer").status(), StatusCode::OK);
        let (send, receive) = stream.split();
        let mut host = Self {
            address: Ipv6Addr::UNSPECIFIED,
            routes: Vec::new(),
            drained_to: None,
            session,
            datagrams,
            incoming,
            reader: receive.into(),
            writer: send.into(),
            _requests: requests,
        };
        host.until("an address and routes", |host| !host.address.is_unspecified() && !host.routes.is_empty()).await;
        host
    }

    /// Sends a packet as a datagram.
    ///
    /// # Panics
    /// When it does not fit one.
    pub fn send(&self, packet: &[u8]) {
        self.datagrams.send(&datagram::encode(self.session, packet)).expect("the packet is sent");
    }

    /// Sends a packet of any length, on the session's stream.
    ///
    /// # Panics
    /// When the session has ended.
    pub async fn send_capsule(&mut self, packet: &[u8]) {
        let capsule = Capsule::Datagram(datagram::encode_payload(packet));
        self.writer.send(&capsule).await.expect("the packet is sent");
    }

    /// The next packet.
    ///
    /// # Panics
    /// When none comes, or the session ends.
    pub async fn receive(&mut self) -> Bytes {
        loop {
            match within(PATIENCE, "a packet for the host", self.hear()).await {
                Heard::Packet(packet) => return packet,
                Heard::Capsule(capsule) => self.handle(capsule),
            }
        }
    }

    /// Waits until what the relay says makes `enough` true. Packets that come meanwhile are passed over.
    ///
    /// # Panics
    /// When it does not.
    pub async fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            if let Heard::Capsule(capsule) = within(PATIENCE, what, self.hear()).await {
                self.handle(capsule);
            }
        }
    }

    /// Whether a packet to `address` is one for the relay, as far as it has said.
    #[must_use]
    pub fn has_route_to(&self, address: Ipv6Addr) -> bool {
        self.routes.iter().any(|range| range.contains(address.into(), 0))
    }

    async fn hear(&mut self) -> Heard {
        tokio::select! {
            packet = self.incoming.recv() => Heard::Packet(packet.expect("the session lasts")),
            capsule = self.reader.next() => {
                Heard::Capsule(capsule.expect("capsules are well formed").expect("the session lasts"))
            }
        }
    }

    fn handle(&mut self, capsule: Capsule) {
        match capsule {
            Capsule::AddressAssign(assign) => {
                let v6 = assign.entries().iter().find_map(|entry| match entry.prefix.network() {
                    IpAddr::V6(net) => Some(Ipv6Addr::from(u128::from(net) | 1)),
                    IpAddr::V4(_) => None,
                });
                self.address = v6.expect("an IPv6 address");
            }
            Capsule::RouteAdvertisement(routes) => self.routes = routes.ranges().to_vec(),
            Capsule::Drain(drain) => self.drained_to = Some(drain.alternatives().to_vec()),
            Capsule::Datagram(_) | Capsule::AddressRequest(_) => {}
        }
    }
}

async fn dial(token: &EnrolmentToken, trust: Trust, credential: Option<Credential>) -> (quinn::Connection, Requests) {
    let config = endpoint::client_config(tls::client(trust, credential).expect("settings")).expect("settings");
    let relay = token.relays[0].parse().expect("an address");
    let connection = endpoint::connect(&endpoint::dialler().expect("a socket"), config, relay).await.expect("a relay");
    let (mut driver, requests) = http3::connect(connection.clone()).await.expect("HTTP/3");
    tokio::spawn(async move { driver.wait_idle().await });
    (connection, requests)
}

async fn enrol(token: &EnrolmentToken, wanted: &EnrolRequest) -> Issued {
    let (_connection, requests) = dial(token, Trust::Pinned(token.ca.clone()), None).await;
    let request = Request::post(format!("https://{SERVER_NAME}{ENROL_PATH}"))
        .header(header::AUTHORIZATION, format!("Bearer {}", token.secret.expose()))
        .body(())
        .expect("a request");
    let mut stream = requests.clone().send_request(request).await.expect("a request is taken");
    stream.send_data(serde_json::to_vec(wanted).expect("plain data").into()).await.expect("a body is taken");
    stream.finish().await.expect("a body is taken");
    assert_eq!(stream.recv_response().await.expect("an answer").status(), StatusCode::OK);
    serde_json::from_slice(&body(&mut stream).await).expect("a certificate")
}

async fn body(stream: &mut ClientStream) -> Vec<u8> {
    let mut read = Vec::new();
    while let Some(mut data) = stream.recv_data().await.expect("a whole answer") {
        read.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    read
}
