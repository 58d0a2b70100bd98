//! A cursor over received bytes that tells "not all here yet" from "wrong".

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::varint;

/// Why a value could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop<E> {
    /// The bytes end before the value does.
    More,
    /// No further bytes could make it valid.
    Bad(E),
}

/// Bytes that are being read, and how far.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    consumed: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, consumed: 0 }
    }

    pub(super) fn consumed(&self) -> usize {
        self.consumed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.consumed == self.bytes.len()
    }

    pub(super) fn varint<E>(&mut self) -> Result<u64, Stop<E>> {
        let (value, length) = varint::decode(&self.bytes[self.consumed..]).ok_or(Stop::More)?;
        self.consumed += length;
        Ok(value)
    }

    pub(super) fn bytes<E>(&mut self, length: usize) -> Result<&'a [u8], Stop<E>> {
        let taken = self.bytes[self.consumed..].get(..length).ok_or(Stop::More)?;
        self.consumed += length;
        Ok(taken)
    }

    /// A length-prefixed run of at most `max` bytes; `too_long` is said as soon as the length is read.
    pub(super) fn run<E>(&mut self, max: usize, too_long: E) -> Result<&'a [u8], Stop<E>> {
        let length = self.varint()?;
        match usize::try_from(length) {
            Ok(length) if length <= max => self.bytes(length),
            _ => Err(Stop::Bad(too_long)),
        }
    }

    pub(super) fn array<const N: usize, E>(&mut self) -> Result<[u8; N], Stop<E>> {
        Ok(self.bytes(N)?.try_into().expect("as many bytes were taken"))
    }

    pub(super) fn byte<E>(&mut self) -> Result<u8, Stop<E>> {
        Ok(self.array::<1, E>()?[0])
    }

    pub(super) fn port<E>(&mut self) -> Result<u16, Stop<E>> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// An address of IP version 4 or 6; any other version is `unknown`.
    pub(super) fn address<E>(&mut self, version: u8, unknown: E) -> Result<IpAddr, Stop<E>> {
        match version {
            4 => Ok(Ipv4Addr::from(self.array()?).into()),
            6 => Ok(Ipv6Addr::from(self.array()?).into()),
            _ => Err(Stop::Bad(unknown)),
        }
    }
}
