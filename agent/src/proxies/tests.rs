//! Programs at the proxies of an agent that has no session: what is asked, refused and timed before a flow is tried.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _, pin::pin};

use super::*;

async fn proxies(users: Option<Users>) -> SocketAddr {
    let proxies = Proxies::bind((Ipv4Addr::LOCALHOST, 0).into(), users, Outward::default()).await.unwrap();
    let address = proxies.address();
    tokio::spawn(proxies.run(TaskTracker::new(), CancellationToken::new()));
    address
}

fn users() -> Option<Users> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    fs::write(&path, "me:secret").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Some(Users::load(&path).unwrap())
}

/// All that the proxy answers to `bytes`.
async fn answer(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut program = TcpStream::connect(address).await.unwrap();
    program.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A program that is cut without a word sees a reset.
    let _ = program.read_to_end(&mut answer).await;
    answer
}

/// A SOCKS5 request for 192.0.2.1:80.
const REQUEST: &[u8] = &[5, 1, 0, 1, 192, 0, 2, 1, 0, 80];

#[tokio::test(start_paused = true)]
async fn without_a_session_both_say_so() {
    let address = proxies(None).await;
    let socks = answer(address, &[&[5, 1, 0], REQUEST].concat()).await;
    assert_eq!(socks, [&[5, 0][..], &socks5::replied(Reply::NetworkUnreachable)].concat());
    let http = answer(address, b"CONNECT 192.0.2.1:80 HTTP/1.1\r\n\r\n").await;
    let http = String::from_utf8(http).unwrap();
    assert!(
        http.starts_with("HTTP/1.1 503 ") && http.ends_with("\r\n\r\nthe agent has no session with a relay\n"),
        "{http}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_must_prove_who_he_is_gets_nothing_before() {
    let address = proxies(users()).await;
    let login = |name: &[u8], password: &[u8]| {
        let parts = [&[5, 1, 2, 1, name.len() as u8], name, &[password.len() as u8], password, REQUEST];
        parts.concat()
    };
    assert_eq!(answer(address, &[&[5, 1, 0], REQUEST].concat()).await, [5, 0xff], "none is not enough");
    assert_eq!(answer(address, &login(b"me", b"wrong")).await, [5, 2, 1, 1]);
    let good = answer(address, &login(b"me", b"secret")).await;
    assert_eq!(good, [&[5, 2, 1, 0][..], &socks5::replied(Reply::NetworkUnreachable)].concat());
    for (line, status) in [
        ("", 407),
        ("Proxy-Authorization: Basic bWU6d3Jvbmc=\r\n", 407),
        ("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n", 503),
    ] {
        let answered = answer(address, format!("CONNECT 192.0.2.1:80 HTTP/1.1\r\n{line}\r\n").as_bytes()).await;
        let answered = String::from_utf8(answered).unwrap();
        assert!(answered.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answered}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_served_is_answered_in_its_own_protocol() {
    let address = proxies(None).await;
    let udp = answer(address, &[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    assert_eq!(udp, [&[5, 0][..], &socks5::replied(Reply::CommandNotSupported)].concat());
    assert_eq!(answer(address, &[5, 1, 9]).await, [5, 0xff]);
    let get = String::from_utf8(answer(address, b"GET http://192.0.2.1/ HTTP/1.1\r\n\r\n").await).unwrap();
    assert!(get.starts_with("HTTP/1.1 405 Method Not Allowed\r\nallow: CONNECT\r\n"), "{get}");
    let long = format!("CONNECT a:1 HTTP/1.1\r\nx: {}", "y".repeat(http_connect::HEAD_BYTES_MAX));
    let long = String::from_utf8(answer(address, long.as_bytes()).await).unwrap();
    assert!(long.starts_with("HTTP/1.1 431 "), "{long}");
    for foreign in [&[4, 1, 0, 80, 192, 0, 2, 1, 0][..], b"\x16\x03\x01", b"\0", b"hello"] {
        assert_eq!(answer(address, foreign).await, b"", "{foreign:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_program_that_takes_its_time_is_cut() {
    let address = proxies(None).await;
    for (begun, answered) in [(&b""[..], &b""[..]), (&[5], b""), (&[5, 1, 0, 5, 1], &[5, 0])] {
        let mut answer = pin!(answer(address, begun));
        let early = timeout(HANDSHAKE - Duration::from_secs(1), &mut answer).await;
        assert!(early.is_err(), "{begun:?}: {early:?}");
        assert_eq!(answer.await, answered, "{begun:?}");
    }
    let http = String::from_utf8(answer(address, b"CONNECT a:1 HTTP/1.1\r\n").await).unwrap();
    assert!(http.starts_with("HTTP/1.1 408 "), "{http}");
}

#[tokio::test(start_paused = true)]
async fn a_message_may_come_byte_by_byte_and_what_follows_it_is_kept() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut program = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    program.set_nodelay(true).unwrap();
    let reading = tokio::spawn(async move {
        let read = read(&mut accepted, socks5::request).await.unwrap().unwrap();
        let mut rest = [0; 5];
        accepted.read_exact(&mut rest).await.unwrap();
        (read, rest)
    });
    for byte in [REQUEST, b"early"].concat() {
        program.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let (target, rest) = reading.await.unwrap();
    assert_eq!((target.to_string().as_str(), &rest), ("192.0.2.1:80", b"early"));
}
