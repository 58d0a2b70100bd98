//! HTTP/2 frame by frame (RFC 9113 §4), so that a test can send what no client library would.
//!
//! Header blocks are literals without indexing or Huffman coding (RFC 7541 §6.2.2); the relay is told to use no dynamic
//! table, so that the status of an answer can be read without keeping one.

use std::{fmt, net::SocketAddr};

use anyhow::Context;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::tls_stream,
    eventually::{PATIENCE, within},
};

/// RFC 9113 §3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Types of frames (RFC 9113 §6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

// Flags.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 0x20;

// Error codes (RFC 9113 §7).
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame as its bytes.
///
/// # Panics
/// When the payload is longer than a length of 24 bits says.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a payload of a test is short").to_be_bytes();
    assert_eq!(length[0], 0, "a frame's length has 24 bits");
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of these fields.
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        literal(&mut bytes, name.as_bytes(), value.as_bytes());
    }
    bytes
}

/// Adds one field: a literal without indexing, with a new name.
pub fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        integer(block, 0, 7, text.len());
        block.extend(text);
    }
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1).
pub fn integer(block: &mut Vec<u8>, first: u8, prefix_bits: u8, value: usize) {
    let most = (1 << prefix_bits) - 1;
    if value < most {
        block.push(first | u8::try_from(value).unwrap_or_default());
        return;
    }
    block.push(first | u8::try_from(most).unwrap_or_default());
    let mut rest = value - most;
    while rest >= 0x80 {
        block.push(u8::try_from(rest & 0x7f).unwrap_or_default() | 0x80);
        rest >>= 7;
    }
    block.push(u8::try_from(rest).unwrap_or_default());
}

/// The pseudo-header fields of a GET.
#[must_use]
pub fn get<'a>(host: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", path)]
}

/// A setting (RFC 9113 §6.5.1).
#[must_use]
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// What the relay answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// GOAWAY with this code.
    Connection(u32),
    /// RST_STREAM with this code.
    Stream(u32),
    /// The head of an answer.
    Status(u16),
    /// The connection ended without a word.
    Closed,
}

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Our side of a connection, which does nothing by itself.
pub struct Peer {
    io: Box<dyn Io>,
    read: Vec<u8>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Peer").field("read", &self.read.len()).finish_non_exhaustive()
    }
}

impl Peer {
    /// Connects in the clear, and sends nothing.
    ///
    /// # Panics
    /// When the gateway does not take the connection.
    pub async fn connect(gateway: SocketAddr) -> Self {
        let tcp = TcpStream::connect(gateway).await.expect("the gateway takes connections");
        tcp.set_nodelay(true).expect("a socket has options");
        Self { io: Box::new(tcp), read: Vec::new() }
    }

    /// Connects, and exchanges prefaces and settings.
    pub async fn open(gateway: SocketAddr) -> Self {
        let mut peer = Self::connect(gateway).await;
        peer.greet().await;
        peer
    }

    /// The same over TLS.
    ///
    /// # Panics
    /// When the handshake fails.
    pub async fn open_tls(gateway: SocketAddr, host: &str) -> Self {
        let tls = tls_stream(gateway, host, &["h2"]).await.expect("the gateway shakes hands");
        let mut peer = Self { io: Box::new(tls), read: Vec::new() };
        peer.greet().await;
        peer
    }

