//! HTTP/1.1 that servers are known to read in different ways (RFC 9112 §11): the backend gets exactly what was meant, or
//! nothing, and what the relay refuses ends the connection.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use underpass_tests::{
    client,
    eventually::{PATIENCE, within},
    front::{Front, HOST},
    recorder::{Recorder, Request, Seen},
};

/// What is refused: an answer with this status, and the end of the connection.
const BAD: &[u16] = &[400];

/// A case: its name, what is sent, the statuses of the answers, and what the backend sees, each as
/// `METHOD TARGET` and, after ` | `, the body.
type Case<'a> = (&'a str, Vec<u8>, &'a [u16], &'a [&'a str]);

fn statuses(answer: &str) -> Vec<u16> {
    let heads = answer.split("HTTP/1.").skip(1);
    heads.filter_map(|rest| rest.get(2..5)?.parse().ok()).filter(|status| *status != 100).collect()
}

fn shown(request: &Request) -> String {
    if request.body.is_empty() { request.line.clone() } else { format!("{} | {}", request.line, request.body) }
}

/// Tries every case, each on a connection of its own; gives what the backend saw, case by case.
async fn check(cases: &[Case<'_>]) -> Vec<Vec<Request>> {
    let recorder = Recorder::start().await;
    let front = Front::open(recorder.address()).await;
    let mut all = Vec::new();
    for (name, sent, wanted, meant) in cases {
        drop(recorder.take());
        let answer = client::raw(front.addresses().http, sent).await;
        let seen = recorder.take();
        let requests: Vec<Request> = seen
            .iter()
            .filter_map(|one| if let Seen::Request(request) = one { Some(request.clone()) } else { None })
            .collect();
        let lines: Vec<String> = requests.iter().map(shown).collect();
        assert_eq!(statuses(&answer), *wanted, "{name}: {answer}");
        assert_eq!(lines, *meant, "{name}: {seen:?}");
        front.serves_others(name).await;
        all.push(requests);
    }
    all
}

/// A request line and more header lines, with the Host and an empty line.
fn head(line: &str, lines: &str) -> String {
    format!("{line}\r\nhost: {HOST}\r\n{lines}\r\n")
}

fn post(lines: &str, body: &str) -> Vec<u8> {
    [head("POST /a HTTP/1.1", lines), body.to_owned()].concat().into_bytes()
}

/// A request that must not be served when it stands where a body should be.
fn smuggled() -> String {
    head("GET /smuggled HTTP/1.1", "")
}

#[tokio::test]
async fn rfc9112_6_3_a_body_has_one_length() {
    let chunked = "transfer-encoding: chunked\r\n";
    let both = post(&format!("content-length: 4\r\n{chunked}"), &format!("0\r\n\r\n{}", smuggled()));
    let other = post(
        &format!("{chunked}content-length: 4\r\n"),
        &format!("{:x}\r\n{}\r\n0\r\n\r\n", smuggled().len(), smuggled()),
    );
    let te = |value: &str| post(&format!("transfer-encoding: {value}\r\n"), &format!("0\r\n\r\n{}", smuggled()));
    let cl = |value: &str| post(&format!("content-length: {value}\r\n"), "123");
    check(&[
        // §6.1: chunked counts, the length is dropped, and the connection ends behind the answer.
        ("CL and TE", both, &[200], &["POST /a"]),
        ("TE and CL", other, &[200], &[&format!("POST /a | {}", smuggled())]),
        ("TE twice", post(&format!("{chunked}{chunked}"), "0\r\n\r\n"), BAD, &[]),
        ("TE and another", post(&format!("{chunked}transfer-encoding: identity\r\n"), "0\r\n\r\n"), BAD, &[]),
        ("another and TE", post(&format!("transfer-encoding: identity\r\n{chunked}"), "0\r\n\r\n"), BAD, &[]),
        ("TE of identity", te("identity"), BAD, &[]),
        ("TE of xchunked", te("xchunked"), BAD, &[]),
        ("TE of chunked, identity", te("chunked, identity"), BAD, &[]),
        ("TE of gzip, chunked", te("gzip, chunked"), BAD, &[]),
        ("TE of chunked, chunked", te("chunked, chunked"), BAD, &[]),
        ("TE with a parameter", te("chunked;q=1"), BAD, &[]),
        ("TE with a vertical tab", te("\x0bchunked"), BAD, &[]),
        ("TE in quotes", te("\"chunked\""), BAD, &[]),
        ("TE of nothing", te(""), BAD, &[]),
        (
            "TE behind a tab",
            post("transfer-encoding:\tchunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
            &[200],
            &["POST /a | abc"],
        ),
        ("TE in capitals", post("Transfer-Encoding: CHUNKED\r\n", "3\r\nabc\r\n0\r\n\r\n"), &[200], &["POST /a | abc"]),
        ("TE with an underscore", post("transfer_encoding: chunked\r\n", ""), &[200], &["POST /a"]),
        (
            "TE in HTTP/1.0",
            [head("POST /a HTTP/1.0", chunked), "0\r\n\r\n".to_owned(), smuggled()].concat().into_bytes(),
            BAD,
            &[],
        ),
        ("CL", cl("3"), &[200], &["POST /a | 123"]),
        ("CL between spaces", cl(" \t3 "), &[200], &["POST /a | 123"]),
        ("CL with a sign", cl("+3"), BAD, &[]),
        ("a negative CL", cl("-3"), BAD, &[]),
        ("CL in hexadecimal", cl("0x3"), BAD, &[]),
        ("CL with a fraction", cl("3.0"), BAD, &[]),
        ("CL of nothing", cl(""), BAD, &[]),
        ("CL beyond 64 bits", cl("18446744073709551619"), BAD, &[]),
        ("CL as a list", cl("3, 3"), BAD, &[]),
        ("CL as a list of two", cl("3, 4"), BAD, &[]),
        // §6.3: of equal ones the relay makes one.
        ("CL twice", post("content-length: 3\r\ncontent-length: 3\r\n", "123"), &[200], &["POST /a | 123"]),
        ("CL twice, different", post("content-length: 3\r\ncontent-length: 4\r\n", "1234"), BAD, &[]),
        ("CL with an underscore", post("content_length: 3\r\n", ""), &[200], &["POST /a"]),
    ])
    .await;
}

#[tokio::test]
async fn rfc9112_7_1_chunks_are_framed_as_they_should_be() {
    let chunks = |body: &str| post("transfer-encoding: chunked\r\n", body);
    let end = "0\r\n\r\n";
    let seen = check(&[
        ("two chunks", chunks("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), &[200], &["POST /a | abcde"]),
        ("an extension", chunks("3;name=value\r\nabc\r\n0\r\n\r\n"), &[200], &["POST /a | abc"]),
        ("leading zeros", chunks("0003\r\nabc\r\n0\r\n\r\n"), &[200], &["POST /a | abc"]),
        ("trailers", chunks("3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"), &[200], &["POST /a | abc"]),
        (
            "framing among trailers",
            chunks("3\r\nabc\r\n0\r\ncontent-length: 9\r\ntransfer-encoding: x\r\nhost: y\r\n\r\n"),
            &[200],
            &["POST /a | abc"],
        ),
        ("a size of nothing", chunks(&format!("\r\nabc\r\n{end}")), BAD, &[]),
        ("a size with a sign", chunks(&format!("+3\r\nabc\r\n{end}")), BAD, &[]),
        ("a negative size", chunks(&format!("-3\r\nabc\r\n{end}")), BAD, &[]),
        ("a size with a prefix", chunks(&format!("0x3\r\nabc\r\n{end}")), BAD, &[]),
        ("a size of 2^64", chunks(&format!("10000000000000003\r\nabc\r\n{end}")), BAD, &[]),
        ("a size behind a space", chunks(&format!(" 3\r\nabc\r\n{end}")), BAD, &[]),
        ("a size that ends in LF", chunks(&format!("3\nabc\r\n{end}")), BAD, &[]),
        ("a size that ends in CR", chunks(&format!("3\rabc\r\n{end}")), BAD, &[]),
        ("an extension that ends in LF", chunks(&format!("3;a\nabc\r\n{end}")), BAD, &[]),
        ("an extension with CR", chunks(&format!("3;a\rb\r\nabc\r\n{end}")), BAD, &[]),
        ("an extension of 20 KiB", chunks(&format!("3;{}\r\nabc\r\n{end}", "a".repeat(20 << 10))), BAD, &[]),
        ("data that ends in LF", chunks(&format!("3\r\nabc\n{end}")), BAD, &[]),
        ("data longer than its size", chunks(&format!("3\r\nabcd\r\n{end}")), BAD, &[]),
        ("data shorter than its size", chunks(&format!("9\r\nabc\r\n{end}")), BAD, &[]),
        ("an end that is cut", chunks("3\r\nabc\r\n"), BAD, &[]),
        ("an end that ends in LF", chunks("3\r\nabc\r\n0\n\n"), BAD, &[]),
        ("trailers of 100 KiB", chunks(&format!("3\r\nabc\r\n0\r\nx: {}\r\n\r\n", "a".repeat(100 << 10))), BAD, &[]),
        ("a thousand trailers", chunks(&format!("3\r\nabc\r\n0\r\n{}\r\n", "x: 1\r\n".repeat(1000))), BAD, &[]),
    ])
    .await;
    for request in seen.iter().flatten() {
        for name in ["content-length", "transfer-encoding", "host"] {
            assert!(request.trailers.iter().all(|(field, _)| field != name), "no framing among trailers: {request:?}");
        }
    }
}

#[tokio::test]
async fn rfc9112_5_fields_have_one_form() {
    let get = |lines: &str| head("GET /a HTTP/1.1", lines).into_bytes();
    let seen = check(&[
        ("an ordinary field", get("x-a: 1\r\n"), &[200], &["GET /a"]),
        ("no space and many", get("x-a:1\r\nx-b: \t 2 \t\r\n"), &[200], &["GET /a"]),
        ("§5.1: a space before the colon", get("x-a : 1\r\n"), BAD, &[]),
        ("§5.1: a tab before the colon", get("x-a\t: 1\r\n"), BAD, &[]),
        ("§5.1: a space before TE's colon", get("transfer-encoding : chunked\r\n"), BAD, &[]),
        ("a name with a space", get("x a: 1\r\n"), BAD, &[]),
        ("a name with NUL", get("x\0a: 1\r\n"), BAD, &[]),
        ("no name", get(": 1\r\n"), BAD, &[]),
        ("no colon", get("x-a\r\n"), BAD, &[]),
        ("§5.2: a folded line", get("x-a: 1\r\n 2\r\n"), BAD, &[]),
        ("§5.2: a line folded by a tab", get("x-a: 1\r\n\t2\r\n"), BAD, &[]),
        ("§5.2: TE on a folded line", get("transfer-encoding:\r\n chunked\r\n"), BAD, &[]),
        (
            "§2.2: space before the first field",
            b"GET /a HTTP/1.1\r\n host: front.example.com\r\n\r\n".to_vec(),
            BAD,
            &[],
        ),
        ("a value with NUL", get("x-a: 1\x002\r\n"), BAD, &[]),
        ("a value with CR", get("x-a: 1\r2\r\n"), BAD, &[]),
        ("a value with CR and a field", get("x-a: 1\rtransfer-encoding: chunked\r\n"), BAD, &[]),
        ("a value with DEL", get("x-a: 1\x7f2\r\n"), BAD, &[]),
        ("§2.2: lines that end in LF", format!("GET /a HTTP/1.1\nhost: {HOST}\n\n").into_bytes(), &[200], &["GET /a"]),
        ("a line that ends in LF and a field", get("x-a: 1\nx-b: 2\r\n"), &[200], &["GET /a"]),
        ("§2.2: empty lines before", [b"\r\n\r\n".to_vec(), get("")].concat(), &[200], &["GET /a"]),
        ("a head of 100 KiB", get(&format!("x-a: {}\r\n", "a".repeat(100 << 10))), &[431], &[]),
        ("101 fields", get(&"x-a: 1\r\n".repeat(101)), &[431], &[]),
    ])
    .await;
    for request in seen.iter().flatten() {
        assert!(request.field("host") == Some(HOST) && request.body.is_empty(), "{request:?}");
    }
}

#[tokio::test]
async fn rfc9112_3_request_lines_and_their_targets() {
    let line = |line: &str| head(line, "").into_bytes();
    let long = format!("{} /a HTTP/1.1", "M".repeat(70_000));
    check(&[
        ("a method of ours", line("BREW /a HTTP/1.1"), &[200], &["BREW /a"]),
        ("a method in lower case is another", line("get /a HTTP/1.1"), &[200], &["get /a"]),
        ("no method", line(" /a HTTP/1.1"), BAD, &[]),
        ("a method with a separator", line("G(T /a HTTP/1.1"), BAD, &[]),
        ("a method with NUL", line("G\0T /a HTTP/1.1"), BAD, &[]),
        ("a method of 70,000 bytes", line(&long), &[431], &[]),
        ("two spaces", line("GET  /a HTTP/1.1"), BAD, &[]),
        ("a tab", line("GET\t/a HTTP/1.1"), BAD, &[]),
        ("no target", line("GET HTTP/1.1"), BAD, &[]),
        ("a target with a space", line("GET /a b HTTP/1.1"), BAD, &[]),
        ("a target with NUL", line("GET /a\0b HTTP/1.1"), BAD, &[]),
        ("a target with CR", line("GET /a\rb HTTP/1.1"), BAD, &[]),
        ("a target with DEL", line("GET /a\x7fb HTTP/1.1"), BAD, &[]),
        ("a relative target", line("GET a HTTP/1.1"), BAD, &[]),
        ("a target of 100 KiB", line(&format!("GET /{} HTTP/1.1", "a".repeat(100 << 10))), &[431], &[]),
        ("a fragment", line("GET /a#b HTTP/1.1"), &[200], &["GET /a"]),
        ("asterisk", line("OPTIONS * HTTP/1.1"), BAD, &[]),
        ("TRACE", line("TRACE /a HTTP/1.1"), &[200], &["TRACE /a"]),
        ("CONNECT", line("CONNECT front.example.com:80 HTTP/1.1"), &[501], &[]),
        ("CONNECT with a path", line("CONNECT /a HTTP/1.1"), &[501], &[]),
        ("HTTP/0.9", b"GET /a\r\n\r\n".to_vec(), BAD, &[]),
        (
            "HTTP/1.0 and what follows",
            [head("GET /a HTTP/1.0", ""), smuggled()].concat().into_bytes(),
            &[200],
            &["GET /a"],
        ),
        ("HTTP/1.2", line("GET /a HTTP/1.2"), BAD, &[]),
        ("HTTP/2.0", line("GET /a HTTP/2.0"), BAD, &[]),
        ("http/1.1", line("GET /a http/1.1"), BAD, &[]),
        ("a version behind two spaces", line("GET /a  HTTP/1.1"), BAD, &[]),
        ("something after the version", line("GET /a HTTP/1.1 x"), BAD, &[]),
    ])
    .await;
}

#[tokio::test]
async fn rfc9112_3_2_one_host_counts() {
    let raw = |text: &str| text.replace('\n', "\r\n").into_bytes();
    let seen = check(&[
        (
            "absolute form over Host",
            raw("GET http://front.example.com/a HTTP/1.1\nhost: other.example.com\n\n"),
            &[200],
            &["GET /a"],
        ),
        (
            "absolute form of another host",
            raw("GET http://other.example.com/a HTTP/1.1\nhost: front.example.com\n\n"),
            &[404],
            &[],
        ),
        (
            "absolute form with a user",
            raw("GET http://front.example.com@other/a HTTP/1.1\nhost: front.example.com\n\n"),
            BAD,
            &[],
        ),
        // The scheme that counts is that of the connection.
        (
            "absolute form of another scheme",
            raw("GET ftp://front.example.com/a HTTP/1.1\nhost: front.example.com\n\n"),
            &[200],
            &["GET /a"],
        ),
        ("two Hosts", raw("GET /a HTTP/1.1\nhost: front.example.com\nhost: other.example.com\n\n"), BAD, &[]),
        ("two equal Hosts", raw("GET /a HTTP/1.1\nhost: front.example.com\nHost: front.example.com\n\n"), BAD, &[]),
        ("no Host", raw("GET /a HTTP/1.1\n\n"), BAD, &[]),
        ("an empty Host", raw("GET /a HTTP/1.1\nhost:\n\n"), BAD, &[]),
        ("a Host with a path", raw("GET /a HTTP/1.1\nhost: front.example.com/x\n\n"), BAD, &[]),
        ("a Host with a space", raw("GET /a HTTP/1.1\nhost: front.example.com x\n\n"), BAD, &[]),
        ("a Host as a list", raw("GET /a HTTP/1.1\nhost: front.example.com, other\n\n"), BAD, &[]),
        ("a Host with a port that is none", raw("GET /a HTTP/1.1\nhost: front.example.com:80x\n\n"), BAD, &[]),
        (
            "a Host that the client calls forwarded",
            raw("GET /a HTTP/1.1\nhost: other.example.com\nx-forwarded-host: front.example.com\n\n"),
            &[404],
            &[],
        ),
        (
            "a Host with an underscore twin",
            raw("GET /a HTTP/1.1\nhost: front.example.com\nx_forwarded_host: other\n\n"),
            &[200],
            &["GET /a"],
        ),
    ])
    .await;
    for request in seen.iter().flatten() {
        assert_eq!(request.field("host"), Some(HOST), "{request:?}");
        assert_eq!(request.field("x-forwarded-host"), Some(HOST), "{request:?}");
        assert_eq!(request.field("x_forwarded_host"), None, "{request:?}");
    }
}

#[tokio::test]
async fn rfc9112_9_3_requests_one_behind_the_other() {
    let good = |path: &str| head(&format!("GET {path} HTTP/1.1"), "");
    let all = |parts: &[&str]| parts.concat().into_bytes();
    let (a, b) = (good("/a"), good("/b"));
    let seen = check(&[
        ("two good ones", all(&[&a, &b]), &[200, 200], &["GET /a", "GET /b"]),
        ("the second is bad", all(&[&a, "GET /x HTTP/1.1\r\n\r\n", &b]), &[200, 400], &["GET /a"]),
        ("the second is no HTTP", all(&[&a, "\x16\x03\x01\r\n\r\n", &b]), &[200, 400], &["GET /a"]),
        ("what follows a close", all(&[&head("GET /a HTTP/1.1", "connection: close\r\n"), &b]), &[200], &["GET /a"]),
        (
            "a body longer than its length is another request",
            all(&[&head("POST /a HTTP/1.1", "content-length: 3\r\n"), "123", &b]),
            &[200, 200],
            &["POST /a | 123", "GET /b"],
        ),
        (
            "a body of a GET is its body",
            all(&[&head("GET /a HTTP/1.1", &format!("content-length: {}\r\n", b.len())), &b]),
            &[200],
            &[&format!("GET /a | {b}")],
        ),
        (
            "h2c is not switched to",
            all(&[
                &head(
                    "GET /a HTTP/1.1",
                    "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n",
                ),
                &b,
            ]),
            &[200, 200],
            &["GET /a", "GET /b"],
        ),
        (
            "a connection that names our fields",
            all(&[&head("GET /a HTTP/1.1", "connection: close, x-forwarded-for, host\r\n")]),
            &[200],
            &["GET /a"],
        ),
        ("nothing but an answer", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), BAD, &[]),
        ("TLS in the clear", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), BAD, &[]),
    ])
    .await;
    for request in seen.iter().flatten() {
        assert!(request.field("upgrade").is_none() && request.field("http2-settings").is_none(), "{request:?}");
        assert!(request.field("host").is_some() && request.field("x-forwarded-for").is_some(), "{request:?}");
    }
}

/// Slowloris: the head must be there ten seconds after its first byte, however alive the client seems.
#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let recorder = Recorder::start().await;
    let front = Front::open(recorder.address()).await;
    drop(recorder.take());
    let mut slow = Vec::new();
    for part in ["G", "GET /a HTTP/1.1\r\n", "GET /a HTTP/1.1\r\nhost: front.example.com\r\nx-a: 1\r\n"] {
        let mut tcp = TcpStream::connect(front.addresses().http).await.unwrap();
        tcp.write_all(part.as_bytes()).await.unwrap();
        slow.push(tcp);
    }
    front.serves_others("three heads do not end").await;
    for mut tcp in slow {
        let mut answer = Vec::new();
        // Whether it is told so or not: the relay hangs up.
        let _ = within(PATIENCE, "the relay hangs up", tcp.read_to_end(&mut answer)).await;
        assert_eq!(statuses(&String::from_utf8_lossy(&answer)).iter().filter(|status| **status == 200).count(), 0);
    }
    let lines: Vec<String> = recorder.take().iter().map(|one| format!("{one:?}")).collect();
    assert!(lines.len() == 1 && lines[0].contains("GET /name"), "only the others are served: {lines:?}");
}
