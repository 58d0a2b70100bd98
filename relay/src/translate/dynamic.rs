//! `Backend.spec.dynamicProxy` → how the names are resolved that requests name.

use std::time::Duration;

use underpass_shared::{
    identity::ProjectName,
    resource::backend::{DynamicProxy, LookupFamily},
};

use super::{Place, traffic::go_duration};
use crate::route::lookup::{Family, Lookup};

/// The most answers that one Backend may keep; a greater wish means as much.
const HOSTS_MAX: usize = 4_096;

/// The longest that an answer is kept, or waited for: longer ones mean as much.
const AGE_MAX: Duration = Duration::from_secs(3_600);
const TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(10);

/// Why the settings cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec.dynamicProxy.dnsCacheConfig.{0} is not a duration")]
pub(super) struct NotADuration(&'static str);

/// Without settings, the defaults of each.
pub(super) fn read(project: &ProjectName, place: &Place<'_>, written: &DynamicProxy) -> Result<Lookup, NotADuration> {
    let cache = written.dns_cache_config.clone().unwrap_or_default();
    let read = |text: &str, name| go_duration(text).ok_or(NotADuration(name));
    Ok(Lookup {
        project: project.clone(),
        backend: place.to_string().into(),
        family: match cache.dns_lookup_family {
            LookupFamily::Auto | LookupFamily::All => Family::Both,
            LookupFamily::V4Only => Family::V4Only,
            LookupFamily::V6Only => Family::V6Only,
            LookupFamily::V4Preferred => Family::V4First,
        },
        unsaid: read(&cache.dns_refresh_rate, "dnsRefreshRate")?.min(AGE_MAX),
        least: read(&cache.dns_min_refresh_rate, "dnsMinRefreshRate")?.min(AGE_MAX),
        unused: read(&cache.host_ttl, "hostTTL")?,
        most: usize::try_from(cache.max_hosts).unwrap_or(HOSTS_MAX).clamp(1, HOSTS_MAX),
        timeout: read(&cache.dns_query_timeout, "dnsQueryTimeout")?.clamp(*TIMEOUT.start(), *TIMEOUT.end()),
    })
}
