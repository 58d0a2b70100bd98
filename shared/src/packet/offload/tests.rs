//! What is planned and split again is what went in; frames as the kernel makes them; lies and noise.

use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use proptest::prelude::{Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::packet::build::{self, ACK, FIN};

const PREFIX: &[u8] = &[0x41, 0x00];

fn ends(v4: bool, flow: u16) -> (SocketAddr, SocketAddr) {
    let (from, to): (IpAddr, IpAddr) = match v4 {
        true => ("100.64.0.1".parse().unwrap(), "100.64.0.2".parse().unwrap()),
        false => ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()),
    };
    (SocketAddr::new(from, 1000 + flow), SocketAddr::new(to, 80))
}

/// The writes as the device sees them.
fn frames(packets: &[Bytes]) -> Vec<Vec<u8>> {
    let mut coalescer = Coalescer::default();
    // Buffers that were used before are as good as new ones.
    coalescer.plan(packets);
    let frame = |write: &Write| {
        let pieces = write.pieces().flat_map(|(packet, from)| packets[packet][from..].to_vec());
        write.header().iter().copied().chain(pieces).collect()
    };
    coalescer.plan(packets).iter().map(frame).collect()
}

fn packets_of(frame: &[u8]) -> Result<Vec<Bytes>, OffloadError> {
    let (mut out, mut cuts) = (BytesMut::from(&b"before"[..]), Vec::new());
    split(frame, PREFIX, &mut out, &mut cuts)?;
    assert_eq!(cuts.last(), Some(&out.len()));
    let starts = std::iter::once(6).chain(cuts.iter().copied());
    let packets = starts.zip(&cuts).map(|(from, &to)| {
        assert_eq!(&out[from..from + 2], PREFIX);
        Bytes::copy_from_slice(&out[from + 2..to])
    });
    Ok(packets.collect())
}

fn back_again(packets: &[Bytes]) -> Vec<Bytes> {
    frames(packets).iter().flat_map(|frame| packets_of(frame).unwrap()).collect()
}

/// Sets the identification of an IPv4 packet.
fn identified(mut packet: Vec<u8>, identification: u16) -> Bytes {
    if packet[0] >> 4 == 4 {
        packet[4..6].copy_from_slice(&identification.to_be_bytes());
        build::seal(&mut packet);
    }
    packet.into()
}

/// A stream of `sizes`, whose last segment has PSH.
fn stream(v4: bool, flow: u16, sequence: u32, sizes: &[usize]) -> Vec<Bytes> {
    let (mut sequence, last) = (sequence, sizes.len() - 1);
    let segment = |(at, &size): (usize, &usize)| {
        let (from, to) = ends(v4, flow);
        let flags = if at == last { ACK | flag::PSH } else { ACK };
        let payload: Vec<u8> = (0..size).map(|byte| u8::try_from((byte + at) % 251).unwrap()).collect();
        let packet = build::tcp_with((from, to), (sequence, 9), flags, (500, &[1, 1, 1, 1]), &payload);
        sequence = sequence.wrapping_add(u32::try_from(size).unwrap());
        identified(packet, u16::try_from(at).unwrap().wrapping_sub(3))
    };
    sizes.iter().enumerate().map(segment).collect()
}

fn datagrams(v4: bool, flow: u16, sizes: &[usize]) -> Vec<Bytes> {
    let datagram = |(at, &size): (usize, &usize)| {
        let (from, to) = ends(v4, flow);
        identified(build::udp(from, to, &vec![7; size]), u16::try_from(at).unwrap())
    };
    sizes.iter().enumerate().map(datagram).collect()
}

#[test]
fn a_stream_is_one_write_and_comes_out_as_it_went_in() {
    for v4 in [true, false] {
        let packets = stream(v4, 0, u32::MAX - 2000, &[1200, 1200, 1200, 1200, 77]);
        let frames = frames(&packets);
        assert_eq!(frames.len(), 1);
        assert_eq!(packets_of(&frames[0]).unwrap(), packets);
        let kind = if v4 { GSO_TCPV4 } else { GSO_TCPV6 };
        let (virtio, packet) = Virtio::parse(&frames[0]).unwrap();
        assert_eq!((virtio.gso_type, virtio.segment, virtio.flags), (kind, 1200, NEEDS_CHECKSUM));
        assert_eq!(IpView::parse(packet).unwrap().payload().len(), 24 + 4877);
    }
}

