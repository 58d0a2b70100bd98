//! What became of packets that were not delivered: one counter a reason.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $text:literal,)+) => {
        /// Why a packet went no further.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in a fixed order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The reason as a metric label.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// The owner pushed faster than the driver reads: the inbound queue was full.
    InboundFull => "inbound_full",
    /// One flow's share of the driver's current batch was used up.
    FlowInboundFull => "flow_inbound_full",
    /// An answer of the stack's own (RST, echo reply, unreachable) found the outbound queue full.
    OutboundFull => "outbound_full",
    /// Not an IP packet, or lengths, header checksum, ports or TCP header that cannot be.
    Malformed => "malformed",
    /// A fragment; the stack does not reassemble.
    Fragment => "fragment",
    /// IPv6 extension headers or IPv4 options.
    Extension => "extension",
    /// For an address that is not this stack's.
    ForeignDestination => "foreign_destination",
    /// From an address that cannot be a peer: multicast, loopback, unspecified, broadcast, or one of our own.
    BadSource => "bad_source",
    /// The TCP, UDP or ICMP checksum is wrong.
    BadChecksum => "bad_checksum",
    /// Neither TCP nor UDP nor ICMP.
    UnknownProtocol => "unknown_protocol",
    /// An ICMP message that asks for nothing we do, or quotes no connection attempt of ours.
    IcmpIgnored => "icmp_ignored",
    /// A UDP datagram for which there is no service; answered by Port Unreachable unless that limit was reached.
    UdpUnmatched => "udp_unmatched",
    /// A TCP segment of no flow; answered by RST unless it was one.
    TcpUnmatched => "tcp_unmatched",
    /// A SYN that repeats one which still waits for its decision.
    SynRepeated => "syn_repeated",
    /// A SYN beyond `pending_max`.
    PendingFull => "pending_full",
    /// A SYN beyond `flows_max`.
    FlowsFull => "flows_full",
    /// A segment beyond the window of a SYN that is not confirmed yet.
    BeyondWindow => "beyond_window",
    /// A segment on which the TCP engine panicked; the flow was ended.
    FlowFault => "flow_fault",
}

/// The counters, written by the driver and by whoever pushes packets.
#[derive(Debug)]
pub(super) struct Counters([AtomicU64; DropReason::ALL.len()]);

impl Counters {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    pub(super) fn count(&self, reason: DropReason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Drops {
        Drops(std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed)))
    }
}

/// How many packets were dropped by each reason since the stack was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// The count of one reason.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// All reasons with their counts, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.of(reason)))
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
