use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

fn addresses(source: &str, destination: &str) -> Header {
    Header::Proxied(Addresses::new(source.parse().unwrap(), destination.parse().unwrap()).unwrap())
}

/// Version 2 with this command, family and rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend_from_slice(&[command, family]);
    bytes.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

fn whole(bytes: &[u8]) -> Result<Header, DecodeError> {
    match decode(bytes)? {
        Decoded::Header(header, length) => {
            assert_eq!(length, bytes.len());
            Ok(header)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn lines_of_version_1_are_read() {
    let check = |line: &str, want| assert_eq!(whole(line.as_bytes()), want, "{line:?}");
    check("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", Ok(addresses("192.0.2.1:56324", "198.51.100.2:443")));
    check("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", Ok(addresses("[2001:db8::1]:1", "[2001:db8::2]:65535")));
    check("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n", Ok(addresses("192.0.2.1:1", "192.0.2.2:2")));
    check("PROXY UNKNOWN\r\n", Ok(Header::Local));
    check("PROXY UNKNOWN ffff::1 whatever there is\r\n", Ok(Header::Local));
}

#[test]
fn wrong_lines_are_refused() {
    let cases = [
        ("PROXY \r\n", "family"),
        ("PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "family"),
        ("PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", "family"),
        ("PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n", "address"),
        ("PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", "address"),
        ("PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", "address"),
        ("PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", "address"),
        ("PROXY TCP4 192.0.2.1\r\n", "address"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", "port"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", "port"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", "port"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", "port"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", "line"),
    ];
    for (line, what) in cases {
        assert_eq!(decode(line.as_bytes()), Err(DecodeError::Wrong(what)), "{line:?}");
    }
    let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
    assert_eq!(decode(long.as_bytes()), Err(DecodeError::LineTooLong));
    assert_eq!(decode(&long.as_bytes()[..106]), Ok(Decoded::More));
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
    assert_eq!(whole(longest.as_bytes()), Ok(Header::Local));
}

#[test]
fn version_2_is_read_and_what_is_added_to_it_is_passed_over() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb];
    let want = addresses("192.0.2.1:56324", "198.51.100.2:443");
    assert_eq!(whole(&v2(0x21, 0x11, &v4)), Ok(want));
    let mut more = v4.to_vec();
    more.extend_from_slice(&[0x04, 0, 3, 1, 2, 3]);
    assert_eq!(whole(&v2(0x21, 0x11, &more)), Ok(want));
    let mut v6 = [0; 36];
    (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
    assert_eq!(whole(&v2(0x21, 0x21, &v6)), Ok(addresses("[::1]:3", "[::2]:4")));
    // A health check of the proxy itself, and clients without an address.
    for (command, family) in [(0x20, 0), (0x20, 0x11), (0x20, 0xff), (0x21, 0), (0x21, 0x31)] {
        assert_eq!(whole(&v2(command, family, &v4)), Ok(Header::Local), "{command:x} {family:x}");
        assert_eq!(whole(&v2(command, family, &[])), Ok(Header::Local));
    }
}

#[test]
fn what_version_2_cannot_be_is_refused() {
    let cases = [
        (v2(0x11, 0x11, &[0; 12]), DecodeError::Wrong("version")),
        (v2(0x22, 0x11, &[0; 12]), DecodeError::Wrong("command")),
        (v2(0x21, 0x12, &[0; 12]), DecodeError::Wrong("family")),
        (v2(0x21, 0x44, &[0; 12]), DecodeError::Wrong("family")),
        (v2(0x21, 0x11, &[0; 11]), DecodeError::Wrong("length")),
        (v2(0x21, 0x21, &[0; 35]), DecodeError::Wrong("length")),
        // Known to be too long before all of it has come.
        (v2(0x21, 0x11, &[0; 8193])[..16].to_vec(), DecodeError::TooLong),
    ];
    for (bytes, want) in cases {
        assert_eq!(decode(&bytes), Err(want));
    }
    assert!(matches!(decode(&v2(0x21, 0x11, &[0; 8192])), Ok(Decoded::Header(_, HEADER_BYTES_MAX))));
}

#[test]
fn the_first_bytes_tell_a_header_from_anything_else() {
    for begun in ["", "P", "PROXY", "\r\n\r\n", "\r\n\r\n\0\r\nQUIT"] {
        assert_eq!(decode(begun.as_bytes()), Ok(Decoded::Unsure), "{begun:?}");
    }
    for begun in
        ["PROXY ", "PROXY TCP4 192.", "PROXY UNKNOWN\r", "\r\n\r\n\0\r\nQUIT\n", "\r\n\r\n\0\r\nQUIT\n\x21\x11\0"]
    {
        assert_eq!(decode(begun.as_bytes()), Ok(Decoded::More), "{begun:?}");
    }
    for other in ["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0", "PROXY\r\n", "\x16\x03\x01", "\r\n\r\nX"] {
        assert_eq!(decode(other.as_bytes()), Err(DecodeError::None), "{other:?}");
    }
}

#[test]
fn mixed_families_make_no_addresses() {
    let of = |source: &str, destination: &str| Addresses::new(source.parse().unwrap(), destination.parse().unwrap());
    assert_eq!(of("192.0.2.1:1", "[2001:db8::1]:2"), None);
    assert_eq!(of("[::ffff:192.0.2.1]:1", "192.0.2.2:2"), of("192.0.2.1:1", "192.0.2.2:2"));
}

fn some_header() -> impl Strategy<Value = Header> {
    let v4 = any::<(Ipv4Addr, u16, Ipv4Addr, u16)>();
    let v4 = v4.prop_map(|(a, b, c, d)| (SocketAddr::from((a, b)), SocketAddr::from((c, d))));
    let v6 = any::<(Ipv6Addr, u16, Ipv6Addr, u16)>();
    let v6 = v6.prop_map(|(a, b, c, d)| (SocketAddr::from((a, b)), SocketAddr::from((c, d))));
    let proxied = prop_oneof![v4, v6]
        .prop_filter_map("one family", |(source, destination)| Addresses::new(source, destination))
        .prop_map(Header::Proxied);
    prop_oneof![Just(Header::Local), proxied]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        header in some_header(),
        version in prop_oneof![Just(Version::V1), Just(Version::V2)],
        after in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = encode(version, &header);
        let length = bytes.len();
        for end in 0..length {
            prop_assert!(matches!(decode(&bytes[..end]), Ok(Decoded::More | Decoded::Unsure)));
        }
        bytes.extend_from_slice(&after);
        prop_assert_eq!(decode(&bytes), Ok(Decoded::Header(header, length)));
    }

    #[test]
    fn anything_is_answered_and_no_answer_changes_with_more(
        signature in prop_oneof![Just(&b""[..]), Just(V1), Just(V2)],
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [signature, &rest].concat();
        let last = decode(&bytes);
        for end in 0..bytes.len() {
            match decode(&bytes[..end]) {
                Ok(Decoded::More | Decoded::Unsure) => {}
                settled => prop_assert_eq!(settled, last),
            }
        }
        if let Ok(Decoded::Header(_, length)) = last {
            prop_assert!(length <= bytes.len() && length <= HEADER_BYTES_MAX);
        }
    }
}
