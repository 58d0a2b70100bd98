//! The composition root of `tunnel run`: state, enrolment, one session after another, an orderly stop.
//!
//! Whom to dial and when is `node::redial`'s to decide; here it is done.

use std::{
    convert::Infallible,
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use rcgen::CertificateParams;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{info, warn};
use underpass_shared::{
    enrolment::{ENROL_PATH, EnrolRequest, EnrolmentToken, Issued, RENEW_PATH, RefusalReason},
    host::{self, state_home},
    identity::AgentId,
    ledger::Ledger,
    quic::{
        losses,
        tls::{Credential, Trust},
    },
};

use crate::{
    cli::{GlobalArgs, token},
    clock,
    config::{ProxiesConfig, RunArgs, RunConfig},
    device::Device,
    link::{
        Dialler, Link, LinkError,
        outward::Outward,
        session::{End, Session},
    },
    node::{
        publish::Published,
        redial::{self, Next, Redial},
    },
    proxies::Proxies,
    state_dir::{Owner, StateDir},
};

/// How long flows in flight may take to finish after the session has ended in good order.
const DRAIN: Duration = Duration::from_secs(30);

/// A certificate is renewed after this part of its life: a third.
const RENEW_AFTER_PART: i64 = 3;

/// How soon a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(300);

/// How long a token is good for that the agent asks the API for: it is redeemed at once.
const TOKEN_LIFE: Duration = Duration::from_secs(300);

/// Runs the agent until it is told to stop (SIGTERM, SIGINT).
///
/// # Errors
/// What is wrong with the command line or the state directory, or why no relay will ever take this agent.
pub async fn run(args: RunArgs, global: GlobalArgs) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log)?;
    let ansi = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(io::stderr).init();
    if let Some(files) = host::raise_open_files() {
        info!(files, "open files allowed");
    }
    let config = args.resolve(global.project.clone(), state_home())?;
    let fresh = AgentId::parse(&format!("a-{:08x}", rand::random::<u32>()))?;
    let state = StateDir::open(&config.state_dir, &config.project, &config.node, fresh)?;
    let issued = state.issued()?;
    let outward = Outward::default();
    let mut published = config.published.clone();
    let proxies = match &config.proxies {
        Some(wanted) => Some(open_proxies(wanted, outward.clone()).await?),
        None => None,
    };
    if let Some(proxies) = &proxies {
        published = published.without(proxies.address().port());
    }
    let published = Arc::new(published);
    let ledger = Arc::<Ledger>::default();
    let mut device = Device::open(config.mode, Arc::clone(&published), Arc::clone(&ledger))?;
    let token = match (&config.token, &issued) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(_)) => None,
        (None, None) => Some(ask_for_token(&config, &global).await?),
    };
    let stop = stop_on_signal(device.farewell())?;
    if let Some(proxies) = proxies {
        println!("listening socks {}", proxies.address());
        tokio::spawn(proxies.run(TaskTracker::new(), stop.clone()));
    }
    let dialler = Dialler::open(Arc::clone(&ledger))?;
    let since = clock::instant();
    let losses = losses::report(ledger, dialler.losses(), move || since.elapsed());
    let losses = AbortOnDropHandle::new(tokio::spawn(losses));
    let agent = Agent {
        published,
        dialler,
        _losses: losses,
        lingering: TaskTracker::new(),
        outward,
        config,
        state,
        issued,
        token,
        named: Vec::new(),
    };
    agent.run(&mut device, &stop).await
}

async fn open_proxies(wanted: &ProxiesConfig, outward: Outward) -> anyhow::Result<Proxies> {
    let ProxiesConfig { address, users } = wanted;
    Proxies::bind(*address, users.clone(), outward).await.with_context(|| {
        format!("--socks-addr {address}: cannot listen there: is another agent running? Choose another port")
    })
}

fn stop_on_signal(farewell: fn()) -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let asked = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        asked.cancel();
        // A second signal does not wait for flows in flight.
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        farewell();
        std::process::exit(130);
    });
    Ok(stop)
}

async fn ask_for_token(config: &RunConfig, global: &GlobalArgs) -> anyhow::Result<EnrolmentToken> {
    let why = || {
        format!(
            "node {node} has no certificate in {dir} yet, and no token was given: get one where the relay's API can be \
             reached, with `underpass tunnel token {node}`, and pass it by --token-file, --token or UNDERPASS_TOKEN",
            node = config.node,
            dir = config.state_dir.display(),
        )
    };
    let asked = async {
        let global = GlobalArgs { project: Some(config.project.clone()), ..global.clone() };
        let (mut client, _) = global.connect()?;
        token::request(&mut client, &config.node, TOKEN_LIFE, 1).await
    };
    asked.await.map(|issued| issued.token).map_err(|error: anyhow::Error| error.context(why()))
}

struct Agent {
    config: RunConfig,
    published: Arc<Published>,
    dialler: Dialler,
    _losses: AbortOnDropHandle<()>,
    state: StateDir,
    issued: Option<Issued>,
    token: Option<EnrolmentToken>,
    /// The relays that the last one to drain has named.
    named: Vec<String>,
    /// Links whose sessions ended in good order and whose flows still run.
    lingering: TaskTracker,
    /// Where flows that begin here find the session of the moment.
    outward: Outward,
}

