//! Names of backends → addresses: the host's name servers are asked over DNS, and answers are kept as long as they say.
//!
//! As the host's own library does it, `/etc/hosts` comes first, search domains count for the names in Backends, and
//! changes of both files are seen. Names that requests name are complete as they are: no search domain is tried.

mod kept;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts},
    lookup_ip::LookupIp,
    net::{DnsError, NetError},
    system_conf::parse_resolv_conf,
};
use tokio::{sync::Mutex as AsyncMutex, time::timeout};

use self::kept::{Answer, Kept};
use super::dial::ADDRESSES_MAX;
use crate::{
    clock,
    route::lookup::{Family, Lookup},
};

/// The longest that an answer is kept, whatever it says: a mistake in a zone must not outlive the day's work on it.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(3_600);

/// The longest that it is kept that there is no such name: who has just made one waits for it.
const ABSENCE_AGE_MAX: Duration = Duration::from_secs(30);

/// How long it is kept that nothing was heard, or that the answer does not say how long it counts: while name servers are
/// down, each name is asked for once at a time and not for each request.
const TROUBLE_AGE: Duration = Duration::from_secs(1);

/// How long one name server may take before it is asked again, or the next one.
const QUERY: Duration = Duration::from_secs(2);

/// How long a name may take with all that is tried for it. Half of the time to connect, so that what is wrong is said.
const RESOLVE: Duration = Duration::from_secs(5);

/// How often the files are looked at for changes.
const REREAD: Duration = Duration::from_secs(10);

/// What says where names are resolved, and what is known without asking.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error("does not exist")]
    Absent,
    #[error("has no address of the family that is wanted")]
    OtherFamily,
    #[error("could not be resolved: the name servers of the gateway's host do not answer")]
    Silent,
    #[error("could not be resolved: the name servers of the gateway's host answer that they cannot")]
    Refused,
    #[error("is not a name that can be resolved")]
    NotAName,
}

/// The names of backends, for all workers.
#[derive(Debug, Default)]
pub(super) struct Names {
    current: AsyncMutex<Option<Current>>,
    kept: Mutex<Kept>,
}

struct Current {
    resolver: TokioResolver,
    files: [Vec<u8>; 2],
    checked: Instant,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("checked", &self.checked).finish_non_exhaustive()
    }
}

impl Names {
    /// The addresses of `name`, IPv6 first unless `lookup` says otherwise, with `port`: one at least, [`ADDRESSES_MAX`] of
    /// each family at most. Those who ask for one name at the same time share a question.
    ///
    /// # Errors
    /// [`Unresolved`] says why there is none.
    pub(super) async fn addresses(
        &self,
        name: &str,
        port: u16,
        lookup: Option<&Arc<Lookup>>,
    ) -> Result<Vec<SocketAddr>, Unresolved> {
        let found = self.found(name, lookup, clock::instant()).await?;
        Ok(found.iter().map(|&ip| SocketAddr::new(ip, port)).collect())
    }

