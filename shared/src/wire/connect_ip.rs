//! The capsules of IP proxying: addresses asked for and assigned, routes advertised (RFC 9484 §4.7).
//!
//! Values of these types are valid by construction: what the RFC forbids can be neither built nor decoded.

use std::net::IpAddr;

use bytes::BufMut;
use ipnet::IpNet;

use super::{
    reader::{Reader, Stop},
    varint,
};

/// Path of an IP session that is not limited to a target or a protocol (RFC 9484 §3, §4.4).
pub const PATH: &str = "/.well-known/masque/ip/*/*/";

/// Which rule of RFC 9484 §4.7 a capsule breaks. The request stream is aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectIpError {
    #[error("the capsule ends inside an entry")]
    Truncated,
    #[error("IP version {0} is neither 4 nor 6")]
    IpVersion(u8),
    #[error("prefix length {0} is longer than the address")]
    PrefixLength(u8),
    #[error("bits below the prefix are not zero")]
    HostBits,
    #[error("an address request has the id 0")]
    RequestIdZero,
    #[error("two address requests have the id {0}")]
    RequestIdTwice(u64),
    #[error("an address request asks for nothing")]
    RequestEmpty,
    #[error("a route's two addresses are of different IP versions")]
    RangeMixed,
    #[error("a route ends before it starts")]
    RangeReversed,
    #[error("routes are out of order or overlap")]
    RangeOrder,
}

/// ADDRESS_ASSIGN: every prefix the receiver may use as source. It replaces the assignment before it; empty takes all away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressAssign {
    entries: Vec<AssignedAddress>,
}

/// One prefix of an [`AddressAssign`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignedAddress {
    /// Which request this answers; 0: none, it was not asked for.
    pub request_id: u64,
    /// The prefix, without host bits.
    pub prefix: IpNet,
}

/// ADDRESS_REQUEST: prefixes the sender would like; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRequest {
    entries: Vec<RequestedAddress>,
}

/// One wish of an [`AddressRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedAddress {
    /// Never 0, and never used twice in a session.
    pub request_id: u64,
    /// The prefix wanted; the all-zero address means any of that length.
    pub prefix: IpNet,
}

/// ROUTE_ADVERTISEMENT: where the sender forwards to, ordered and without overlap. It replaces the one before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteAdvertisement {
    ranges: Vec<AddressRange>,
}

/// One route: from `start` to `end`, both included, both of one IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    start: IpAddr,
    end: IpAddr,
    protocol: u8,
}

impl AddressAssign {
    /// The assignment of `entries`; host bits are cleared.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = AssignedAddress>) -> Self {
        let clear = |entry: AssignedAddress| AssignedAddress { prefix: entry.prefix.trunc(), ..entry };
        Self { entries: entries.into_iter().map(clear).collect() }
    }

    #[must_use]
    pub fn entries(&self) -> &[AssignedAddress] {
        &self.entries
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        for entry in &self.entries {
            encode_prefix(entry.request_id, entry.prefix, out);
        }
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, ConnectIpError> {
        let mut reader = Reader::new(value);
        let mut entries = Vec::new();
        while !reader.is_empty() {
            let (request_id, prefix) = decode_prefix(&mut reader)?;
            entries.push(AssignedAddress { request_id, prefix });
        }
        Ok(Self { entries })
    }
}

impl AddressRequest {
    /// The request for `entries`; host bits are cleared.
    ///
    /// # Errors
    /// [`ConnectIpError::RequestEmpty`], [`ConnectIpError::RequestIdZero`], [`ConnectIpError::RequestIdTwice`].
    pub fn new(entries: impl IntoIterator<Item = RequestedAddress>) -> Result<Self, ConnectIpError> {
        let clear = |entry: RequestedAddress| RequestedAddress { prefix: entry.prefix.trunc(), ..entry };
        let entries: Vec<_> = entries.into_iter().map(clear).collect();
        let mut ids: Vec<u64> = entries.iter().map(|entry| entry.request_id).collect();
        ids.sort_unstable();
        match ids.first() {
            None => return Err(ConnectIpError::RequestEmpty),
            Some(0) => return Err(ConnectIpError::RequestIdZero),
            Some(_) => {}
        }
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(ConnectIpError::RequestIdTwice(pair[0])),
            None => Ok(Self { entries }),
        }
    }

    #[must_use]
    pub fn entries(&self) -> &[RequestedAddress] {
        &self.entries
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        for entry in &self.entries {
            encode_prefix(entry.request_id, entry.prefix, out);
        }
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, ConnectIpError> {
        let mut reader = Reader::new(value);
        let mut entries = Vec::new();
        while !reader.is_empty() {
            let (request_id, prefix) = decode_prefix(&mut reader)?;
            entries.push(RequestedAddress { request_id, prefix });
        }
        Self::new(entries)
    }
}

