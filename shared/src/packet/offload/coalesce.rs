//! From packets that a path brought to frames that the device takes, each at once.

use bytes::Bytes;

use super::{
    GSO_TCPV4, GSO_TCPV6, GSO_UDP, Layout, NEEDS_CHECKSUM, PACKET_BYTES_MAX, TCP_BYTES_MAX, UDP_CHECKSUM, VIRTIO_BYTES,
    Virtio, WRITE_SEGMENTS_MAX, flag, long, put, put_lengths, short,
};
use crate::packet::{FiveTuple, IpView, checksum::Sum, protocol};

/// Room for the headers of the longest: virtio, IPv6, TCP with all its options.
const HEADERS_ROOM: usize = VIRTIO_BYTES + 40 + TCP_BYTES_MAX;

/// How many flows of one batch are kept open for their next packet; a further one's packets are written singly.
///
/// Each packet looks through them all, and a batch seldom holds more flows that send in bulk.
const FLOWS_MAX: usize = 16;

/// Plans the writes of a batch. Keeps its buffers from one batch to the next.
#[derive(Debug, Default)]
pub struct Coalescer {
    writes: Vec<Write>,
    used: usize,
    open: Vec<Open>,
}

/// One write to the device: the header, then the pieces in their order.
#[derive(Debug)]
pub struct Write {
    header: [u8; HEADERS_ROOM],
    header_bytes: usize,
    pieces: Vec<Piece>,
}

/// A part of one packet of the batch.
#[derive(Debug, Clone, Copy)]
struct Piece {
    packet: usize,
    from: usize,
}

/// A flow that may take another packet into its write.
#[derive(Debug)]
struct Open {
    flow: FiveTuple,
    write: usize,
    layout: Layout,
    /// The first packet, whose headers stand for all.
    first: usize,
    segment: usize,
    total: usize,
    next_sequence: u32,
    /// The last packet's TCP flags.
    flags: u8,
}

/// A packet that may share a write with others of its flow.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    layout: Layout,
    payload: usize,
    sequence: u32,
    flags: u8,
}

impl Write {
    /// The headers that go before the pieces.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header[..self.header_bytes]
    }

    /// The pieces: which packet of the batch, and from which of its bytes on.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = (usize, usize)> {
        self.pieces.iter().map(|piece| (piece.packet, piece.from))
    }
}

impl Coalescer {
    /// Plans the writes for `packets`, each a checked IP packet. Within a flow the order stays; a packet whose checksum is
    /// wrong is written alone and as it is, so that the host finds it wrong too.
    pub fn plan(&mut self, packets: &[Bytes]) -> &[Write] {
        self.used = 0;
        self.open.clear();
        for (at, packet) in packets.iter().enumerate() {
            self.take(at, packet, packets);
        }
        while let Some(open) = self.open.pop() {
            self.close(&open, packets);
        }
        &self.writes[..self.used]
    }

    fn take(&mut self, at: usize, packet: &[u8], packets: &[Bytes]) {
        let Ok(view) = IpView::parse(packet) else {
            self.alone(at);
            return;
        };
        let Ok(Some(flow)) = view.five_tuple() else {
            self.alone(at);
            return;
        };
        let known = self.open.iter().position(|open| open.flow == flow);
        let candidate = Candidate::of(packet, &view);
        if let (Some(known), Some(candidate)) = (known, candidate)
            && self.open[known].accepts(packet, candidate, packets)
        {
            self.join(known, at, candidate, packets);
            return;
        }
        if let Some(known) = known {
            let open = self.open.swap_remove(known);
            self.close(&open, packets);
        }
        let write = self.alone(at);
        if let Some(candidate) = candidate.filter(|candidate| !candidate.is_last())
            && self.open.len() < FLOWS_MAX
        {
            let Candidate { layout, payload, sequence, flags } = candidate;
            let next_sequence = sequence.wrapping_add(u32::try_from(payload).unwrap_or(u32::MAX));
            let (total, segment) = (packet.len(), payload);
            self.open.push(Open { flow, write, layout, first: at, segment, total, next_sequence, flags });
        }
    }

    /// A write of one packet as it is.
    fn alone(&mut self, packet: usize) -> usize {
        if self.used == self.writes.len() {
            self.writes.push(Write { header: [0; HEADERS_ROOM], header_bytes: 0, pieces: Vec::new() });
        }
        let write = &mut self.writes[self.used];
        write.header[..VIRTIO_BYTES].fill(0);
        write.header_bytes = VIRTIO_BYTES;
        write.pieces.clear();
        write.pieces.push(Piece { packet, from: 0 });
        self.used += 1;
        self.used - 1
    }

    fn join(&mut self, known: usize, at: usize, candidate: Candidate, packets: &[Bytes]) {
        let open = &mut self.open[known];
        let pieces = &mut self.writes[open.write].pieces;
        pieces.push(Piece { packet: at, from: candidate.layout.headers });
        open.total += candidate.payload;
        open.next_sequence = open.next_sequence.wrapping_add(u32::try_from(candidate.payload).unwrap_or(u32::MAX));
        open.flags = candidate.flags;
        if candidate.is_last() || candidate.payload < open.segment || pieces.len() == WRITE_SEGMENTS_MAX {
            let open = self.open.swap_remove(known);
            self.close(&open, packets);
        }
    }

