//! Handshakes that a policy has demands of.

use aws_lc_rs::digest::{SHA256, digest};
use rustls::{NamedGroup, ProtocolVersion};

use super::*;
use crate::route::tls::{Check, Demands, Sessions, Versions};

async fn demanding(issued: &Issued, demands: Demands) -> Gate {
    let tls = ServerTls { demands: Some(Arc::new(demands)), ..(*issued.tls()).clone() };
    Gate::serving(https(&[("a.com", Arc::new(tls))], echo().await))
}

#[tokio::test]
async fn versions_ciphers_groups_and_protocols_are_those_that_the_policy_names() {
    let issued = Issued::new("a.com");
    let mut config = (*anonymous(&[&issued])).clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let gate = demanding(&issued, Demands::default()).await;
    let stream = gate.tls("a.com", &config).await.unwrap();
    let connection = stream.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));

    let cipher = rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    let demands = Demands {
        versions: Versions::Tls12,
        ciphers: vec![cipher.into()],
        groups: vec![NamedGroup::secp384r1.into()],
        alpn: Some(vec!["http/1.1".into()]),
        sessions: Sessions::Never,
    };
    let gate = demanding(&issued, demands).await;
    let stream = gate.tls("a.com", &config).await.unwrap();
    let connection = stream.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(connection.negotiated_cipher_suite().unwrap().suite(), cipher);
    assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), NamedGroup::secp384r1);
    assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));

    let gate = demanding(&issued, Demands { versions: Versions::Tls13, ..Demands::default() }).await;
    let old = understanding(&[SignatureScheme::ECDSA_NISTP256_SHA256], &rustls::version::TLS12);
    assert_eq!(alert(&gate.tls("a.com", &old).await.unwrap_err()), AlertDescription::ProtocolVersion);
}

#[tokio::test]
async fn sessions_are_taken_up_as_the_policy_says() {
    let issued = Issued::new("a.com");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (sessions, want) in [
            (Sessions::Tickets, HandshakeKind::Resumed),
            (Sessions::Remembered, HandshakeKind::Resumed),
            (Sessions::Never, HandshakeKind::Full),
        ] {
            let gate = demanding(&issued, Demands { sessions, ..Demands::default() }).await;
            let config = understanding(&[SignatureScheme::ECDSA_NISTP256_SHA256], version);
            assert_eq!(gate.asked("a.com", &config).await.unwrap().1, HandshakeKind::Full);
            assert_eq!(gate.asked("a.com", &config).await.unwrap().1, want, "{sessions:?}");
        }
    }
}

#[tokio::test]
async fn clients_are_known_by_a_ca_and_by_hashes() {
    let (issued, friend, stranger) = (Issued::new("a.com"), Vouched::by("friends"), Vouched::by("strangers"));
    let hash = |bytes: &[u8]| <[u8; 32]>::try_from(digest(&SHA256, bytes).as_ref()).unwrap();
    let key = |one: &Vouched| {
        hash(&rustls::server::ParsedCertificate::try_from(&one.chain[0]).unwrap().subject_public_key_info())
    };
    let checking = async |check: Check| asking(&issued, Clients::Checked(Arc::new(check))).await;
    let (known, unknown) = (presenting(&issued, &friend), presenting(&issued, &stranger));
    let anonymous = anonymous(&[&issued]);
    for check in [
        Check { authorities: friend.cas(), ..Check::default() },
        Check { certificates: vec![hash(&friend.chain[0])], ..Check::default() },
        Check { keys: vec![key(&friend)], ..Check::default() },
        Check { authorities: friend.cas(), keys: vec![key(&friend)], ..Check::default() },
    ] {
        let gate = checking(check.clone()).await;
        for _ in 0..2 {
            assert_eq!(gate.asked("a.com", &known).await.unwrap().1, HandshakeKind::Full, "{check:?}");
        }
        assert!(gate.asked("a.com", &unknown).await.is_err(), "{check:?}");
        assert!(gate.asked("a.com", &anonymous).await.is_err(), "{check:?}");
        let gate = checking(Check { optional: true, ..check.clone() }).await;
        assert!(gate.asked("a.com", &anonymous).await.is_ok(), "{check:?}");
        assert!(gate.asked("a.com", &unknown).await.is_err(), "{check:?}");
    }
    let both = Check { authorities: friend.cas(), keys: vec![key(&stranger)], ..Check::default() };
    assert!(checking(both).await.asked("a.com", &known).await.is_err(), "the CA alone is not enough");
}