impl AddressRange {
    /// `protocol` is the IP protocol that may go there; 0 means all (RFC 9484 §4.7.3).
    ///
    /// # Errors
    /// [`ConnectIpError::RangeMixed`] and [`ConnectIpError::RangeReversed`].
    pub fn new(start: IpAddr, end: IpAddr, protocol: u8) -> Result<Self, ConnectIpError> {
        if start.is_ipv4() != end.is_ipv4() {
            return Err(ConnectIpError::RangeMixed);
        }
        if start > end {
            return Err(ConnectIpError::RangeReversed);
        }
        Ok(Self { start, end, protocol })
    }

    /// All of `prefix`, for all protocols.
    #[must_use]
    pub fn of(prefix: IpNet) -> Self {
        Self { start: prefix.network(), end: prefix.broadcast(), protocol: 0 }
    }

    #[must_use]
    pub fn start(&self) -> IpAddr {
        self.start
    }

    #[must_use]
    pub fn end(&self) -> IpAddr {
        self.end
    }

    /// The IP protocol; 0 means all.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Whether a packet of `protocol` to `address` may go here.
    #[must_use]
    pub fn contains(&self, address: IpAddr, protocol: u8) -> bool {
        (self.protocol == 0 || self.protocol == protocol)
            && self.start.is_ipv4() == address.is_ipv4()
            && (self.start..=self.end).contains(&address)
    }

    fn version(&self) -> u8 {
        if self.start.is_ipv4() { 4 } else { 6 }
    }

    /// Whether `self` may stand directly before `next`.
    fn precedes(&self, next: &Self) -> bool {
        let (before, after) = ((self.version(), self.protocol), (next.version(), next.protocol));
        before < after || before == after && self.end < next.start
    }
}

impl RouteAdvertisement {
    /// The advertisement of `ranges`, put in order.
    ///
    /// # Errors
    /// [`ConnectIpError::RangeOrder`] when two ranges of one protocol overlap.
    pub fn new(ranges: impl IntoIterator<Item = AddressRange>) -> Result<Self, ConnectIpError> {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable_by_key(|range| (range.version(), range.protocol, range.start));
        Self::ordered(ranges)
    }

    #[must_use]
    pub fn ranges(&self) -> &[AddressRange] {
        &self.ranges
    }

