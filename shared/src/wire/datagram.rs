//! HTTP datagrams that carry IP packets (RFC 9297 §2, RFC 9484 §6).
//!
//! ```text
//!  QUIC DATAGRAM frame:  quarter stream id ─ context id (0) ─ IP packet
//!  DATAGRAM capsule:                         context id (0) ─ IP packet
//! ```
//! Both ids are variable-length integers. Context 0 is the only one known: no other is ever registered.

use bytes::{BufMut, Bytes, BytesMut};

use super::varint;

/// The context that carries whole IP packets (RFC 9484 §6).
const CONTEXT_IP: u64 = 0;

/// The largest quarter stream id: stream ids have 62 bits (RFC 9297 §2.1).
const QUARTER_STREAM_ID_MAX: u64 = varint::MAX / 4;

/// Why a datagram cannot be delivered. It is dropped and counted; only `StreamId` is the peer's breach of protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    #[error("the datagram ends inside its header")]
    Truncated,
    #[error("the datagram's quarter stream id is above 2^60 - 1")]
    StreamId,
    #[error("the datagram's context id {0} was never registered")]
    UnknownContext(u64),
}

/// How many bytes precede the packet in a QUIC DATAGRAM frame of the request stream `stream_id`.
#[must_use]
pub const fn header_bytes(stream_id: u64) -> usize {
    varint::size(stream_id / 4) + varint::size(CONTEXT_IP)
}

/// The payload of a QUIC DATAGRAM frame that carries `packet` for the request stream `stream_id`, in one buffer.
///
/// Of an empty packet it is what precedes every other.
#[must_use]
pub fn encode(stream_id: u64, packet: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(header_bytes(stream_id) + packet.len());
    varint::encode(stream_id / 4, &mut out);
    varint::encode(CONTEXT_IP, &mut out);
    out.put_slice(packet);
    out.freeze()
}

/// Writes frames one behind the other into large buffers, so that not each packet costs an allocation.
#[derive(Debug, Default)]
pub struct Framer {
    room: BytesMut,
}

impl Framer {
    /// How much is allocated at a time, in bytes: fifty packets, and no more than one that waits long keeps alive.
    const ROOM: usize = 64 * 1024;

    /// As [`encode`]; the packet may still be changed in the frame, behind [`header_bytes`].
    pub fn frame(&mut self, stream_id: u64, packet: &[u8]) -> BytesMut {
        let bytes = header_bytes(stream_id) + packet.len();
        if self.room.capacity() < bytes {
            self.room = BytesMut::with_capacity(bytes.max(Self::ROOM));
        }
        varint::encode(stream_id / 4, &mut self.room);
        varint::encode(CONTEXT_IP, &mut self.room);
        self.room.put_slice(packet);
        self.room.split()
    }
}

/// Splits a QUIC DATAGRAM frame into the request stream's id and the HTTP datagram payload for [`decode_payload`].
///
/// # Errors
/// [`DatagramError::Truncated`] and [`DatagramError::StreamId`].
pub fn decode(mut frame: Bytes) -> Result<(u64, Bytes), DatagramError> {
    let (quarter, length) = varint::decode(&frame).ok_or(DatagramError::Truncated)?;
    if quarter > QUARTER_STREAM_ID_MAX {
        return Err(DatagramError::StreamId);
    }
    Ok((quarter * 4, frame.split_off(length)))
}

/// The payload of a DATAGRAM capsule that carries `packet`.
#[must_use]
pub fn encode_payload(packet: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(varint::size(CONTEXT_IP) + packet.len());
    varint::encode(CONTEXT_IP, &mut out);
    out.put_slice(packet);
    out.freeze()
}

/// The IP packet in an HTTP datagram payload. It may be empty or no packet at all: the reader of packets checks it.
///
/// # Errors
/// [`DatagramError::Truncated`] and [`DatagramError::UnknownContext`].
pub fn decode_payload(mut payload: Bytes) -> Result<Bytes, DatagramError> {
    match varint::decode(&payload).ok_or(DatagramError::Truncated)? {
        (CONTEXT_IP, length) => Ok(payload.split_off(length)),
        (context, _) => Err(DatagramError::UnknownContext(context)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_packet_of_stream_four_is_tagged_one() {
        assert_eq!(&encode(4, b"pkt")[..], b"\x01\x00pkt");
        assert_eq!(&encode_payload(b"pkt")[..], b"\x00pkt");
        assert_eq!(header_bytes(4), 2);
        assert_eq!(header_bytes(64 * 4), 3);
    }

    #[test]
    fn cut_and_foreign_datagrams_are_refused_by_reason() {
        assert_eq!(decode(Bytes::new()), Err(DatagramError::Truncated));
        assert_eq!(decode(Bytes::from_static(&[0x40])), Err(DatagramError::Truncated));
        assert_eq!(decode(Bytes::from_static(&[0xd0, 0, 0, 0, 0, 0, 0, 0])), Err(DatagramError::StreamId));
        assert_eq!(decode_payload(Bytes::new()), Err(DatagramError::Truncated));
        assert_eq!(decode_payload(Bytes::from_static(&[2, 1])), Err(DatagramError::UnknownContext(2)));
    }

    proptest! {
        #[test]
        fn every_packet_survives_the_round_trip(quarter in 0..=QUARTER_STREAM_ID_MAX, packet: Vec<u8>) {
            let stream_id = quarter * 4;
            let frame = encode(stream_id, &packet);
            prop_assert_eq!(frame.len(), header_bytes(stream_id) + packet.len());
            let mut framer = Framer::default();
            prop_assert_eq!(&framer.frame(stream_id, &packet), &frame);
            prop_assert_eq!(&framer.frame(stream_id, &packet), &frame);
            let (id, payload) = decode(frame).unwrap();
            prop_assert_eq!(id, stream_id);
            prop_assert_eq!(&payload, &encode_payload(&packet));
            prop_assert_eq!(decode_payload(payload).unwrap(), packet);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok((id, payload)) = decode(bytes.into()) {
                prop_assert!(id <= varint::MAX && id % 4 == 0);
                let _ = decode_payload(payload);
            }
        }
    }
}