    /// Writes the headers of what has come together.
    fn close(&mut self, open: &Open, packets: &[Bytes]) {
        let write = &mut self.writes[open.write];
        if write.pieces.len() == 1 {
            return;
        }
        write.pieces[0].from = open.layout.headers;
        let Layout { v4, protocol, ip, headers } = open.layout;
        // All of these are below the length of a packet.
        let word = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        let virtio = Virtio {
            flags: NEEDS_CHECKSUM,
            gso_type: match (protocol, v4) {
                (protocol::UDP, _) => GSO_UDP,
                (_, true) => GSO_TCPV4,
                (_, false) => GSO_TCPV6,
            },
            headers: word(headers),
            segment: word(open.segment),
            checksum_start: word(ip),
            checksum_offset: word(open.layout.checksum_offset()),
        };
        write.header[..VIRTIO_BYTES].copy_from_slice(&virtio.encode());
        write.header_bytes = VIRTIO_BYTES + headers;
        let header = &mut write.header[VIRTIO_BYTES..VIRTIO_BYTES + headers];
        header.copy_from_slice(&packets[open.first][..headers]);
        put_lengths(header, open.layout, open.total);
        if protocol == protocol::TCP {
            header[ip + 13] |= open.flags & flag::PSH;
        }
        let pseudo = Sum::pseudo(open.flow.source.ip(), open.flow.destination.ip(), protocol, open.total - ip);
        put(header, ip + open.layout.checksum_offset(), &pseudo.folded());
    }
}

impl Candidate {
    /// `None`: a packet that must be alone, because it is more than a piece of a stream, or is not what was sent.
    fn of(packet: &[u8], view: &IpView<'_>) -> Option<Self> {
        let layout = Layout::of(packet, view)?;
        let payload = packet.len() - layout.headers;
        if payload == 0 || packet.len() > PACKET_BYTES_MAX {
            return None;
        }
        let transport = &packet[layout.ip..];
        let (sequence, flags) = if layout.protocol == protocol::TCP {
            let flags = transport[13];
            // Reserved bits and the urgent pointer mean something to somebody.
            if flags & !flag::PSH != flag::ACK || transport[12] & 0x0f != 0 || short(transport, 18) != 0 {
                return None;
            }
            (long(transport, 4), flags)
        } else {
            if usize::from(short(transport, 4)) != transport.len() || short(transport, UDP_CHECKSUM) == 0 {
                return None;
            }
            (0, 0)
        };
        let pseudo = Sum::pseudo(view.source(), view.destination(), layout.protocol, transport.len());
        let whole = pseudo.add(transport).is_whole() && !Self::is_other_zero(transport, layout);
        whole.then_some(Self { layout, payload, sequence, flags })
    }

    /// Whether the checksum is the one of two zeros that the kernel would not have written; it would not come out again.
    fn is_other_zero(transport: &[u8], layout: Layout) -> bool {
        layout.protocol == protocol::TCP && short(transport, layout.checksum_offset()) == 0xffff
    }

    /// Whether nothing may follow in the same write.
    fn is_last(self) -> bool {
        self.flags & flag::PSH != 0
    }
}

impl Open {
    /// Whether `packet` is the next of the flow, and its headers differ from the first's only in what splitting restores.
    fn accepts(&self, packet: &[u8], candidate: Candidate, packets: &[Bytes]) -> bool {
        let first = &packets[self.first][..];
        self.layout == candidate.layout
            && candidate.payload <= self.segment
            && self.total + candidate.payload <= PACKET_BYTES_MAX
            && self.same_ip(first, packet)
            && (self.layout.protocol == protocol::UDP
                || candidate.sequence == self.next_sequence && self.same_tcp(first, packet))
    }

    fn same_ip(&self, first: &[u8], packet: &[u8]) -> bool {
        if !self.layout.v4 {
            // But for the length; the addresses are the flow's.
            return first[..4] == packet[..4] && first[6..8] == packet[6..8];
        }
        let place = u16::try_from((self.total - self.layout.headers) / self.segment).unwrap_or(u16::MAX);
        // But for length, checksum and identification, which counts up.
        first[..2] == packet[..2]
            && short(packet, 4) == short(first, 4).wrapping_add(place)
            && first[6..10] == packet[6..10]
    }

    fn same_tcp(&self, first: &[u8], packet: &[u8]) -> bool {
        let (first, packet) = (&first[self.layout.ip..self.layout.headers], &packet[self.layout.ip..]);
        // Acknowledgement, window, options (timestamps among them).
        first[8..13] == packet[8..13]
            && first[14..16] == packet[14..16]
            && first[20..] == packet[20..self.layout.headers - self.layout.ip]
    }
}