/// What one attempt came to.
enum Outcome {
    /// We were asked to stop.
    Stopped,
    Again(redial::End, String),
    /// No relay will ever take this agent as it is.
    Never(anyhow::Error),
}

/// What keeps an attempt from being made or from succeeding.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Link(#[from] LinkError),
    /// This host's or this agent's own trouble.
    #[error(transparent)]
    Local(#[from] anyhow::Error),
}

impl Agent {
    async fn run(mut self, device: &mut Device, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut redial = Redial::new(self.relays()?.len());
        let mut relay = redial.first();
        loop {
            let relays = self.relays()?;
            redial.set_relays(relays.len());
            let (end, reason) = match self.attempt(&relays[relay % relays.len()], device, stop).await {
                Outcome::Stopped => break,
                Outcome::Never(error) => return Err(error),
                Outcome::Again(end, reason) => (end, reason),
            };
            redial.set_relays(self.relays()?.len());
            let Next { wait, relay: next } = redial.handle_end(end, rand::random());
            relay = next;
            println!("disconnected: {reason}; next try in {:.1}s", wait.as_secs_f64());
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        self.lingering.close();
        // Each lingering link has its own limit, and there are as many as relays that drained in that time.
        self.lingering.wait().await;
        Ok(())
    }

    /// The relays in the order in which they are tried; those named by one that drained come last.
    fn relays(&self) -> anyhow::Result<Vec<String>> {
        let issued = self.issued.as_ref().map(|issued| &issued.relays);
        let token = self.token.as_ref().map(|token| &token.relays);
        let known = issued.into_iter().chain(token).find(|relays| !relays.is_empty());
        let mut relays =
            known.cloned().ok_or_else(|| anyhow::anyhow!("neither the token nor the state directory names a relay"))?;
        relays.extend(self.named.iter().filter(|named| !relays.contains(named)).cloned().collect::<Vec<_>>());
        Ok(relays)
    }

    async fn attempt(&mut self, relay: &str, device: &mut Device, stop: &CancellationToken) -> Outcome {
        let opened = tokio::select! {
            opened = self.open(relay) => opened,
            () = stop.cancelled() => return Outcome::Stopped,
        };
        let (link, session, issued) = match opened {
            Ok(opened) => opened,
            Err(Fault::Link(error)) => return by_fault(error),
            Err(Fault::Local(error)) => return Outcome::Never(error),
        };
        if let Err(error) = device.assign(session.address()).await {
            return Outcome::Never(error.into());
        }
        let agent = &self.state.owner().agent;
        println!("connected to {relay} as agent {agent} of node {}, address {}", self.config.node, session.address());
        let since = clock::instant();
        match self.live((link, session, issued), device, stop).await {
            End::Stopped => Outcome::Stopped,
            End::NoDevice(error) => Outcome::Never(error.into()),
            End::Drained(named) => {
                self.named = named;
                Outcome::Again(redial::End::Drained { elsewhere: self.elsewhere() }, "the relay is stopping".to_owned())
            }
            End::Lost(reason) => Outcome::Again(redial::End::Lost { lasted: since.elapsed() }, reason),
        }
    }

    /// One of the relays that were named last, any of them, so that a relay's agents do not all go to the same.
    fn elsewhere(&self) -> Option<usize> {
        let one = self.named.get(rand::random_range(0..self.named.len().max(1)))?;
        self.relays().ok()?.iter().position(|relay| relay == one)
    }

    /// A session with `relay`, after enrolment where there is no certificate that is good now.
    async fn open(&mut self, relay: &str) -> Result<(Link, Session, Issued), Fault> {
        let issued = match &self.issued {
            Some(issued) if clock::now().unix_timestamp() < issued.not_after => issued.clone(),
            _ => self.enrol(relay).await?,
        };
        let (trust, credential) = self.credential(&issued)?;
        let link = self.dialler.dial(relay, trust, Some(credential)).await?;
        let session = link.open_session(self.config.lane, Arc::clone(&self.published)).await?;
        Ok((link, session, issued))
    }

    /// Trades the token for a certificate, and keeps it.
    async fn enrol(&mut self, relay: &str) -> Result<Issued, Fault> {
        let Some(token) = &self.token else {
            return Err(self.expired().into());
        };
        let trust = Trust::Pinned(token.ca.clone());
        let link = self.dialler.dial(relay, trust, None).await.map_err(|error| match error {
            // The token was made by another deployment, or somebody stands between.
            error if error.is_untrusted() => Fault::Local(error.into()),
            error => error.into(),
        })?;
        let issued = link.exchange(ENROL_PATH, Some(&token.secret), &self.request()?).await?;
        self.state.keep(&issued).map_err(anyhow::Error::new)?;
        info!(%relay, "enrolled");
        self.issued = Some(issued.clone());
        Ok(issued)
    }

    /// Lives a session; a link whose flows still run afterwards is kept until they are done.
    async fn live(
        &mut self,
        (link, session, issued): (Link, Session, Issued),
        device: &mut Device,
        stop: &CancellationToken,
    ) -> End {
        let flows = session.flows();
        let outward = self.outward.clone();
        let led = link.lead(&outward, flows.clone());
        let end = tokio::select! {
            end = session.live(device, stop) => end,
            never = self.renew(&link, issued) => match never {},
        };
        drop(led);
        if matches!(end, End::Drained(_) | End::Stopped) {
            flows.close();
            self.lingering.spawn(async move {
                if timeout(DRAIN, flows.wait()).await.is_err() {
                    warn!(flows = flows.len(), "flows were still in flight");
                }
                drop(link);
            });
        }
        end
    }

    /// Renews the certificate inside the session, each time a third of its life is over.
    async fn renew(&mut self, link: &Link, mut issued: Issued) -> Infallible {
        loop {
            sleep(renewal(&issued, clock::now().unix_timestamp())).await;
            match self.exchange(link).await {
                Ok(fresh) => {
                    info!("certificate renewed");
                    self.issued = Some(fresh.clone());
                    issued = fresh;
                }
                Err(error) => {
                    warn!(%error, "the certificate could not be renewed");
                    sleep(RENEW_AGAIN).await;
                }
            }
        }
    }

    async fn exchange(&self, link: &Link) -> Result<Issued, Fault> {
        let fresh = link.exchange(RENEW_PATH, None, &self.request()?).await?;
        self.state.keep(&fresh).map_err(anyhow::Error::new)?;
        Ok(fresh)
    }

    fn request(&self) -> anyhow::Result<EnrolRequest> {
        let Owner { project, node, agent } = self.state.owner().clone();
        let csr = CertificateParams::default().serialize_request(self.state.key())?.pem()?;
        Ok(EnrolRequest { project, node, agent, csr })
    }

    fn credential(&self, issued: &Issued) -> anyhow::Result<(Trust, Credential)> {
        let ca = CertificateDer::from_pem_slice(issued.ca.as_bytes())?;
        let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes())?;
        let key = PrivateKeyDer::Pkcs8(self.state.key().serialize_der().into());
        Ok((Trust::Ca(ca), (vec![certificate], key)))
    }