    async fn found(&self, name: &str, lookup: Option<&Arc<Lookup>>, now: Instant) -> Answer {
        let resolver = self.resolver(now).await?;
        if let Some(answer) = self.kept().get(lookup, name, now) {
            return answer;
        }
        let (answer, age) = ask(&resolver, name, lookup.map(|lookup| &**lookup)).await;
        if !age.is_zero() {
            self.kept().put(lookup, name, &answer, (now, now + age));
        }
        answer
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn resolver(&self, now: Instant) -> Result<TokioResolver, Unresolved> {
        let mut current = self.current.lock().await;
        if let Some(known) = current.as_ref().filter(|known| now.saturating_duration_since(known.checked) < REREAD) {
            return Ok(known.resolver.clone());
        }
        // One that is not there says nothing.
        let [resolv_conf, hosts] = [RESOLV_CONF, HOSTS].map(tokio::fs::read);
        let files = [resolv_conf.await.unwrap_or_default(), hosts.await.unwrap_or_default()];
        let resolver = match &*current {
            Some(known) if known.files == files => known.resolver.clone(),
            _ => {
                *self.kept() = Kept::default();
                let [resolv_conf, hosts] = &files;
                let (config, options) = settings(resolv_conf);
                build(config, options, hosts).map_err(|_| Unresolved::Silent)?
            }
        };
        *current = Some(Current { resolver: resolver.clone(), files, checked: now });
        Ok(resolver)
    }
}

/// Without a file that names servers, the one on this host is asked (resolv.conf(5)).
fn settings(resolv_conf: &[u8]) -> (ResolverConfig, ResolverOpts) {
    parse_resolv_conf(resolv_conf).unwrap_or_else(|error| {
        tracing::warn!(%error, "no name server in {RESOLV_CONF}: the one on this host is asked");
        let here = NameServerConfig::udp_and_tcp(std::net::Ipv4Addr::LOCALHOST.into());
        (ResolverConfig::from_parts(None, Vec::new(), vec![here]), ResolverOpts::default())
    })
}

fn build(config: ResolverConfig, options: ResolverOpts, hosts: &[u8]) -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_with_config(config, Default::default()).with_options(options);
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    // Answers are kept here, where the clock is.
    options.cache_size = 0;
    options.timeout = QUERY;
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    let mut resolver = builder.build()?;
    let mut known = Hosts::default();
    if let Err(error) = known.read_hosts_conf(hosts) {
        tracing::warn!(%error, "{HOSTS} cannot be read");
    }
    resolver.set_hosts(Arc::new(known));
    Ok(resolver)
}

/// The answer, and how long it counts from the question on.
async fn ask(resolver: &TokioResolver, name: &str, lookup: Option<&Lookup>) -> (Answer, Duration) {
    let (complete, limit) = match lookup {
        None => (name.to_owned(), RESOLVE),
        Some(lookup) => (format!("{}.", name.trim_end_matches('.')), lookup.timeout),
    };
    let heard = timeout(limit, resolver.lookup_ip(complete)).await;
    let least = lookup.map_or(Duration::ZERO, |lookup| lookup.least);
    match heard {
        Ok(Ok(found)) => {
            let said = found.as_lookup().answers().iter().map(|record| record.ttl).min().unwrap_or_default();
            let unsaid = lookup.map_or(Duration::ZERO, |lookup| lookup.unsaid);
            let said = if said == 0 { unsaid } else { Duration::from_secs(said.into()) };
            let family = lookup.map_or(Family::default(), |lookup| lookup.family);
            (sorted(&found, family), said.max(least).min(ANSWER_AGE_MAX))
        }
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
            let said = none.negative_ttl.map_or(TROUBLE_AGE, |ttl| Duration::from_secs(ttl.into()));
            (Err(Unresolved::Absent), said.max(least).min(ABSENCE_AGE_MAX))
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, name, "a name could not be resolved");
            match error {
                NetError::Dns(_) => (Err(Unresolved::Refused), TROUBLE_AGE),
                NetError::Proto(_) => (Err(Unresolved::NotAName), TROUBLE_AGE),
                _ => (Err(Unresolved::Silent), limit + TROUBLE_AGE),
            }
        }
        // Known only when the time for it is over.
        Err(_) => (Err(Unresolved::Silent), limit + TROUBLE_AGE),
    }
}

fn sorted(found: &LookupIp, family: Family) -> Answer {
    let (six, four): (Vec<IpAddr>, Vec<IpAddr>) = found.iter().partition(IpAddr::is_ipv6);
    let (first, second) = match family {
        Family::Both => (six, four),
        Family::V4First => (four, six),
        Family::V6Only => (six, Vec::new()),
        Family::V4Only => (four, Vec::new()),
    };
    let some: Arc<[IpAddr]> =
        first.into_iter().take(ADDRESSES_MAX).chain(second.into_iter().take(ADDRESSES_MAX)).collect();
    match (some.is_empty(), found.iter().next()) {
        (false, _) => Ok(some),
        (true, Some(_)) => Err(Unresolved::OtherFamily),
        (true, None) => Err(Unresolved::Absent),
    }
}

#[cfg(test)]
mod tests;