    fn ordered(ranges: Vec<AddressRange>) -> Result<Self, ConnectIpError> {
        match ranges.windows(2).all(|pair| pair[0].precedes(&pair[1])) {
            true => Ok(Self { ranges }),
            false => Err(ConnectIpError::RangeOrder),
        }
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        for range in &self.ranges {
            out.put_u8(range.version());
            put_address(range.start, out);
            put_address(range.end, out);
            out.put_u8(range.protocol);
        }
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, ConnectIpError> {
        let mut reader = Reader::new(value);
        let mut ranges = Vec::new();
        while !reader.is_empty() {
            ranges.push(decode_range(&mut reader)?);
        }
        Self::ordered(ranges)
    }
}

fn encode_prefix(request_id: u64, prefix: IpNet, out: &mut impl BufMut) {
    varint::encode(request_id, out);
    out.put_u8(if prefix.addr().is_ipv4() { 4 } else { 6 });
    put_address(prefix.addr(), out);
    out.put_u8(prefix.prefix_len());
}

fn decode_prefix(reader: &mut Reader<'_>) -> Result<(u64, IpNet), Stop<ConnectIpError>> {
    let request_id = reader.varint()?;
    let version = reader.byte()?;
    let address = reader.address(version, ConnectIpError::IpVersion(version))?;
    let bits = reader.byte()?;
    let prefix = IpNet::new(address, bits).map_err(|_| Stop::Bad(ConnectIpError::PrefixLength(bits)))?;
    match prefix.trunc() == prefix {
        true => Ok((request_id, prefix)),
        false => Err(Stop::Bad(ConnectIpError::HostBits)),
    }
}

fn decode_range(reader: &mut Reader<'_>) -> Result<AddressRange, Stop<ConnectIpError>> {
    let version = reader.byte()?;
    let start = reader.address(version, ConnectIpError::IpVersion(version))?;
    let end = reader.address(version, ConnectIpError::IpVersion(version))?;
    AddressRange::new(start, end, reader.byte()?).map_err(Stop::Bad)
}

fn put_address(address: IpAddr, out: &mut impl BufMut) {
    match address {
        IpAddr::V4(address) => out.put_slice(&address.octets()),
        IpAddr::V6(address) => out.put_slice(&address.octets()),
    }
}

/// A capsule's value is whole when it is decoded, so bytes that lack are wrong, not late.
impl From<Stop<ConnectIpError>> for ConnectIpError {
    fn from(stop: Stop<ConnectIpError>) -> Self {
        match stop {
            Stop::More => Self::Truncated,
            Stop::Bad(error) => error,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    pub(in crate::wire) fn prefixes() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u32>(), 0u8..=32).prop_map(|(a, bits)| IpNet::new(IpAddr::V4(a.into()), bits).unwrap().trunc()),
            (any::<u128>(), 0u8..=128).prop_map(|(a, bits)| IpNet::new(IpAddr::V6(a.into()), bits).unwrap().trunc()),
        ]
    }

    pub(in crate::wire) fn assigns() -> impl Strategy<Value = AddressAssign> {
        let entry = (0..=varint::MAX, prefixes());
        let entry = entry.prop_map(|(request_id, prefix)| AssignedAddress { request_id, prefix });
        vec(entry, 0..8).prop_map(AddressAssign::new)
    }

    pub(in crate::wire) fn requests() -> impl Strategy<Value = AddressRequest> {
        vec(prefixes(), 1..8).prop_map(|prefixes| {
            let entries = (1..).zip(prefixes).map(|(request_id, prefix)| RequestedAddress { request_id, prefix });
            AddressRequest::new(entries).unwrap()
        })
    }

    pub(in crate::wire) fn routes() -> impl Strategy<Value = RouteAdvertisement> {
        vec(((prefixes(), any::<u8>()), any::<bool>()), 0..8).prop_map(|wishes| {
            let mut ranges: Vec<AddressRange> = Vec::new();
            for ((prefix, protocol), all) in wishes {
                let range = AddressRange { protocol: if all { 0 } else { protocol }, ..AddressRange::of(prefix) };
                if RouteAdvertisement::new(ranges.iter().copied().chain([range])).is_ok() {
                    ranges.push(range);
                }
            }
            RouteAdvertisement::new(ranges).unwrap()
        })
    }

    fn range(start: &str, end: &str, protocol: u8) -> AddressRange {
        AddressRange::new(start.parse().unwrap(), end.parse().unwrap(), protocol).unwrap()
    }

    #[test]
    fn an_assignment_reads_as_the_standard_draws_it() {
        let assign = AddressAssign::new([AssignedAddress { request_id: 1, prefix: "192.0.2.11/32".parse().unwrap() }]);
        let mut out = Vec::new();
        assign.encode(&mut out);
        assert_eq!(out, [1, 4, 192, 0, 2, 11, 32]);
    }

    #[test]
    fn malformed_assignments_are_refused_by_rule() {
        for (bytes, want) in [
            (&[1, 4, 192, 0, 2][..], ConnectIpError::Truncated),
            (&[1], ConnectIpError::Truncated),
            (&[1, 5, 0, 0, 0, 0, 0], ConnectIpError::IpVersion(5)),
            (&[1, 4, 192, 0, 2, 0, 33], ConnectIpError::PrefixLength(33)),
            (&[1, 4, 192, 0, 2, 1, 24], ConnectIpError::HostBits),
            (&[1, 4, 192, 0, 2, 0, 24, 1], ConnectIpError::Truncated),
        ] {
            assert_eq!(AddressAssign::decode(bytes), Err(want), "{bytes:?}");
        }
        assert_eq!(AddressAssign::decode(&[]), Ok(AddressAssign::default()), "an empty assignment takes all away");
    }

