//! Mends what smoltcp's segments say of windows and sequence numbers, where two full directions and losses would stall.
//!
//! smoltcp announces its free space in units of 2^scale bytes, rounded down, so the right edge it announced moves
//! back by a few bytes when a segment's length is no multiple of the unit (RFC 7323 §2.4), and what was sent up to
//! the old edge is cut off. A sender that is told of a closed window forgets to repeat what was cut off. It sends
//! empty ACKs from the byte it repeats after a time-out, or from beyond the window after a fast retransmission. And
//! what a segment outside the window acknowledges is ignored, probes of a closed window included. With both
//! directions full neither end then ever moves again. Hence:
//!
//! - *sent*: two units less are announced than smoltcp will take. The space behind an announced edge then never goes away.
//! - *sent*: an empty segment is sent from behind the last byte ever sent (the SND.NXT of RFC 9293 §3.10.7.4), but from
//!   within the window.
//! - *received*: what a segment outside the window acknowledges is told to smoltcp by a segment within it.
//! - *received*: until smoltcp announced a scaled window, a segment beyond the unscaled one of its SYN is refused. smoltcp scales
//!   that one too and would take more than its buffer holds; the panic is the peer's to cause.
//! - *received*: when a window opens again while bytes are unacknowledged, smoltcp is made to repeat them.

use super::replies::Segment;

/// Units kept back: one for what rounding down takes away, one so that an ACK from the very edge lies within the
/// window.
const SLACK_UNITS: u16 = 2;

/// Segments further from the window than this are not listened to, in bytes; four times the largest buffer.
const STRAY_MAX: u32 = 1 << 26;

/// What one flow needs to remember of its windows.
#[derive(Debug, Default)]
pub(super) struct Windows {
    own_scale: Option<u8>,
    peer_scale: Option<u8>,
    /// The sequence number behind the last byte we sent.
    sent: Option<u32>,
    /// The last byte of ours that the peer acknowledged.
    acked: Option<u32>,
    /// The furthest right edge that the peer announced.
    edge: Option<u32>,
    /// What smoltcp takes from the peer, as of the last segment it sent: from the first to before the second.
    takes: Option<(u32, u32)>,
    /// The window of our SYN, in bytes, while it is the last we announced.
    syn_window: Option<u16>,
    /// The peer closed its window before it had everything that we sent.
    closed: bool,
}

/// What to do with a segment. What is told beside it are empty ACKs with its acknowledgement and window.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mend {
    /// Not to be shown to smoltcp.
    pub(super) refused: bool,
    /// One before the segment, with this sequence number.
    pub(super) before: Option<u32>,
    /// As many behind it as tell of a loss, with this sequence number.
    pub(super) behind: Option<u32>,
}

impl Windows {
    /// Notes a segment of ours; returns what it should say.
    pub(super) fn handle_sent(&mut self, segment: &Segment) -> Segment {
        if segment.syn {
            self.own_scale = segment.scale;
        }
        self.syn_window = segment.syn.then_some(segment.window);
        let end = segment.next_seq();
        let sent = self.sent.filter(|sent| after(*sent, end)).unwrap_or(end);
        self.sent = Some(sent);
        self.takes = segment.ack.map(|next| (next, next.wrapping_add(self.bytes(segment, self.own_scale))));
        let slack = if segment.syn {
            // The window of a SYN is in bytes.
            SLACK_UNITS << segment.scale.unwrap_or(0).min(SCALE_MAX)
        } else {
            SLACK_UNITS
        };
        let seq = match self.edge {
            _ if end != segment.seq => segment.seq,
            Some(edge) if after(sent, edge) => edge,
            _ => sent,
        };
        Segment { seq, window: segment.window.saturating_sub(slack), ..*segment }
    }

    /// Notes a segment of the peer's; returns what else smoltcp has to be told.
    pub(super) fn handle_received(&mut self, segment: &Segment) -> Mend {
        if segment.syn {
            self.peer_scale = segment.scale;
            if let (None, Some(window)) = (self.takes, self.syn_window) {
                let next = segment.next_seq();
                self.takes = Some((next, next.wrapping_add(u32::from(window))));
            }
        }
        if let (Some((_, end)), Some(_)) = (self.takes, self.syn_window)
            && after(segment.seq.wrapping_add(segment.payload_bytes), end)
        {
            return Mend { refused: true, ..Mend::default() };
        }
        let (Some(ack), Some(sent)) = (segment.ack, self.sent) else { return Mend::default() };
        if segment.rst || after(ack, sent) {
            return Mend::default();
        }
        let edge = ack.wrapping_add(self.bytes(segment, self.peer_scale));
        self.edge = Some(self.edge.filter(|furthest| after(*furthest, edge)).unwrap_or(edge));
        let is_news = self.acked.is_none_or(|acked| after(ack, acked));
        if is_news {
            self.acked = Some(ack);
        }
        let lacks = after(sent, ack);
        let reopened = self.closed && segment.window > 0 && lacks;
        self.closed = segment.window == 0 && lacks;
        match self.takes {
            Some((next, end)) if !segment.syn => Mend {
                refused: false,
                before: (is_news && is_stray(segment, next, end)).then_some(next),
                behind: reopened.then(|| if segment.seq == next { segment.next_seq() } else { next }),
            },
            _ => Mend::default(),
        }
    }

