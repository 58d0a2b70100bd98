//! Mends what smoltcp's segments say of windows and sequence numbers, where two full directions and losses would stall.
//!
//! smoltcp announces its free space in units of 2^scale bytes, rounded down, so the right edge it announced moves back by a few
//! bytes when a segment's length is no multiple of the unit (RFC 7323 §2.4). What was sent up to the old edge is then cut off,
//! ACKs from there are ignored, and a sender that is told of a closed window forgets to repeat what was cut off. After a
//! time-out it also sends empty ACKs from the byte it repeats, which a receiver that has this byte ignores; if both ends do,
//! neither ever moves again. Hence three corrections:
//!
//! - *sent*: two units less are announced than smoltcp will take. The space behind an announced edge then never goes away.
//! - *sent*: an empty segment is sent from behind the last byte ever sent, as RFC 9293 §3.10.7.4 means by SND.NXT.
//! - *received*: when a window opens again while bytes are unacknowledged, smoltcp is made to repeat them.

use super::replies::Segment;

/// Units kept back: one for what rounding down takes away, one so that an ACK from the very edge lies within the window.
const SLACK_UNITS: u16 = 2;

/// What one flow needs to remember of its windows.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// The sequence number behind the last byte we sent.
    sent: Option<u32>,
    /// The peer closed its window before it had everything that we sent.
    closed: bool,
}

impl Windows {
    /// Notes a segment of ours; returns what it should say.
    pub(super) fn handle_sent(&mut self, segment: &Segment) -> Segment {
        let end = segment.next_seq();
        let sent = self.sent.filter(|sent| after(*sent, end)).unwrap_or(end);
        self.sent = Some(sent);
        let slack = if segment.syn {
            // The window of a SYN is in bytes.
            SLACK_UNITS << segment.scale.unwrap_or(0).min(SCALE_MAX)
        } else {
            SLACK_UNITS
        };
        let seq = if end == segment.seq { sent } else { segment.seq };
        Segment { seq, window: segment.window.saturating_sub(slack), ..*segment }
    }

    /// Notes a segment of the peer's. True if smoltcp has to be told that what follows its ACK was lost.
    pub(super) fn handle_received(&mut self, segment: &Segment) -> bool {
        let (Some(ack), Some(sent)) = (segment.ack, self.sent) else { return false };
        if segment.syn || segment.rst {
            return false;
        }
        let lacks = after(sent, ack);
        let reopened = self.closed && segment.window > 0;
        self.closed = segment.window == 0 && lacks;
        reopened && lacks
    }
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
        windows.handle_received(&Segment { ack: Some(ack), window, ..ACK })
    }

    /// A flow of which 1000 bytes are sent.
    fn flow() -> Windows {
        let mut windows = Windows::default();
        windows.handle_sent(&SYN);
        windows.handle_received(&Segment { ack: Some(1), ..SYN });
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
        assert_eq!(windows.handle_sent(&Segment { payload_bytes: 10, ..ACK }).seq, 1);
        assert_eq!(windows.handle_sent(&ACK).seq, 1001);
        assert_eq!(windows.handle_sent(&Segment { rst: true, ..ACK }).seq, 1001);
        assert_eq!(windows.handle_sent(&Segment { fin: true, seq: 1001, ..ACK }).seq, 1001);
        assert_eq!(windows.handle_sent(&ACK).seq, 1002);
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
}
