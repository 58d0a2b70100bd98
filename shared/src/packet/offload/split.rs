//! From a frame that the device hands out to packets that a path takes.

use bytes::BytesMut;

use super::{
    GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, Layout, NEEDS_CHECKSUM, OffloadError, READ_SEGMENTS_MAX, Virtio,
    flag, long, put, put_lengths, short,
};
use crate::packet::{
    IpView,
    checksum::{self, Sum},
    protocol,
};

/// Splits `frame` into packets, appends each to `out` behind a copy of `prefix`, and says in `cuts` where each ends there.
///
/// Every byte is copied once. A frame that stands for one packet gives one, with its checksum filled in where the device
/// left that to us.
///
/// # Errors
/// See [`OffloadError`]; `out` and `cuts` are as they were.
pub fn split(frame: &[u8], prefix: &[u8], out: &mut BytesMut, cuts: &mut Vec<usize>) -> Result<(), OffloadError> {
    let (virtio, packet) = Virtio::parse(frame)?;
    match virtio.gso_type & !GSO_ECN {
        GSO_NONE => whole(virtio, packet, prefix, out, cuts),
        kind @ (GSO_TCPV4 | GSO_TCPV6 | GSO_UDP) => {
            let view = IpView::parse(packet).map_err(|_| OffloadError::Mismatch)?;
            let layout = Layout::of(packet, &view).ok_or(OffloadError::Mismatch)?;
            let meant = match kind {
                GSO_TCPV4 => layout.v4 && layout.protocol == protocol::TCP,
                GSO_TCPV6 => !layout.v4 && layout.protocol == protocol::TCP,
                _ => layout.protocol == protocol::UDP,
            };
            let segment = usize::from(virtio.segment);
            if !meant || segment == 0 {
                return Err(OffloadError::Mismatch);
            }
            segments(packet, &view, Shape { layout, segment }, prefix, (out, cuts))
        }
        _ => Err(OffloadError::Type(virtio.gso_type)),
    }
}

/// One packet, as it is or with its checksum filled in.
fn whole(
    virtio: Virtio,
    packet: &[u8],
    prefix: &[u8],
    out: &mut BytesMut,
    cuts: &mut Vec<usize>,
) -> Result<(), OffloadError> {
    let start = usize::from(virtio.checksum_start);
    let field = start + usize::from(virtio.checksum_offset);
    let unfinished = virtio.flags & NEEDS_CHECKSUM != 0;
    if unfinished && field + 2 > packet.len() {
        return Err(OffloadError::Mismatch);
    }
    out.extend_from_slice(prefix);
    let begin = out.len();
    out.extend_from_slice(packet);
    if unfinished {
        let packet = &mut out[begin..];
        // The field holds the pseudo header's sum, which is thereby part of what is summed.
        let checksum = Sum::default().add(&packet[start..]).checksum();
        // TCP's checksum may be either zero; UDP's zero would mean that there is none.
        put(packet, field, &checksum::udp(checksum));
    }
    cuts.push(out.len());
    Ok(())
}

#[derive(Clone, Copy)]
struct Shape {
    layout: Layout,
    /// Payload bytes of every packet but the last.
    segment: usize,
}

fn segments(
    packet: &[u8],
    view: &IpView<'_>,
    Shape { layout, segment }: Shape,
    prefix: &[u8],
    (out, cuts): (&mut BytesMut, &mut Vec<usize>),
) -> Result<(), OffloadError> {
    let (headers, payload) = packet.split_at(layout.headers);
    let count = payload.len().div_ceil(segment).max(1);
    if count > READ_SEGMENTS_MAX {
        return Err(OffloadError::Segments);
    }
    out.reserve(count * (prefix.len() + headers.len()) + payload.len());
    for at in 0..count {
        let part = &payload[at * segment..payload.len().min((at + 1) * segment)];
        out.extend_from_slice(prefix);
        let begin = out.len();
        out.extend_from_slice(headers);
        out.extend_from_slice(part);
        let piece = &mut out[begin..];
        if layout.v4 {
            // At most READ_SEGMENTS_MAX more than the first's.
            let identification = short(headers, 4).wrapping_add(u16::try_from(at).unwrap_or(u16::MAX));
            put(piece, 4, &identification.to_be_bytes());
        }
        let total = piece.len();
        put_lengths(piece, layout, total);
        if layout.protocol == protocol::TCP {
            // The sequence number wraps; the packet is shorter than its space.
            let sequence = long(headers, layout.ip + 4).wrapping_add(u32::try_from(at * segment).unwrap_or(u32::MAX));
            put(piece, layout.ip + 4, &sequence.to_be_bytes());
            let first = if at == 0 { 0 } else { flag::CWR };
            let last = if at + 1 == count { 0 } else { flag::FIN | flag::PSH };
            piece[layout.ip + 13] &= !(first | last);
        }
        seal(piece, layout, view);
        cuts.push(out.len());
    }
    Ok(())
}

/// Writes the transport's checksum.
fn seal(packet: &mut [u8], layout: Layout, view: &IpView<'_>) {
    let field = layout.ip + layout.checksum_offset();
    put(packet, field, &[0, 0]);
    let transport = &packet[layout.ip..];
    let pseudo = Sum::pseudo(view.source(), view.destination(), layout.protocol, transport.len());
    let mut checksum = pseudo.add(transport).checksum();
    if layout.protocol == protocol::UDP {
        checksum = checksum::udp(checksum);
    }
    put(packet, field, &checksum);
}
