//! What comes from a TUN device and from the tunnel.

use bytes::{Bytes, BytesMut};
use underpass_shared::packet::offload::{Coalescer, split};

/// A frame of a TUN device; then the same bytes as packets of a tunnel, each behind two bytes of length.
pub fn offload(bytes: &[u8]) {
    let _ = packets_of(bytes);
    let packets = packets(bytes);
    let mut coalescer = Coalescer::default();
    let mut back: Vec<Bytes> = Vec::new();
    for write in coalescer.plan(&packets) {
        let pieces = write.pieces().flat_map(|(packet, from)| packets[packet][from..].to_vec());
        let frame: Vec<u8> = write.header().iter().copied().chain(pieces).collect();
        back.extend(packets_of(&frame).expect("what was planned can be split"));
    }
    let mut packets = packets;
    packets.sort();
    back.sort();
    assert_eq!(back, packets, "what was planned and split is what went in");
}

fn packets(mut bytes: &[u8]) -> Vec<Bytes> {
    let mut packets = Vec::new();
    while let Some(([high, low], rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (packet, behind) = rest.split_at(length);
        packets.push(Bytes::copy_from_slice(packet));
        bytes = behind;
    }
    packets
}

fn packets_of(frame: &[u8]) -> Option<Vec<Bytes>> {
    let (mut out, mut cuts) = (BytesMut::new(), Vec::new());
    split(frame, b"", &mut out, &mut cuts).ok()?;
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    Some(starts.zip(&cuts).map(|(from, &to)| Bytes::copy_from_slice(&out[from..to])).collect())
}
