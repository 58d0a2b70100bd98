//! A backend that reads HTTP/1.1 from bare bytes and keeps what it read, so that a test sees what a gateway wrote.
//!
//! It is as strict as can be: what is not exactly one request after another is kept as garbage, and ends the connection.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// Bytes of one connection that are not looked at yet; a test sends less.
const PENDING_BYTES_MAX: usize = 4 << 20;

/// One thing that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A whole request.
    Request(Request),
    /// Bytes that are none, or the beginning of one that was broken off.
    Garbage(String),
}

/// A request, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `METHOD TARGET`.
    pub line: String,
    /// The header fields, their names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: String,
    /// The trailer fields.
    pub trailers: Vec<(String, String)>,
}

impl Request {
    /// The value of a field that came once.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter().filter(|(field, _)| field == name);
        all.next().filter(|_| all.next().is_none()).map(|(_, value)| value.as_str())
    }
}

/// A running backend. Stops when dropped.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    listener: AbortHandle,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Recorder {
    /// # Panics
    /// When loopback has no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let seen = Arc::new(Mutex::default());
        let listener = tokio::spawn(accept(listener, Arc::clone(&seen))).abort_handle();
        Self { address, seen, listener }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came since this was asked last.
    #[must_use]
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn accept(listener: TcpListener, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(record(tcp, Arc::clone(&seen)));
    }
}

async fn record(mut tcp: TcpStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let keep = |one| seen.lock().unwrap_or_else(PoisonError::into_inner).push(one);
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes) {
            Ok(Some((request, length))) => {
                bytes.drain(..length);
                let length = if request.line.starts_with("HEAD ") { "" } else { "recorded" };
                keep(Seen::Request(request));
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{length}");
                if tcp.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Ok(None) if bytes.len() < PENDING_BYTES_MAX => {
                if !matches!(tcp.read_buf(&mut bytes).await, Ok(1..)) {
                    if !bytes.is_empty() {
                        keep(Seen::Garbage(String::from_utf8_lossy(&bytes).into_owned()));
                    }
                    return;
                }
            }
            _ => return keep(Seen::Garbage(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }
}

/// That the bytes are no request.
struct NoRequest;

/// The request that `bytes` begin with, and its length; none while it is not complete.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, NoRequest> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| NoRequest)?;
    let (line, rest) = head.split_once("\r\n").unwrap_or((head, ""));
    let line = line.strip_suffix(" HTTP/1.1").filter(|line| line.split(' ').count() == 2).ok_or(NoRequest)?;
    let fields = fields(rest)?;
    let mut request = Request { line: line.to_owned(), fields, body: String::new(), trailers: Vec::new() };
    let count = |name: &str| request.fields.iter().filter(|(field, _)| field == name).count();
    let body = end + 4;
    let length = match (count("content-length"), count("transfer-encoding")) {
        (0, 0) => 0,
        (1, 0) => request.field("content-length").and_then(|value| value.parse().ok()).ok_or(NoRequest)?,
        (0, 1) if request.field("transfer-encoding") == Some("chunked") => {
            let Some((content, trailers, length)) = chunks(&bytes[body..])? else { return Ok(None) };
            (request.body, request.trailers) = (content, trailers);
            return Ok(Some((request, body + length)));
        }
        _ => return Err(NoRequest),
    };
    let Some(content) = bytes.get(body..body + length) else { return Ok(None) };
    request.body = String::from_utf8_lossy(content).into_owned();
    Ok(Some((request, body + length)))
}

type Chunks = (String, Vec<(String, String)>, usize);

/// A chunked body without extensions: its content, its trailers, and its length in bytes.
fn chunks(bytes: &[u8]) -> Result<Option<Chunks>, NoRequest> {
    let (mut at, mut content) = (0, Vec::new());
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let digits = std::str::from_utf8(&bytes[at..at + line]).map_err(|_| NoRequest)?;
        let size = usize::from_str_radix(digits, 16).map_err(|_| NoRequest)?;
        at += line + 2;
        if size == 0 {
            if bytes[at..].starts_with(b"\r\n") {
                return Ok(Some((String::from_utf8_lossy(&content).into_owned(), Vec::new(), at + 2)));
            }
            let Some(end) = find(&bytes[at..], b"\r\n\r\n") else { return Ok(None) };
            let trailers = fields(std::str::from_utf8(&bytes[at..at + end]).map_err(|_| NoRequest)?)?;
            return Ok(Some((String::from_utf8_lossy(&content).into_owned(), trailers, at + end + 4)));
        }
        let Some(data) = bytes.get(at..at + size + 2) else { return Ok(None) };
        content.extend(data.strip_suffix(b"\r\n").ok_or(NoRequest)?);
        at += size + 2;
    }
}

fn fields(text: &str) -> Result<Vec<(String, String)>, NoRequest> {
    let is_token = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    let is_value = |value: &str| value.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    let field = |line: &str| {
        let (name, value) = line.split_once(':').ok_or(NoRequest)?;
        let fits = is_token(name) && is_value(value);
        fits.then(|| (name.to_ascii_lowercase(), value.trim().to_owned())).ok_or(NoRequest)
    };
    text.split("\r\n").filter(|line| !line.is_empty()).map(field).collect()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
