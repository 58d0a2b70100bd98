//! Packets the stack writes itself: RST, the ACK of a closed flow, echo replies.
//!
//! Also reads what smoltcp's own sockets would otherwise read: TCP headers before there is a socket, ICMP.

use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, IpRepr, TcpControl, TcpOption,
    TcpPacket, TcpRepr, TcpSeqNumber,
};

use super::flow::FlowKey;
use crate::packet::{IpView, protocol};

const HOP_LIMIT: u8 = 64;

/// What the stack needs to know of a segment before it belongs to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) seq: u32,
    /// `None` without the ACK flag.
    pub(super) ack: Option<u32>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// As it stands in the header, unscaled.
    pub(super) window: u16,
    /// The window scale option of a SYN.
    pub(super) scale: Option<u8>,
    /// Bytes of payload.
    pub(super) payload_bytes: u32,
}

/// Why a transport header was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentError {
    Malformed,
    Checksum,
}

impl Segment {
    /// Reads and verifies the TCP segment in `view`, all of it.
    pub(super) fn parse(view: &IpView<'_>) -> Result<Self, SegmentError> {
        let packet = TcpPacket::new_checked(view.payload()).map_err(|_| SegmentError::Malformed)?;
        if !packet.verify_checksum(&view.source().into(), &view.destination().into()) {
            return Err(SegmentError::Checksum);
        }
        Ok(Self::read(&packet))
    }

    /// Reads the header of a segment of our own.
    pub(super) fn of_own(packet: &[u8]) -> Option<Self> {
        TcpPacket::new_checked(packet.get(ip_header_bytes(packet)..)?).ok().map(|packet| Self::read(&packet))
    }

    /// The sequence number behind this segment.
    pub(super) fn next_seq(&self) -> u32 {
        self.seq.wrapping_add(self.payload_bytes).wrapping_add(u32::from(self.syn)).wrapping_add(u32::from(self.fin))
    }

    fn read(packet: &TcpPacket<&[u8]>) -> Self {
        Self {
            seq: unsigned(packet.seq_number()),
            ack: packet.ack().then(|| unsigned(packet.ack_number())),
            syn: packet.syn(),
            fin: packet.fin(),
            rst: packet.rst(),
            window: packet.window_len(),
            scale: if packet.syn() { window_scale(packet.options()) } else { None },
            payload_bytes: u32::try_from(packet.payload().len()).expect("an IP packet has at most 64 KiB"),
        }
    }
}

/// Writes the sequence number and window of `segment`, and the checksum, into the packet that carries it.
pub(super) fn seal(packet: &mut [u8], key: FlowKey, segment: &Segment) {
    let header_bytes = ip_header_bytes(packet);
    let mut tcp = TcpPacket::new_unchecked(&mut packet[header_bytes..]);
    tcp.set_seq_number(signed(segment.seq));
    tcp.set_window_len(segment.window);
    tcp.fill_checksum(&key.local.ip().into(), &key.remote.ip().into());
}

/// The length of an IP header without options or extensions; packets with any were refused.
fn ip_header_bytes(packet: &[u8]) -> usize {
    match packet.first().map(|first| first >> 4) {
        Some(6) => 40,
        _ => 20,
    }
}

/// Looks for the window scale option (RFC 7323 §2.2).
fn window_scale(mut options: &[u8]) -> Option<u8> {
    while !options.is_empty() {
        let (rest, option) = TcpOption::parse(options).ok()?;
        match option {
            TcpOption::WindowScale(scale) => return Some(scale),
            TcpOption::EndOfList => return None,
            _ => options = rest,
        }
    }
    None
}

/// The RST that answers `segment` (RFC 9293 §3.10.7.1), or `None` if it was one itself.
pub(super) fn reset(key: FlowKey, segment: &Segment) -> Option<BytesMut> {
    if segment.rst {
        return None;
    }
    let (seq, ack) = match segment.ack {
        Some(ack) => (ack, None),
        None => (0, Some(segment.next_seq())),
    };
    Some(control(key, TcpControl::Rst, seq, ack))
}

/// An empty ACK, sent by `key.local`, with a closed window.
pub(super) fn acknowledge(key: FlowKey, seq: u32, ack: u32) -> BytesMut {
    control(key, TcpControl::None, seq, Some(ack))
}

/// An empty ACK as the sender of `segment` might have sent it, with another sequence number.
pub(super) fn empty_ack(key: FlowKey, seq: u32, segment: &Segment) -> Bytes {
    let empty = Segment { seq, fin: false, payload_bytes: 0, ..*segment };
    let from_peer = FlowKey { local: key.remote, remote: key.local };
    let mut packet = acknowledge(from_peer, seq, segment.ack.unwrap_or_default());
    seal(&mut packet, from_peer, &empty);
    packet.freeze()
}