    /// The window that a segment announces. That of a SYN is never scaled, others are if both sides offered it.
    fn bytes(&self, segment: &Segment, scale: Option<u8>) -> u32 {
        match (scale, self.own_scale, self.peer_scale) {
            (Some(scale), Some(_), Some(_)) if !segment.syn => u32::from(segment.window) << scale.min(SCALE_MAX),
            _ => u32::from(segment.window),
        }
    }
}

/// True if `segment` lies outside the window from `next` to `end`, but not far (RFC 9293 §3.10.7.4, as smoltcp reads
/// it).
fn is_stray(segment: &Segment, next: u32, end: u32) -> bool {
    let last = segment.seq.wrapping_add(segment.payload_bytes);
    let starts_within = !after(next, segment.seq) && after(end, segment.seq);
    let ends_within = after(last, next) && !after(last, end);
    let is_within = match (segment.payload_bytes == 0, next == end) {
        (true, true) => segment.seq == next,
        (true, false) => starts_within,
        (false, true) => false,
        (false, false) => starts_within || ends_within,
    };
    !is_within && segment.seq.wrapping_sub(next).wrapping_add(STRAY_MAX) < 2 * STRAY_MAX
}

/// The largest window scale (RFC 7323 §2.3).
const SCALE_MAX: u8 = 14;

