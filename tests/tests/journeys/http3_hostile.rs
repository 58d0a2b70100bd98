//! HTTP/3 of hostile clients, written byte by byte over a QUIC that we did not write: aioquic's.

use underpass_tests::{
    front::{Front, HOST},
    python,
    upstream::Upstream,
};

/// What the relay may hold more after all of them than before, in bytes: what a connection's windows hold, and what the
/// allocator keeps of what was given back.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

#[tokio::test]
async fn hostile_http3_is_answered_as_rfc9114_says() {
    let upstream = Upstream::start("front").await;
    let front = Front::open(upstream.address()).await;
    let before = front.memory();
    let https = front.addresses().https;
    let arguments = [&https.ip().to_string(), &https.port().to_string(), HOST];
    let text = python::run("http3_hostile.py", "http3-requirements.txt", &arguments).await;
    let well = text.lines().filter(|line| line.ends_with(": well")).count();
    assert!(text.ends_with(&format!("\n{well} cases\n")), "{text}");
    front.serves_others("hostile HTTP/3").await;
    upstream.holds(0).await;
    let grown = front.memory().saturating_sub(before);
    println!("{well} cases: {} KiB more", grown >> 10);
    assert!(grown < GROWTH_BYTES_MAX, "the relay holds {grown} bytes more");
}