#[test]
fn datagrams_of_one_size_are_one_write_up_to_what_the_kernel_takes() {
    for v4 in [true, false] {
        let packets = datagrams(v4, 0, &[100; WRITE_SEGMENTS_MAX + 1]);
        let frames = frames(&packets);
        assert_eq!(frames.len(), 2, "{WRITE_SEGMENTS_MAX} and one more");
        assert_eq!(back_again(&packets), packets);
    }
}

#[test]
fn no_write_is_longer_than_a_packet_can_say() {
    for v4 in [true, false] {
        // 53 of these would be 68,900 bytes, which a length of 16 bits makes 3,364.
        for packets in [datagrams(v4, 0, &[1300; 53]), stream(v4, 0, 1, &[1300; 53])] {
            let frames = frames(&packets);
            let longest = frames.iter().map(|frame| frame.len() - VIRTIO_BYTES).max().unwrap();
            assert!((64_000..=PACKET_BYTES_MAX).contains(&longest), "{longest}");
            assert_eq!(back_again(&packets), packets);
        }
    }
}

#[test]
fn streams_side_by_side_are_kept_apart_and_in_order() {
    let streams = [stream(false, 1, 5, &[900; 4]), stream(true, 2, 5, &[900; 4]), datagrams(false, 3, &[900; 4])];
    let mixed: Vec<Bytes> = (0..4).flat_map(|at| streams.iter().map(move |stream| stream[at].clone())).collect();
    assert_eq!(frames(&mixed).len(), 3);
    let back = back_again(&mixed);
    for stream in &streams {
        assert_eq!(back.iter().filter(|packet| stream.contains(packet)).collect::<Vec<_>>(), Vec::from_iter(stream));
    }
}

#[test]
fn what_is_no_plain_piece_of_a_stream_is_alone_and_ends_what_came_before() {
    let (from, to) = ends(false, 0);
    let run = stream(false, 0, 1000, &[100, 100, 100, 100]);
    for odd in [
        build::tcp(from, to, (1200, 9), ACK, b""),
        build::tcp(from, to, (1200, 9), ACK | FIN, b"end"),
        build::tcp_with((from, to), (1200, 9), ACK | 0x20, (500, &[1, 1, 1, 1]), b"urgent"),
        build::tcp_with((from, to), (1200, 10), ACK, (500, &[1, 1, 1, 1]), &[1; 100]),
        build::tcp_with((from, to), (1200, 9), ACK, (501, &[1, 1, 1, 1]), &[1; 100]),
        build::tcp_with((from, to), (1200, 9), ACK, (500, &[1, 1, 1, 0]), &[1; 100]),
        build::tcp_with((from, to), (1201, 9), ACK, (500, &[1, 1, 1, 1]), &[1; 100]),
        build::tcp_with((from, to), (1200, 9), ACK, (500, &[1, 1, 1, 1]), &[1; 101]),
    ] {
        let odd = Bytes::from(odd);
        let packets = [run[0].clone(), run[1].clone(), odd.clone(), run[2].clone(), run[3].clone()];
        let back = back_again(&packets);
        assert_eq!(back, packets);
        assert_eq!(frames(&packets).len(), 3, "{}", odd.escape_ascii());
    }
}

#[test]
fn a_wrong_checksum_is_never_mended() {
    for v4 in [true, false] {
        for good in [stream(v4, 0, 7, &[500; 5]), datagrams(v4, 0, &[500; 5])] {
            for hit in 0..5 {
                let mut packets = good.clone();
                let mut broken = packets[hit].to_vec();
                *broken.last_mut().unwrap() ^= 1;
                packets[hit] = broken.into();
                let frames = frames(&packets);
                let alone = [&[0; VIRTIO_BYTES][..], &packets[hit]].concat();
                assert!(frames.contains(&alone), "packet {hit} is written as it is");
                assert_eq!(back_again(&packets), packets);
            }
        }
    }
}

/// A frame as the kernel makes it: one long packet whose transport checksum is the pseudo header's sum.
fn long_frame(v4: bool, size: usize, segment: u16, flags: u8) -> Vec<u8> {
    let (from, to) = ends(v4, 0);
    let mut packet = build::tcp(from, to, (100, 9), flags, &vec![3; size]);
    let view = IpView::parse(&packet).unwrap();
    let layout = Layout::of(&packet, &view).unwrap();
    let pseudo = crate::packet::checksum::Sum::pseudo(from.ip(), to.ip(), 6, view.payload().len()).folded();
    packet[layout.ip + 16..layout.ip + 18].copy_from_slice(&pseudo);
    let virtio = Virtio {
        flags: NEEDS_CHECKSUM,
        gso_type: if segment == 0 {
            GSO_NONE
        } else if v4 {
            GSO_TCPV4
        } else {
            GSO_TCPV6
        },
        headers: u16::try_from(layout.headers).unwrap(),
        segment,
        checksum_start: u16::try_from(layout.ip).unwrap(),
        checksum_offset: 16,
    };
    [&virtio.encode()[..], &packet].concat()
}

