//! What became of packets: at each place every packet that enters is delivered, or counted as lost for one reason.
//!
//! Pure counters without a clock. Who reports them, and when, is the caller's; a process has one ledger.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

macro_rules! labelled {
    ($(#[$outer:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident => $text:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// All of them, in a fixed order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in logs and metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

labelled! {
    /// Where a packet may be lost.
    Place {
        /// The kernel's queue before our UDP socket. Only losses are known here.
        Socket => "socket",
        /// From QUIC to the queue of the session that the packet is for.
        QuicReceive => "quic_receive",
        /// From a session to QUIC: as datagram, or as capsule where it does not fit one.
        QuicSend => "quic_send",
        /// The relay's decision where a packet goes that came out of a session.
        Forward => "forward",
        /// The agent's own look at what comes out of a session and what goes into it.
        Policy => "policy",
        /// Between the tunnel and the kernel's device.
        Device => "device",
        /// Into a netstack: to one of its flows, or answered.
        Netstack => "netstack",
        /// A flow of a netstack, on what had been delivered to it. Only losses are known here.
        Flow => "flow",
    }
}

labelled! {
    /// Why a packet went no further.
    Reason {
        /// Not an IP packet or datagram of ours, or lengths, header checksum or ports that cannot be.
        Malformed => "malformed",
        /// A fragment: nothing here reassembles.
        Fragment => "fragment",
        /// IPv6 extension headers or IPv4 options.
        Extension => "extension",
        /// From an address that is not the sender's own, or that no peer can have.
        ForeignSource => "foreign_source",
        /// For an address that is nobody's here.
        NoRoute => "no_route",
        /// For a node that does not allow it.
        NotAllowed => "not_allowed",
        /// For an agent or session that is not connected, or ended before the packet went out.
        NoSession => "no_session",
        /// The hop limit ran out (RFC 8200 §3).
        HopLimit => "hop_limit",
        /// Larger than the path takes.
        TooBig => "too_big",
        /// The path shrank while the packet waited.
        PathShrank => "path_shrank",
        /// A queue was full.
        QueueFull => "queue_full",
        /// The buffer of received datagrams was full, and the oldest went.
        ReceiveOverflow => "receive_overflow",
        /// One flow's share of a queue was used up.
        FlowFull => "flow_full",
        /// An answer of our own found the queue full.
        AnswerFull => "answer_full",
        /// A table of flows was full.
        TableFull => "table_full",
        /// More attempts to connect wait for a decision than may.
        PendingFull => "pending_full",
        /// The TCP, UDP or ICMP checksum is wrong.
        Checksum => "checksum",
        /// Neither TCP nor UDP nor ICMP.
        UnknownProtocol => "unknown_protocol",
        /// An ICMP message that asks for nothing we do, or quotes nothing of ours.
        IcmpIgnored => "icmp_ignored",
        /// A UDP datagram for which there is no service; answered by Port Unreachable unless that limit was reached.
        UdpUnmatched => "udp_unmatched",
        /// A TCP segment of no flow; answered by RST unless it was one.
        TcpUnmatched => "tcp_unmatched",
        /// A SYN that repeats one which still waits for its decision.
        SynRepeated => "syn_repeated",
        /// A segment beyond the window of a SYN that is not confirmed yet.
        BeyondWindow => "beyond_window",
        /// The kernel did not take it.
        HostRefused => "host_refused",
        /// A segment on which the TCP engine panicked; the flow was ended.
        FlowFault => "flow_fault",
    }
}

const PLACES: usize = Place::ALL.len();
const REASONS: usize = Reason::ALL.len();

/// The counters of one process. Any thread may count.
#[derive(Debug)]
pub struct Ledger {
    entered: [AtomicU64; PLACES],
    delivered: [AtomicU64; PLACES],
    lost: [[AtomicU64; REASONS]; PLACES],
}

/// What a ledger said at one moment. While packets are under way the parts may be a few packets apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    entered: [u64; PLACES],
    delivered: [u64; PLACES],
    lost: [[u64; REASONS]; PLACES],
}

impl Default for Ledger {
    fn default() -> Self {
        let counter = |_| AtomicU64::new(0);
        Self {
            entered: std::array::from_fn(counter),
            delivered: std::array::from_fn(counter),
            lost: std::array::from_fn(|_| std::array::from_fn(counter)),
        }
    }
}

impl Ledger {
    /// `packets` more have come to `place`.
    pub fn enter(&self, place: Place, packets: u64) {
        self.entered[place as usize].fetch_add(packets, Relaxed);
    }

    /// `packets` that had come to `place` went on from there.
    pub fn deliver(&self, place: Place, packets: u64) {
        self.delivered[place as usize].fetch_add(packets, Relaxed);
    }

    /// `packets` that had come to `place` are lost.
    pub fn lose(&self, place: Place, reason: Reason, packets: u64) {
        self.lost[place as usize][reason as usize].fetch_add(packets, Relaxed);
    }

    /// How many packets `place` has lost for `reason`.
    #[must_use]
    pub fn lost(&self, place: Place, reason: Reason) -> u64 {
        self.lost[place as usize][reason as usize].load(Relaxed)
    }

    /// All counters now.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        Sums {
            // In the order in which packets pass them, so that no sum is ever ahead of the one before it.
            lost: self.lost.each_ref().map(|reasons| reasons.each_ref().map(read)),
            delivered: self.delivered.each_ref().map(read),
            entered: self.entered.each_ref().map(read),
        }
    }
}