    /// Both prefaces (RFC 9113 §3.4); the relay is told to index nothing.
    async fn greet(&mut self) {
        self.send(PREFACE).await;
        self.send(&frame(SETTINGS, 0, 0, &setting(1, 0))).await;
        loop {
            let frame = self.next().await.expect("the relay greets").expect("the relay greets before it closes");
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                break;
            }
        }
        self.send(&frame(SETTINGS, ACK, 0, &[])).await;
    }

    /// Writes `bytes`; whether they were taken shows in what comes back.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = within(PATIENCE, "the relay reads", self.io.write_all(bytes)).await;
    }

    /// Writes `bytes` and reads what comes meanwhile, so that neither side waits for the other; gives all frames.
    pub async fn flood(&mut self, bytes: &[u8]) -> Vec<Frame> {
        let (mut receive, mut send) = tokio::io::split(&mut self.io);
        let sending = async {
            let _ = send.write_all(bytes).await;
        };
        let read = &mut self.read;
        let receiving = async { while receive.read_buf(read).await.is_ok_and(|count| count > 0) {} };
        let both = async {
            tokio::select! {
                () = sending => {}
                () = receiving => {}
            }
        };
        within(PATIENCE, "a flood passes", both).await;
        let mut frames = Vec::new();
        while let Some(frame) = self.take() {
            frames.push(frame);
        }
        frames
    }

    /// A request without a body on `stream`.
    pub async fn ask(&mut self, stream: u32, fields: &[(&str, &str)]) {
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(fields))).await;
    }

    fn take(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.read.get(..9)?.try_into().ok()?;
        let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).ok()?;
        let payload = self.read.get(9..9 + length)?.to_vec();
        self.read.drain(..9 + length);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame; none when the connection has ended.
    ///
    /// # Errors
    /// When the connection breaks off within a frame.
    pub async fn next(&mut self) -> anyhow::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take() {
                return Ok(Some(frame));
            }
            let read = within(PATIENCE, "a frame of the relay", self.io.read_buf(&mut self.read)).await;
            match read {
                Ok(0) | Err(_) if self.read.is_empty() => return Ok(None),
                Ok(0) => anyhow::bail!("the connection ends within a frame"),
                read => drop(read.context("the connection breaks within a frame")?),
            }
        }
    }

    /// What comes first of an answer, a reset, and an end that is not just a goodbye.
    pub async fn end(&mut self) -> End {
        while let Ok(Some(frame)) = self.next().await {
            if let Some(end) = frame.end() {
                return end;
            }
        }
        End::Closed
    }

    /// What [`Peer::end`] is for `stream`, or for the connection; of others it is passed over.
    pub async fn end_of(&mut self, stream: u32) -> End {
        while let Ok(Some(frame)) = self.next().await {
            let end = frame.end().filter(|_| frame.stream == stream || frame.stream == 0);
            if let Some(end) = end {
                return end;
            }
        }
        End::Closed
    }
}

impl Frame {
    /// What the frame decides, if it decides something.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        let number = |at: usize| {
            let bytes: [u8; 4] = self.payload.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_be_bytes(bytes))
        };
        match self.kind {
            GOAWAY => number(4).filter(|code| *code != NO_ERROR).map(End::Connection),
            RST_STREAM => number(0).map(End::Stream),
            HEADERS => status(&self.payload).map(End::Status),
            _ => None,
        }
    }
}

/// The status that a header block of the relay begins with: indexed, or a literal with the indexed name (RFC 7541
/// appendices A and B); none for trailers.
fn status(block: &[u8]) -> Option<u16> {
    // Behind updates of the table's size.
    let block = &block[block.iter().take_while(|byte| **byte >> 5 == 1).count()..];
    let indexed = [200, 204, 206, 304, 400, 404, 500];
    match *block.first()? {
        first @ 0x88..=0x8e => Some(indexed[usize::from(first - 0x88)]),
        0x08 | 0x18 | 0x48 => {
            let length = usize::from(block.get(1)? & 0x7f);
            let text = block.get(2..2 + length)?;
            if block[1] & 0x80 == 0 { String::from_utf8_lossy(text).parse().ok() } else { digits(text) }
        }
        _ => None,
    }
}

/// Digits in Huffman coding: 0 to 2 have five bits, the others six.
fn digits(text: &[u8]) -> Option<u16> {
    let bits: Vec<u16> = text.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1))).collect();
    let value = |bits: &[u16]| bits.iter().fold(0, |sum, bit| sum * 2 + bit);
    let (mut rest, mut number) = (&bits[..], 0);
    for _ in 0..3 {
        let five = value(rest.get(..5)?);
        let (digit, length) = if five < 3 { (five, 5) } else { (value(rest.get(..6)?) - 0x19 + 3, 6) };
        number = number * 10 + digit;
        rest = &rest[length..];
    }
    Some(number)
}