/// True if `one` comes after `other` in sequence space.
fn after(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: Segment = Segment {
        seq: 0,
        ack: None,
        syn: true,
        fin: false,
        rst: false,
        window: 65535,
        scale: Some(3),
        payload_bytes: 0,
    };
    const ACK: Segment = Segment { seq: 1, ack: Some(1), syn: false, scale: None, ..SYN };

    fn received(windows: &mut Windows, ack: u32, window: u16) -> bool {
        windows.handle_received(&Segment { ack: Some(ack), window, ..ACK }).behind.is_some()
    }

    /// A flow of which 1000 bytes are sent.
    fn flow() -> Windows {
        let mut windows = Windows::default();
        windows.handle_sent(&SYN);
        windows.handle_received(&Segment { ack: Some(1), window: 0, ..SYN });
        windows.handle_sent(&Segment { payload_bytes: 1000, ..ACK });
        windows
    }

    #[test]
    fn two_units_less_than_there_are_get_announced() {
        let mut windows = Windows::default();
        assert_eq!(windows.handle_sent(&SYN).window, 65535 - 16);
        assert_eq!(windows.handle_sent(&Segment { scale: None, ..SYN }).window, 65535 - 2);
        for (window, announced) in [(0, 0), (1, 0), (2, 0), (3, 1), (65535, 65533)] {
            assert_eq!(windows.handle_sent(&Segment { window, ..ACK }).window, announced);
        }
    }

    #[test]
    fn empty_segments_come_from_behind_the_last_byte_and_repeated_ones_from_where_they_were() {
        let mut windows = flow();
        received(&mut windows, 1, 200);
        assert_eq!(windows.handle_sent(&Segment { payload_bytes: 10, ..ACK }).seq, 1);
        assert_eq!(windows.handle_sent(&ACK).seq, 1001);
        assert_eq!(windows.handle_sent(&Segment { rst: true, ..ACK }).seq, 1001);
        assert_eq!(windows.handle_sent(&Segment { fin: true, seq: 1001, ..ACK }).seq, 1001);
        assert_eq!(windows.handle_sent(&ACK).seq, 1002);
    }

    #[test]
    fn empty_segments_never_come_from_beyond_the_window() {
        let mut windows = flow();
        received(&mut windows, 801, 20);
        assert_eq!(windows.handle_sent(&ACK).seq, 801 + 160);
        received(&mut windows, 901, 0);
        assert_eq!(windows.handle_sent(&ACK).seq, 801 + 160, "an edge that moves back was announced all the same");
        received(&mut windows, 991, 0);
        assert_eq!(windows.handle_sent(&ACK).seq, 991);
        received(&mut windows, 991, 2);
        assert_eq!(windows.handle_sent(&ACK).seq, 1001);
    }

    #[test]
    fn windows_are_not_scaled_unless_both_sides_offer_it() {
        for (own, peer, seq) in
            [(Some(3), None, 821), (None, Some(3), 821), (Some(3), Some(0), 821), (Some(0), Some(3), 961)]
        {
            let mut windows = Windows::default();
            windows.handle_sent(&Segment { scale: own, ..SYN });
            windows.handle_received(&Segment { ack: Some(1), window: 0, scale: peer, ..SYN });
            windows.handle_sent(&Segment { payload_bytes: 1000, ..ACK });
            received(&mut windows, 801, 20);
            assert_eq!(windows.handle_sent(&ACK).seq, seq, "{own:?} {peer:?}");
        }
    }

    #[test]
    fn bytes_that_a_closing_window_cut_off_are_lost_when_it_opens() {
        let mut windows = flow();
        assert!(!received(&mut windows, 998, 0));
        assert!(!received(&mut windows, 998, 0), "still closed");
        assert!(received(&mut windows, 998, 5));
        assert!(!received(&mut windows, 998, 5), "said once");
    }

    #[test]
    fn nothing_is_lost_if_the_window_never_closed_or_everything_arrived() {
        let mut windows = flow();
        assert!(!received(&mut windows, 500, 5));
        assert!(!received(&mut windows, 1001, 0));
        assert!(!received(&mut windows, 1001, 5));
        assert!(!received(&mut windows, 998, 0));
        assert!(!received(&mut windows, 1001, 5), "it arrived after all");
    }

    #[test]
    fn a_repeated_segment_does_not_lower_what_was_sent() {
        let mut windows = flow();
        windows.handle_sent(&Segment { payload_bytes: 10, ..ACK });
        received(&mut windows, 500, 0);
        assert!(received(&mut windows, 500, 1));
    }

    #[test]
    fn what_a_stray_segment_acknowledges_is_told_from_within_the_window_once() {
        let cases = [
            // seq, payload, own window in units, stray
            (1, 0, 0, false),
            (2, 0, 0, true),
            (0, 0, 0, true),
            (1, 1, 0, true),
            (1, 0, 2, false),
            (16, 0, 2, false),
            (17, 0, 2, true),
            (1, 100, 2, false),
            (16, 1, 2, false),
            (17, 1, 2, true),
            (0, 1, 2, true),
            (0, 2, 2, false),
            (0u32.wrapping_sub(1 << 27), 0, 2, false),
            (1 << 27, 0, 2, false),
        ];
        for (seq, payload_bytes, window, stray) in cases {
            let mut windows = flow();
            windows.handle_sent(&Segment { seq: 1001, window, ..ACK });
            let segment = Segment { seq, payload_bytes, ack: Some(500), ..ACK };
            assert_eq!(windows.handle_received(&segment).before, stray.then_some(1), "{seq} {payload_bytes} {window}");
            assert_eq!(windows.handle_received(&segment).before, None, "said once");
        }
    }

    #[test]
    fn acknowledgements_of_what_was_never_sent_are_not_passed_on() {
        let mut windows = flow();
        let segment = Segment { seq: 70_000_000, ack: Some(1002), ..ACK };
        assert_eq!(windows.handle_received(&segment), Mend::default());
        assert_eq!(windows.handle_received(&Segment { seq: 900, rst: true, ..segment }), Mend::default());
    }

    #[test]
    fn nothing_beyond_the_window_of_a_syn_is_taken_before_another_is_announced() {
        for (seq, payload_bytes, refused) in
            [(1, 1000, false), (64_536, 1000, false), (64_537, 1000, true), (90_000, 0, true)]
        {
            let segment = Segment { seq, payload_bytes, ..ACK };
            let mut dialled = Windows::default();
            dialled.handle_sent(&SYN);
            dialled.handle_received(&Segment { ack: Some(1), ..SYN });
            assert_eq!(dialled.handle_received(&segment).refused, refused, "{seq}");
            let mut accepted = Windows::default();
            accepted.handle_received(&SYN);
            accepted.handle_sent(&Segment { ack: Some(1), ..SYN });
            assert_eq!(accepted.handle_received(&segment).refused, refused, "{seq}");
            accepted.handle_sent(&ACK);
            assert!(!accepted.handle_received(&segment).refused, "{seq}");
        }
    }
}
