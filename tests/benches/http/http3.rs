//! Load over HTTP/3, for which there is no program in Debian: one thread, as many connections and requests at once as
//! h2load makes, requests written once and answers looked at no more than needed (RFC 9114, RFC 9204).

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use quinn::crypto::rustls::QuicClientConfig;
use tokio::task::JoinSet;
use underpass_tests::{client, clock};

const CONNECTIONS: usize = 8;
const REQUESTS_AT_ONCE: usize = 16;
/// The longest answer that is read, in bytes: a head and 64 bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The body of a small answer.
const BODY: [u8; 64] = [b'x'; 64];

/// Requests a second, and the times that half and 99 of 100 took at most, in microseconds.
///
/// # Panics
/// When a request failed: figures with failures mean nothing.
pub(crate) async fn load(port: u16, path: &str, seconds: u64) -> [f64; 3] {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let tls = client::trusting_all(&["h3"]).expect("suites that are built in");
    let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3 with a suite for QUIC");
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a UDP socket");
    endpoint.set_default_client_config(config);
    let request: Arc<[u8]> = request(path).into();
    let times = Arc::new(Mutex::new(Vec::new()));
    let (mut connections, mut tasks) = (Vec::new(), JoinSet::new());
    for _ in 0..CONNECTIONS {
        let connecting = endpoint.connect(address, "localhost").expect("a valid name");
        let connection = connecting.await.expect("the proxy speaks HTTP/3");
        let mut control = connection.open_uni().await.expect("a control stream");
        // Its type, and SETTINGS that set nothing.
        control.write_all(&[0x00, 0x04, 0x00]).await.expect("the connection is open");
        connections.push((connection, control));
    }
    let begin = clock::now();
    let until = begin + Duration::from_secs(seconds);
    for (connection, _) in &connections {
        for _ in 0..REQUESTS_AT_ONCE {
            let (connection, request, times) = (connection.clone(), request.clone(), times.clone());
            tasks.spawn(async move {
                let own = ask_until(&connection, &request, until).await;
                times.lock().unwrap_or_else(PoisonError::into_inner).extend(own);
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("every request is answered");
    }
    let took = begin.elapsed().as_secs_f64();
    let mut times = std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner));
    times.sort_unstable();
    let part = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    [times.len() as f64 / took, part(0.5), part(0.99)]
}

async fn ask_until(connection: &quinn::Connection, request: &[u8], until: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    loop {
        let begin = clock::now();
        if begin >= until {
            return times;
        }
        let (mut send, mut receive) = connection.open_bi().await.expect("the connection is open");
        send.write_all(request).await.expect("the stream is open");
        send.finish().expect("it was not finished before");
        let answer = receive.read_to_end(ANSWER_BYTES_MAX).await.expect("an answer");
        // HEADERS, with `:status 200` of the static table; the body lies in one frame.
        let has_body = answer.windows(BODY.len()).any(|part| part == BODY);
        assert!(answer.first() == Some(&0x01) && answer.contains(&0xd9) && has_body, "{answer:?}");
        times.push(begin.elapsed());
    }
}

/// A HEADERS frame with a GET, by the static table alone (RFC 9204 §4.5, appendix A).
fn request(path: &str) -> Vec<u8> {
    // No dynamic table; `:method GET`; `:scheme https`; `:authority` and `:path` with values of their own.
    let mut block = vec![0x00, 0x00, 0xd1, 0xd7];
    for (name, value) in [(0x50, "localhost"), (0x51, path)] {
        block.push(name);
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend_from_slice(value.as_bytes());
    }
    let mut frame = vec![0x01, u8::try_from(block.len()).expect("a short head")];
    assert!(block.len() < 64, "its length is a varint of one byte");
    frame.extend(block);
    frame
}
