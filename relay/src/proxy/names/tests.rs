use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use hickory_resolver::config::ConnectionConfig;
use tokio::net::UdpSocket;
use underpass_shared::identity::ProjectName;

use super::*;

const A: u16 = 1;
const AAAA: u16 = 28;

/// What the server was asked for, by family.
#[derive(Debug, Default)]
struct Asked {
    a: AtomicUsize,
    aaaa: AtomicUsize,
}

impl Asked {
    fn counts(&self) -> (usize, usize) {
        (self.a.load(Relaxed), self.aaaa.load(Relaxed))
    }
}

/// The response to `query` (RFC 1035 §4.1): names that begin with `x` do not exist, as an SOA with a minimum of `ttl` says,
/// those that begin with `s` are not answered, those with `f` fail; others have one address of each family.
fn response(query: &[u8], ttl: u32, asked: &Asked) -> Option<Vec<u8>> {
    let end = 12 + query[12..].iter().position(|&byte| byte == 0).unwrap() + 1;
    let kind = u16::from_be_bytes([query[end], query[end + 1]]);
    match kind {
        A => asked.a.fetch_add(1, Relaxed),
        AAAA => asked.aaaa.fetch_add(1, Relaxed),
        other => panic!("nobody asks for {other}"),
    };
    let mut answer = query[..end + 4].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    match query[13] {
        b's' => return None,
        b'f' => answer[3..8].copy_from_slice(&[0x82, 0, 1, 0, 0]),
        b'x' => {
            answer[3..10].copy_from_slice(&[0x83, 0, 1, 0, 0, 0, 1]);
            // The root's SOA, whose names are the root too.
            answer.extend([0, 0, 6, 0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend([0, 22, 0, 0]);
            [1, 1, 1, 1, ttl].iter().for_each(|number| answer.extend(number.to_be_bytes()));
        }
        _ => {
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1]);
            answer.extend(ttl.to_be_bytes());
            match kind {
                A => answer.extend([0, 4, 192, 0, 2, 7]),
                _ => answer.extend([0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
            }
        }
    }
    Some(answer)
}

/// Names that are asked for at a server of our own, which says that its answers count for `ttl` seconds.
async fn names(ttl: u32, hosts: &str, search: &[&str]) -> (Names, Arc<Asked>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(Asked::default());
    let counted = asked.clone();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            if let Some(answer) = response(&query[..length], ttl, &counted) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    let mut udp = ConnectionConfig::udp();
    udp.port = address.port();
    let servers = vec![NameServerConfig::new(address.ip(), true, vec![udp])];
    let search = search.iter().map(|name| name.parse().unwrap()).collect();
    let config = ResolverConfig::from_parts(None, search, servers);
    let resolver = build(config, ResolverOpts::default(), hosts.as_bytes()).unwrap();
    // Far ahead, so that this host's own files are never looked at.
    let checked = clock::instant() + Duration::from_secs(1_000_000);
    let current = Current { resolver, files: Default::default(), checked };
    (Names { current: AsyncMutex::new(Some(current)), kept: Mutex::default() }, asked)
}

fn lookup(family: Family) -> Arc<Lookup> {
    let secs = Duration::from_secs;
    Arc::new(Lookup {
        project: ProjectName::default(),
        backend: "default/any".into(),
        family,
        unsaid: secs(60),
        least: secs(5),
        unused: secs(300),
        most: 2,
        timeout: secs(5),
    })
}

#[tokio::test]
async fn an_answer_is_kept_for_as_long_as_it_says_and_both_families_are_asked() {
    for (ttl, ages, questions) in [(60, [0, 59, 60], 2), (0, [0, 0, 0], 3), (86_400, [0, 3599, 3600], 2)] {
        let (names, asked) = names(ttl, "", &[]).await;
        let start = clock::instant();
        for age in ages {
            let found = names.found("a.example", None, start + Duration::from_secs(age)).await.unwrap();
            assert_eq!(*found, ["2001:db8::7".parse::<IpAddr>().unwrap(), "192.0.2.7".parse().unwrap()]);
        }
        assert_eq!(asked.counts(), (questions, questions), "{ttl} seconds");
    }
}

#[tokio::test]
async fn that_there_is_none_is_kept_for_as_long_as_it_says_but_not_for_long() {
    for (ttl, ages, questions) in [(10, [0, 9, 10], 2), (0, [0, 0, 0], 3), (86_400, [0, 29, 30], 2)] {
        let (names, asked) = names(ttl, "", &[]).await;
        let start = clock::instant();
        for age in ages {
            let found = names.found("x.example", None, start + Duration::from_secs(age)).await;
            assert_eq!(found, Err(Unresolved::Absent));
        }
        assert_eq!(asked.counts(), (questions, questions), "{ttl} seconds");
    }
}

#[tokio::test]
async fn servers_that_fail_are_asked_again_a_second_later() {
    let (names, asked) = names(60, "", &[]).await;
    let start = clock::instant();
    let found = async |millis| names.found("f.example", None, start + Duration::from_millis(millis)).await;
    assert_eq!(found(0).await, Err(Unresolved::Refused));
    let before = asked.counts();
    assert_eq!(found(999).await, Err(Unresolved::Refused));
    assert_eq!(asked.counts(), before);
    found(1000).await.unwrap_err();
    assert!(asked.counts() > before);
}

#[tokio::test(start_paused = true)]
async fn servers_that_do_not_answer_are_given_up_in_time_to_say_so() {
    let (names, asked) = names(60, "", &["a.example", "b.example"]).await;
    let start = clock::instant();
    let found = timeout(RESOLVE + Duration::from_millis(1), names.found("s.example", None, start));
    assert_eq!(found.await, Ok(Err(Unresolved::Silent)));
    let before = asked.counts();
    assert!(before.0 > 0);
    let later = start + RESOLVE + Duration::from_millis(999);
    assert_eq!(names.found("s.example", None, later).await, Err(Unresolved::Silent));
    assert_eq!(asked.counts(), before, "known for a second more");
    names.found("s.example", None, start + RESOLVE + TROUBLE_AGE).await.unwrap_err();
    assert!(asked.counts() > before);
}

#[tokio::test]
async fn the_hosts_file_and_localhost_are_known_without_asking() {
    let (names, asked) = names(60, "192.0.2.9 db.internal db\n::2 db.internal\n", &[]).await;
    for lookup in [None, Some(&lookup(Family::Both))] {
        let found = names.found("db.internal", lookup, clock::instant()).await.unwrap();
        assert_eq!(*found, ["::2".parse::<IpAddr>().unwrap(), "192.0.2.9".parse().unwrap()]);
        for name in ["localhost", "a.localhost"] {
            let found = names.addresses(name, 1, lookup).await.unwrap();
            assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
        }
    }
    assert_eq!(asked.counts(), (0, 0));
}

#[tokio::test]
async fn search_domains_are_for_the_names_in_backends_only() {
    let (names, asked) = names(60, "192.0.2.9 x.corp.example\n", &["corp.example"]).await;
    let found = names.found("x", None, clock::instant()).await.unwrap();
    assert_eq!(*found, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    let before = asked.counts();
    assert_eq!(names.found("x", Some(&lookup(Family::Both)), clock::instant()).await, Err(Unresolved::Absent));
    assert_eq!(asked.counts(), (before.0 + 1, before.1 + 1), "as it is, once");
}

#[tokio::test]
async fn a_backend_may_say_how_answers_are_kept_and_which_count() {
    let (names, asked) = names(1, "192.0.2.9 four.example\n", &[]).await;
    let start = clock::instant();
    let found = async |name, family, age| {
        let found = names.found(name, Some(&lookup(family)), start + Duration::from_secs(age)).await;
        found.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(found("a.example", Family::V4First, 0).await, Ok("192.0.2.7 2001:db8::7".into()));
    assert_eq!(found("a.example", Family::V4First, 4).await, Ok("192.0.2.7 2001:db8::7".into()));
    assert_eq!(asked.counts(), (1, 1));
    found("a.example", Family::V4First, 5).await.unwrap();
    assert_eq!(asked.counts(), (2, 2));
    assert_eq!(found("a.example", Family::V4Only, 0).await, Ok("192.0.2.7".into()));
    assert_eq!(found("a.example", Family::V6Only, 0).await, Ok("2001:db8::7".into()));
    assert_eq!(found("four.example", Family::V6Only, 0).await, Err(Unresolved::OtherFamily));
}

#[tokio::test]
async fn those_who_ask_for_one_name_at_the_same_time_share_a_question() {
    let (names, asked) = names(60, "", &[]).await;
    let now = clock::instant();
    let all = futures_util::future::join_all((0..100).map(|_| names.found("a.example", None, now))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(asked.counts(), (1, 1));
}

#[test]
fn without_a_file_that_names_servers_the_one_on_this_host_is_asked() {
    let servers = |text: &str| {
        let (config, _) = settings(text.as_bytes());
        config.name_servers().iter().map(|server| server.ip).collect::<Vec<_>>()
    };
    assert_eq!(servers(""), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
    assert_eq!(servers("search a.example\n"), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
    assert_eq!(servers("nameserver 192.0.2.53\n"), ["192.0.2.53".parse::<IpAddr>().unwrap()]);
}