    #[test]
    fn requests_have_ids_of_their_own() {
        let entry = [4, 0, 0, 0, 0, 32];
        let with_ids = |ids: &[u8]| ids.iter().flat_map(|id| std::iter::once(*id).chain(entry)).collect::<Vec<u8>>();
        assert_eq!(AddressRequest::decode(&[]), Err(ConnectIpError::RequestEmpty));
        assert_eq!(AddressRequest::decode(&with_ids(&[0])), Err(ConnectIpError::RequestIdZero));
        assert_eq!(AddressRequest::decode(&with_ids(&[3, 1, 3])), Err(ConnectIpError::RequestIdTwice(3)));
        assert_eq!(AddressRequest::decode(&with_ids(&[3, 1])).unwrap().entries().len(), 2);
    }

    #[test]
    fn routes_are_ordered_by_version_protocol_and_address() {
        let ordered =
            [range("10.0.0.0", "10.0.0.9", 0), range("9.0.0.0", "9.0.0.9", 6), range("fd00::", "fd00::ff", 0)];
        let advertisement = RouteAdvertisement::new(ordered.into_iter().rev()).unwrap();
        assert_eq!(advertisement.ranges(), ordered);
        for wrong in [
            [range("10.0.0.0", "10.0.0.9", 0), range("10.0.0.9", "10.0.0.12", 0)],
            [range("10.0.0.9", "10.0.0.9", 0), range("10.0.0.1", "10.0.0.2", 0)],
            [range("10.0.0.0", "10.0.0.9", 6), range("11.0.0.0", "11.0.0.9", 0)],
            [range("fd00::", "fd00::1", 0), range("11.0.0.0", "11.0.0.9", 0)],
        ] {
            let mut bytes = Vec::new();
            RouteAdvertisement { ranges: wrong.to_vec() }.encode(&mut bytes);
            assert_eq!(RouteAdvertisement::decode(&bytes), Err(ConnectIpError::RangeOrder), "{wrong:?}");
        }
    }

    #[test]
    fn a_route_runs_forward_within_one_version() {
        assert_eq!(RouteAdvertisement::decode(&[4, 10, 0, 0, 2, 10, 0, 0, 1, 0]), Err(ConnectIpError::RangeReversed));
        let mixed = AddressRange::new("10.0.0.1".parse().unwrap(), "fd00::".parse().unwrap(), 0);
        assert_eq!(mixed, Err(ConnectIpError::RangeMixed));
        let range = range("10.0.0.1", "10.0.0.3", 6);
        assert!(range.contains("10.0.0.3".parse().unwrap(), 6));
        assert!(!range.contains("10.0.0.4".parse().unwrap(), 6));
        assert!(!range.contains("10.0.0.3".parse().unwrap(), 17));
    }

    proptest! {
        #[test]
        fn every_value_survives_the_round_trip(assign in assigns(), request in requests(), routes in routes()) {
            let mut out = Vec::new();
            assign.encode(&mut out);
            prop_assert_eq!(AddressAssign::decode(&out), Ok(assign));
            out.clear();
            request.encode(&mut out);
            prop_assert_eq!(AddressRequest::decode(&out), Ok(request));
            out.clear();
            routes.encode(&mut out);
            prop_assert_eq!(RouteAdvertisement::decode(&out), Ok(routes));
        }

        #[test]
        fn what_decodes_encodes_to_a_value_that_decodes_alike(bytes in vec(prop_oneof![0u8..8, any::<u8>()], 0..64)) {
            let mut out = Vec::new();
            if let Ok(assign) = AddressAssign::decode(&bytes) {
                assign.encode(&mut out);
                prop_assert_eq!(AddressAssign::decode(&out), Ok(assign));
            }
            out.clear();
            if let Ok(request) = AddressRequest::decode(&bytes) {
                request.encode(&mut out);
                prop_assert_eq!(AddressRequest::decode(&out), Ok(request));
            }
            out.clear();
            if let Ok(routes) = RouteAdvertisement::decode(&bytes) {
                routes.encode(&mut out);
                prop_assert_eq!(RouteAdvertisement::decode(&out), Ok(routes));
            }
        }
    }
}