/// An ICMP message to us.
#[derive(Debug)]
pub(super) enum Icmp {
    /// An echo request, and the reply to it.
    Echo(BytesMut),
    /// A destination that our TCP segment with this sequence number did not reach.
    Unreachable { key: FlowKey, seq: u32 },
    /// Anything else.
    Other,
}

/// Reads the ICMP message in `view`, whose protocol is the ICMP of its version.
pub(super) fn icmp(view: &IpView<'_>) -> Result<Icmp, SegmentError> {
    match view {
        IpView::V6(ip) => {
            let (source, destination) = (ip.source(), ip.destination());
            let packet = Icmpv6Packet::new_checked(ip.payload()).map_err(|_| SegmentError::Malformed)?;
            if !packet.verify_checksum(&source, &destination) {
                return Err(SegmentError::Checksum);
            }
            match Icmpv6Repr::parse(&source, &destination, &packet, &checksums()) {
                Ok(Icmpv6Repr::EchoRequest { ident, seq_no, data }) => {
                    let reply = Icmpv6Repr::EchoReply { ident, seq_no, data };
                    Ok(Icmp::Echo(icmpv6(destination.into(), source.into(), &reply)))
                }
                Ok(Icmpv6Repr::DstUnreachable { header, data, .. }) => {
                    Ok(quoted(header.src_addr.into(), header.dst_addr.into(), header.next_header, data))
                }
                Ok(_) => Ok(Icmp::Other),
                Err(_) => Ok(Icmp::Other),
            }
        }
        IpView::V4(ip) => {
            let packet = Icmpv4Packet::new_checked(ip.payload()).map_err(|_| SegmentError::Malformed)?;
            if !packet.verify_checksum() {
                return Err(SegmentError::Checksum);
            }
            match Icmpv4Repr::parse(&packet, &checksums()) {
                Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) => {
                    let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
                    Ok(Icmp::Echo(icmpv4(ip.destination().into(), ip.source().into(), &reply)))
                }
                Ok(Icmpv4Repr::DstUnreachable { header, data, .. }) => {
                    Ok(quoted(header.src_addr.into(), header.dst_addr.into(), header.next_header, data))
                }
                Ok(_) => Ok(Icmp::Other),
                Err(_) => Ok(Icmp::Other),
            }
        }
    }
}

fn quoted(source: IpAddr, destination: IpAddr, next_header: IpProtocol, data: &[u8]) -> Icmp {
    let [s0, s1, d0, d1, q0, q1, q2, q3, ..] = *data else {
        return Icmp::Other;
    };
    if u8::from(next_header) != protocol::TCP {
        return Icmp::Other;
    }
    let key = FlowKey {
        local: SocketAddr::new(source, u16::from_be_bytes([s0, s1])),
        remote: SocketAddr::new(destination, u16::from_be_bytes([d0, d1])),
    };
    Icmp::Unreachable { key, seq: u32::from_be_bytes([q0, q1, q2, q3]) }
}

fn control(key: FlowKey, control: TcpControl, seq: u32, ack: Option<u32>) -> BytesMut {
    let tcp = TcpRepr {
        src_port: key.local.port(),
        dst_port: key.remote.port(),
        control,
        seq_number: signed(seq),
        ack_number: ack.map(signed),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (source, destination) = (key.local.ip().into(), key.remote.ip().into());
    whole(source, destination, IpProtocol::Tcp, tcp.buffer_len(), |body| {
        tcp.emit(&mut TcpPacket::new_unchecked(body), &source, &destination, &checksums());
    })
}

fn icmpv6(source: IpAddress, destination: IpAddress, message: &Icmpv6Repr<'_>) -> BytesMut {
    let (IpAddress::Ipv6(from), IpAddress::Ipv6(to)) = (source, destination) else {
        unreachable!("ICMPv6 is only built for IPv6 addresses")
    };
    whole(source, destination, IpProtocol::Icmpv6, message.buffer_len(), |body| {
        message.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(body), &checksums());
    })
}

fn icmpv4(source: IpAddress, destination: IpAddress, message: &Icmpv4Repr<'_>) -> BytesMut {
    whole(source, destination, IpProtocol::Icmp, message.buffer_len(), |body| {
        message.emit(&mut Icmpv4Packet::new_unchecked(body), &checksums());
    })
}

fn whole(
    source: IpAddress,
    destination: IpAddress,
    number: IpProtocol,
    body_bytes: usize,
    emit: impl FnOnce(&mut [u8]),
) -> BytesMut {
    let ip = IpRepr::new(source, destination, number, body_bytes, HOP_LIMIT);
    let mut packet = BytesMut::zeroed(ip.buffer_len());
    ip.emit(&mut packet[..], &checksums());
    emit(&mut packet[ip.header_len()..]);
    packet
}

fn checksums() -> ChecksumCapabilities {
    ChecksumCapabilities::default()
}

fn unsigned(number: TcpSeqNumber) -> u32 {
    number.0.cast_unsigned()
}

fn signed(number: u32) -> TcpSeqNumber {
    TcpSeqNumber(number.cast_signed())
}