impl Sums {
    /// How many packets have come to `place`.
    #[must_use]
    pub fn entered(&self, place: Place) -> u64 {
        self.entered[place as usize]
    }

    /// How many went on from `place`.
    #[must_use]
    pub fn delivered(&self, place: Place) -> u64 {
        self.delivered[place as usize]
    }

    /// How many `place` has lost, for whatever reason.
    #[must_use]
    pub fn lost(&self, place: Place) -> u64 {
        self.lost[place as usize].iter().sum()
    }

    /// How many are still at `place`: neither delivered nor lost.
    #[must_use]
    pub fn waiting(&self, place: Place) -> u64 {
        self.entered(place).saturating_sub(self.delivered(place) + self.lost(place))
    }

    /// What was lost, where and why; nothing that is zero.
    pub fn losses(&self) -> impl Iterator<Item = (Place, Reason, u64)> + '_ {
        let all = Place::ALL.iter().flat_map(|&place| Reason::ALL.iter().map(move |&reason| (place, reason)));
        all.map(|(place, reason)| (place, reason, self.lost[place as usize][reason as usize]))
            .filter(|(_, _, packets)| *packets > 0)
    }

    /// What happened since `earlier`, a snapshot of the same ledger.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let less = |now: &[u64], then: &[u64], at: usize| now[at].saturating_sub(then[at]);
        Self {
            entered: std::array::from_fn(|at| less(&self.entered, &earlier.entered, at)),
            delivered: std::array::from_fn(|at| less(&self.delivered, &earlier.delivered, at)),
            lost: std::array::from_fn(|place| {
                std::array::from_fn(|at| less(&self.lost[place], &earlier.lost[place], at))
            }),
        }
    }
}

/// `forward not_allowed 3, quic_send too_big 1`: all that was lost, for one line of a log.
impl std::fmt::Display for Sums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (place, reason, packets)) in self.losses().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{} {} {packets}", place.as_str(), reason.as_str())?;
        }
        Ok(())
    }
}

/// Decides when a process says what it has lost: at once, and then not again before a pause.
///
/// Time is counted from any moment that stays the same.
#[derive(Debug)]
pub struct Report {
    said: Sums,
    silent_until: Duration,
}

impl Report {
    /// How often it is worth looking.
    pub const LOOK: Duration = Duration::from_secs(5);

    /// How long after one line the next may follow: a host that loses packets all day is no reason to fill its log.
    pub const PAUSE: Duration = Duration::from_secs(60);

    /// Nothing was said yet of what `ledger` will count from now on.
    #[must_use]
    pub fn new(ledger: &Ledger) -> Self {
        Self { said: ledger.sums(), silent_until: Duration::ZERO }
    }

    /// What is to be said now: the sums since the last time, if something was lost.
    pub fn due(&mut self, ledger: &Ledger, now: Duration) -> Option<Sums> {
        if now < self.silent_until {
            return None;
        }
        let sums = ledger.sums();
        let news = sums.since(&self.said);
        news.losses().next()?;
        (self.said, self.silent_until) = (sums, now + Self::PAUSE);
        Some(news)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_place_and_reason_is_counted_apart() {
        let ledger = Ledger::default();
        let all = || Place::ALL.iter().flat_map(|&place| Reason::ALL.iter().map(move |&reason| (place, reason)));
        for (times, (place, reason)) in all().enumerate() {
            ledger.lose(place, reason, times as u64);
        }
        for (times, (place, reason)) in all().enumerate() {
            assert_eq!(ledger.lost(place, reason), times as u64, "{place:?} {reason:?}");
        }
        assert_eq!(ledger.sums().losses().count(), all().count() - 1, "the first was lost no time");
    }

    #[test]
    fn a_line_of_log_says_what_was_lost_since_the_last() {
        let ledger = Ledger::default();
        ledger.lose(Place::Forward, Reason::NotAllowed, 2);
        let then = ledger.sums();
        ledger.lose(Place::Forward, Reason::NotAllowed, 3);
        ledger.lose(Place::QuicSend, Reason::TooBig, 1);
        assert_eq!(ledger.sums().since(&then).to_string(), "quic_send too_big 1, forward not_allowed 3");
        assert_eq!(then.since(&then).to_string(), "");
    }

    #[test]
    fn losses_are_said_at_once_and_then_once_a_minute() {
        let ledger = Ledger::default();
        let mut report = Report::new(&ledger);
        let mut said = |seconds| report.due(&ledger, Duration::from_secs(seconds)).map(|news| news.to_string());
        ledger.enter(Place::Forward, 5);
        assert_eq!(said(0), None, "nothing is lost");
        ledger.lose(Place::Forward, Reason::NoRoute, 1);
        assert_eq!(said(5).as_deref(), Some("forward no_route 1"));
        ledger.lose(Place::Forward, Reason::NoRoute, 2);
        assert_eq!(said(64), None);
        assert_eq!(said(65).as_deref(), Some("forward no_route 2"));
        assert_eq!(said(1000), None, "nothing new is lost");
    }

    proptest! {
        #[test]
        fn what_entered_is_what_was_delivered_or_lost_or_waits(fates: Vec<u8>) {
            let ledger = Ledger::default();
            let mut waiting = 0;
            for fate in fates {
                ledger.enter(Place::Netstack, 1);
                match usize::from(fate) {
                    0 => waiting += 1,
                    1 => ledger.deliver(Place::Netstack, 1),
                    other => ledger.lose(Place::Netstack, Reason::ALL[other % REASONS], 1),
                }
            }
            prop_assert_eq!(ledger.sums().waiting(Place::Netstack), waiting);
        }
    }
}