    fn expired(&self) -> anyhow::Error {
        let since = self.issued.as_ref().and_then(|issued| OffsetDateTime::from_unix_timestamp(issued.not_after).ok());
        let since = since.and_then(|since| since.format(&Rfc3339).ok()).unwrap_or_default();
        let node = &self.config.node;
        anyhow::anyhow!(
            "the certificate of node {node} ended at {since} while no relay could renew it: enrol again with a token from              `underpass tunnel token {node}`"
        )
    }
}

/// How long until `issued` is to be renewed, at `now` (seconds since the Unix epoch).
fn renewal(issued: &Issued, now: i64) -> Duration {
    let life = issued.not_after.saturating_sub(issued.not_before).max(0);
    let due = issued.not_before.saturating_add(life / RENEW_AFTER_PART);
    Duration::from_secs(due.saturating_sub(now).max(0).unsigned_abs())
}

/// Whether trying again can help.
fn by_fault(error: LinkError) -> Outcome {
    match error {
        LinkError::Refused(refusal) if refusal.reason != RefusalReason::Unavailable => {
            Outcome::Never(anyhow::anyhow!("the relay refused: {}", refusal.message))
        }
        error => Outcome::Again(redial::End::Failed, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use underpass_shared::enrolment::Refusal;

    use super::*;

    fn issued(not_before: i64, not_after: i64) -> Issued {
        Issued { certificate: String::new(), ca: String::new(), relays: Vec::new(), not_before, not_after }
    }

    #[test]
    fn a_certificate_is_renewed_after_a_third_of_its_life() {
        assert_eq!(renewal(&issued(1000, 4000), 1000), Duration::from_secs(1000));
        assert_eq!(renewal(&issued(1000, 4000), 1999), Duration::from_secs(1));
        assert_eq!(renewal(&issued(1000, 4000), 3999), Duration::ZERO);
        assert_eq!(renewal(&issued(i64::MAX, i64::MIN), 0), Duration::from_secs(i64::MAX.unsigned_abs()));
    }

    #[test]
    fn only_a_refusal_for_good_ends_the_agent() {
        let refused = |reason| by_fault(LinkError::Refused(Refusal { reason, message: "why".to_owned() }));
        assert!(matches!(refused(RefusalReason::Unavailable), Outcome::Again(redial::End::Failed, _)));
        for reason in [RefusalReason::TokenUsed, RefusalReason::NodeNotFound, RefusalReason::Revoked] {
            assert!(matches!(refused(reason), Outcome::Never(error) if error.to_string() == "the relay refused: why"));
        }
        let silent = LinkError::TimedOut { relay: "r:1".to_owned() };
        assert!(matches!(by_fault(silent), Outcome::Again(redial::End::Failed, _)));
    }
}