#[test]
fn flags_that_mean_one_end_of_a_long_packet_stay_there() {
    let packets = packets_of(&long_frame(false, 2500, 1000, ACK | flag::PSH | FIN | flag::CWR)).unwrap();
    let flags: Vec<u8> = packets.iter().map(|packet| packet[40 + 13]).collect();
    assert_eq!(flags, [ACK | flag::CWR, ACK, ACK | flag::PSH | FIN]);
}

#[test]
fn a_checksum_that_was_left_to_us_is_filled_in() {
    for v4 in [true, false] {
        let (from, to) = ends(v4, 0);
        let whole = build::tcp(from, to, (100, 9), ACK, &[3; 333]);
        assert_eq!(packets_of(&long_frame(v4, 333, 0, ACK)).unwrap(), [Bytes::from(whole)]);
    }
}

#[test]
fn frames_that_lie_are_refused_and_leave_no_trace() {
    let good = long_frame(false, 3000, 1000, ACK);
    let with = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        frame
    };
    let mut unfinished = with(1, GSO_NONE);
    unfinished[8..10].copy_from_slice(&4000u16.to_ne_bytes());
    let mut tiny = good.clone();
    tiny[4..6].copy_from_slice(&2u16.to_ne_bytes());
    let mut none = good.clone();
    none[4..6].fill(0);
    for (frame, want) in [
        (good[..9].to_vec(), OffloadError::Truncated),
        (good[..500].to_vec(), OffloadError::Mismatch),
        (with(1, 3), OffloadError::Type(3)),
        (with(1, GSO_TCPV4), OffloadError::Mismatch),
        (with(1, GSO_UDP), OffloadError::Mismatch),
        (with(VIRTIO_BYTES + 40 + 12, 0x40), OffloadError::Mismatch),
        (with(VIRTIO_BYTES + 40 + 12, 0xf0), OffloadError::Mismatch),
        (unfinished, OffloadError::Mismatch),
        (tiny, OffloadError::Segments),
        (none, OffloadError::Mismatch),
    ] {
        let (mut out, mut cuts) = (BytesMut::new(), Vec::new());
        let result = split(&frame, PREFIX, &mut out, &mut cuts);
        if want == OffloadError::Mismatch && frame[VIRTIO_BYTES + 40 + 12] == 0xf0 {
            // Sixty bytes of header are as good as twenty when they are there.
            assert_eq!(result, Ok(()));
            continue;
        }
        assert_eq!(result, Err(want));
        assert!(out.is_empty() && cuts.is_empty());
    }
}

/// A few flows, their packets in runs of some sizes, a byte of some flipped.
fn traffic() -> impl Strategy<Value = Vec<Bytes>> {
    let sizes = || {
        prop_oneof![
            prop::collection::vec(1usize..1400, 1..9),
            (1usize..1400, 1usize..70).prop_map(|(size, count)| vec![size; count])
        ]
    };
    let run = (
        any::<bool>(),
        any::<bool>(),
        0u16..3,
        any::<u32>(),
        sizes(),
        prop::option::weighted(0.2, any::<(u16, u16)>()),
    );
    prop::collection::vec(run, 1..6).prop_map(|runs| {
        let packets = runs.into_iter().map(|(v4, tcp, flow, sequence, sizes, hit)| {
            let mut run = if tcp { stream(v4, flow, sequence, &sizes) } else { datagrams(v4, flow, &sizes) };
            if let Some((packet, byte)) = hit {
                let packet = usize::from(packet) % run.len();
                let mut broken = run[packet].to_vec();
                let byte = usize::from(byte) % broken.len();
                broken[byte] ^= 0x10;
                run[packet] = broken.into();
            }
            run
        });
        packets.flatten().collect()
    })
}

proptest! {
    #[test]
    fn planned_and_split_is_what_went_in(mut packets in traffic()) {
        let mut back = back_again(&packets);
        // Flows may pass each other; within one the order stays, which the tests above pin.
        packets.sort();
        back.sort();
        prop_assert_eq!(back, packets);
    }

    #[test]
    fn any_bytes_are_taken_or_refused(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = packets_of(&frame);
        let packets = [Bytes::from(frame)];
        prop_assert_eq!(back_again(&packets), packets);
    }
}
