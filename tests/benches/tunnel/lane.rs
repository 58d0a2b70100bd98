//! The stream lane alone, beside a plain copy over TLS and TCP: two processes each time, memory to memory.
//!
//! Both use TLS 1.3 with AES-128-GCM, pieces of 64 KiB and one thread for each process.

use std::{fs, net::SocketAddr, path::Path, process::Stdio, sync::Arc};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
};
use underpass_shared::{
    quic::{
        endpoint,
        lane::{accept_flow, open_flow},
        tls::{self, Credential, SERVER_NAME, Trust},
    },
    wire::preface::{Host, Kind, Preface, Trace},
};
use underpass_tests::{
    clock,
    digest::PIECE_BYTES,
    eventually::{PATIENCE, within},
};

use crate::{
    Effort,
    figures::{median, short},
};

/// What one copy moves: long enough that the handshake and the slow start do not show.
const COPY_BYTES: u64 = 512 << 20;
/// The kernel counts processor time in these (`getconf CLK_TCK`), on every Linux that we know.
const TICKS_PER_SECOND: f64 = 100.0;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// The agent, as the body of a response.
    Down,
    /// The relay, as the body of a request.
    Up,
}

impl Direction {
    const fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
        }
    }

    fn parse(word: &str) -> anyhow::Result<Self> {
        [Self::Down, Self::Up].into_iter().find(|each| each.word() == word).context("`down` or `up`")
    }
}

/// What one copy came to.
#[derive(Debug, Clone, Copy)]
struct Copied {
    mebibytes_per_second: f64,
    /// Of both processes together.
    cpu_seconds: f64,
}

/// Copies in pairs and prints the table.
pub(crate) async fn measure(effort: Effort) {
    let folder = tempfile::tempdir().expect("a folder for the certificates");
    write_credentials(folder.path()).expect("certificates can be made");
    println!("\nThe stream lane alone, beside a plain copy over TLS and TCP");
    println!("({} MiB between two processes, medians of {} pairs)\n", COPY_BYTES >> 20, effort.pairs);
    println!("| direction | TLS/TCP MiB/s | lane MiB/s | ratio | TLS/TCP MiB/cpu-s | lane MiB/cpu-s |");
    println!("|-----------|--------------:|-----------:|------:|------------------:|---------------:|");
    for direction in [Direction::Down, Direction::Up] {
        let mut copies = [Vec::new(), Vec::new()];
        for pair in 0..effort.pairs {
            let first = pair % 2;
            for side in [first, 1 - first] {
                copies[side].push(copy(["tls", "lane"][side], direction, folder.path()).await);
            }
        }
        let ratios = copies[0].iter().zip(&copies[1]);
        let ratios = ratios.map(|(tls, lane)| lane.mebibytes_per_second / tls.mebibytes_per_second).collect();
        let [tls, lane] = [&copies[0], &copies[1]].map(|all| {
            let each = |figure: fn(&Copied) -> f64| short(median(all.iter().map(figure).collect()));
            let total = (COPY_BYTES >> 20) as f64;
            let per_cpu = short(total / median(all.iter().map(|copied| copied.cpu_seconds).collect()));
            (each(|copied| copied.mebibytes_per_second), per_cpu)
        });
        println!(
            "| {:9} | {:>13} | {:>10} | {:>5.2} | {:>17} | {:>14} |",
            direction.word(),
            tls.0,
            lane.0,
            median(ratios),
            tls.1,
            lane.1
        );
    }
}

/// One copy, between two fresh processes of this program.
async fn copy(kind: &str, direction: Direction, folder: &Path) -> Copied {
    let (mut listener, mut listener_says) = role(&format!("role-{kind}-listener"), direction, folder, "");
    let address = within(PATIENCE, "the listener listens", said(&mut listener_says, "listening")).await;
    let (mut dialler, mut dialler_says) = role(&format!("role-{kind}-dialler"), direction, folder, &address);
    let receiver = match direction {
        Direction::Down => &mut listener_says,
        Direction::Up => &mut dialler_says,
    };
    let seconds = within(PATIENCE, "the copy ends", said(receiver, "seconds")).await;
    let mut cpu_seconds = 0.0;
    for says in [&mut listener_says, &mut dialler_says] {
        cpu_seconds += parse(&within(PATIENCE, "both ends say what they used", said(says, "cpu")).await);
    }
    for child in [&mut listener, &mut dialler] {
        let status = within(PATIENCE, "both ends end", child.wait()).await;
        assert!(status.is_ok_and(|status| status.success()), "both ends of a copy work");
    }
    Copied { mebibytes_per_second: (COPY_BYTES >> 20) as f64 / parse(&seconds), cpu_seconds }
}

fn parse(text: &str) -> f64 {
    text.parse().expect("a role says a number")
}

fn role(role: &str, direction: Direction, folder: &Path, address: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let own = std::env::current_exe().expect("a running program has a path");
    let mut command = Command::new(own);
    command.arg(role).arg(direction.word()).arg(folder).arg(address).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("this program starts again");
    let stdout = child.stdout.take().expect("standard output is piped");
    (child, BufReader::new(stdout).lines())
}

/// What follows `word` on the next line that begins with it.
async fn said(lines: &mut Lines<BufReader<ChildStdout>>, word: &str) -> String {
    while let Some(line) = lines.next_line().await.expect("a pipe can be read") {
        if let Some(rest) = line.strip_prefix(word) {
            return rest.trim().to_owned();
        }
    }
    panic!("a role ended before it said `{word}`; its words are above");
}

/// Plays one end, as a process of its own.
pub(crate) fn play(role: &str, arguments: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let played = runtime.block_on(async {
        let [direction, folder, address] = arguments else { anyhow::bail!("a role has three arguments") };
        let (direction, folder) = (Direction::parse(direction)?, Path::new(folder));
        match role {
            "role-tls-listener" => tls_listener(direction, folder).await,
            "role-tls-dialler" => tls_dialler(direction, folder, address.parse()?).await,
            "role-lane-listener" => lane_listener(direction, folder).await,
            "role-lane-dialler" => lane_dialler(direction, folder, address.parse()?).await,
            _ => anyhow::bail!("there is no {role}"),
        }
    });
    played.unwrap_or_else(|error| panic!("{role}: {error:#}"));
    println!("cpu {}", cpu_seconds());
}

async fn tls_listener(direction: Direction, folder: &Path) -> anyhow::Result<()> {
    let (chain, key) = credential(folder, "relay")?;
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening {}", listener.local_addr()?);
    let (tcp, _) = listener.accept().await?;
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(tcp).await?;
    exchange(tls, direction == Direction::Up).await
}

async fn tls_dialler(direction: Direction, folder: &Path, address: SocketAddr) -> anyhow::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(ca(folder)?)?;
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tls = connector.connect(ServerName::try_from(SERVER_NAME)?, TcpStream::connect(address).await?).await?;
    exchange(tls, direction == Direction::Down).await
}

async fn lane_listener(direction: Direction, folder: &Path) -> anyhow::Result<()> {
    let config = tls::server(credential(folder, "relay")?, ca(folder)?)?;
    let listening = endpoint::listen("127.0.0.1:0".parse()?, config)?;
    println!("listening {}", listening.local_addr()?);
    let incoming = listening.accept().await.context("the endpoint is open")?;
    let connecting = endpoint::admit(incoming, 0)?.context("nobody else asks")?;
    let connection = endpoint::handshake(connecting).await?;
    let preface =
        Preface { session: 0, kind: Kind::Tcp, host: Host::Loopback, port: 1, client: None, trace: Trace::default() };
    let flow = open_flow(&connection, &preface).await?;
    exchange(flow, direction == Direction::Up).await?;
    // The agent closes, when it has everything.
    connection.closed().await;
    Ok(())
}

async fn lane_dialler(direction: Direction, folder: &Path, relay: SocketAddr) -> anyhow::Result<()> {
    let config = tls::client(Trust::Ca(ca(folder)?), Some(credential(folder, "agent")?))?;
    let dialling = endpoint::dialler()?;
    let connection = endpoint::connect(&dialling, endpoint::client_config(config)?, relay).await?;
    let (send, receive) = connection.accept_bi().await?;
    let (_, pending) = accept_flow(send, receive).await?;
    exchange(pending.connected().await?, direction == Direction::Down).await?;
    connection.close(0u32.into(), b"done");
    dialling.wait_idle().await;
    Ok(())
}

/// Sends all there is, or receives it and says how long that took; then each waits for the other's end.
async fn exchange(mut flow: impl AsyncRead + AsyncWrite + Unpin, sends: bool) -> anyhow::Result<()> {
    let mut piece = vec![7; PIECE_BYTES];
    if sends {
        for _ in 0..COPY_BYTES / PIECE_BYTES as u64 {
            flow.write_all(&piece).await?;
        }
        flow.shutdown().await?;
        // TLS peers may leave without a farewell; either is an end.
        let _ = flow.read(&mut piece).await;
        return Ok(());
    }
    let mut received = flow.read(&mut piece).await? as u64;
    let begin = clock::now();
    loop {
        match flow.read(&mut piece).await? as u64 {
            0 => break,
            count => received += count,
        }
    }
    println!("seconds {}", begin.elapsed().as_secs_f64());
    anyhow::ensure!(received == COPY_BYTES, "{received} bytes arrived");
    flow.shutdown().await?;
    Ok(())
}

/// The one cipher that the tunnel prefers, for both sides of the comparison.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(provider)
}

fn write_credentials(folder: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    fs::write(folder.join("ca.der"), params.self_signed(&key)?.der())?;
    let issuer = Issuer::new(params, key);
    for (name, uri) in [
        ("relay", "spiffe://underpass/relay/r-1"),
        ("agent", "spiffe://underpass/project/default/node/office/agent/a-1"),
    ] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(SERVER_NAME.try_into()?), SanType::URI(uri.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        fs::write(folder.join(format!("{name}.der")), params.signed_by(&key, &issuer)?.der())?;
        fs::write(folder.join(format!("{name}.key")), key.serialize_der())?;
    }
    Ok(())
}

fn ca(folder: &Path) -> anyhow::Result<CertificateDer<'static>> {
    Ok(fs::read(folder.join("ca.der"))?.into())
}

fn credential(folder: &Path, name: &str) -> anyhow::Result<Credential> {
    let certificate = fs::read(folder.join(format!("{name}.der")))?;
    let key = fs::read(folder.join(format!("{name}.key")))?;
    Ok((vec![certificate.into()], PrivateKeyDer::Pkcs8(key.into())))
}

/// The processor time that this process used, in user and kernel (`proc(5)`, fields 14 and 15 of `stat`).
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("a running process has a status");
    let after_name = stat.rsplit_once(')').map_or(stat.as_str(), |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap_or_default());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}
