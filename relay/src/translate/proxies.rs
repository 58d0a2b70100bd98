//! Proxies: which one a Gateway runs on, and how the relay ends by what they say (`Proxy.spec.shutdown`).

use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;
use underpass_shared::resource::{gateway::ParametersReference, kind::Kind, proxy::ProxySpec};

use super::{ProjectSnapshot, gateways::Placed, stop, traffic::go_duration, unserved};

/// The Proxy of Gateways that name none, whose class neither does.
const DEFAULT: &str = "default";

/// The longest that a project may keep a relay from ending; longer wishes mean as much.
pub const DRAIN_MAX: Duration = Duration::from_secs(600);

/// How the relay ends, counted from when it is told to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shutdown {
    /// How long new connections are taken. Those that are there are said goodbye to at once.
    pub minimum: Duration,
    /// When what is still in flight is cut; `None` where no Proxy says.
    pub timeout: Option<Duration>,
}

/// The longest times of all Proxies that Gateways run on, for one relay serves them all.
pub(super) fn shutdown(gateways: &[Placed<'_>]) -> Shutdown {
    let mut longest = Shutdown::default();
    for gateway in gateways.iter().filter(|gateway| gateway.stopped.is_none()) {
        let proxy = find(gateway.objects, name_for(gateway).unwrap_or(DEFAULT));
        let Some((minimum, timeout)) = proxy.and_then(times) else { continue };
        longest.minimum = longest.minimum.max(minimum);
        longest.timeout = longest.timeout.max(Some(timeout));
    }
    longest
}

/// The name that the Gateway or its class has for its Proxy.
fn name_for<'a>(placed: &Placed<'a>) -> Option<&'a str> {
    let (spec, objects) = (&placed.gateway.spec, placed.objects);
    let own = spec.infrastructure.as_ref().and_then(|of| of.parameters_ref.as_ref());
    let of_class = || {
        let mut classes = objects.gateway_classes.iter();
        classes.find(|class| class.metadata.name == spec.gateway_class_name)?.spec.parameters_ref.as_ref()
    };
    own.or_else(of_class).map(|reference| &*reference.name)
}

/// What is wrong with a reference to a Proxy; what is not one, is told of elsewhere.
pub(super) fn missing(objects: &ProjectSnapshot, reference: Option<&ParametersReference>) -> Option<String> {
    let reference = reference.filter(|reference| reference.kind == "Proxy")?;
    let name = &reference.name;
    find(objects, name).is_none().then(|| format!("the Proxy {name} that parametersRef names is not there"))
}

fn find<'a>(objects: &'a ProjectSnapshot, name: &str) -> Option<&'a Value> {
    let is_it = |object: &Value| object.pointer("/metadata/name").and_then(Value::as_str) == Some(name);
    objects.others.iter().find(|(kind, object)| *kind == Kind::Proxy && is_it(object)).map(|(_, object)| object)
}

/// What a Proxy says, if it says anything and nothing of it keeps it from being served.
fn times(object: &Value) -> Option<(Duration, Duration)> {
    let spec = ProxySpec::deserialize(object.get("spec")?).ok()?;
    let shutdown = spec.shutdown.filter(|_| stop(&unserved::find(Kind::Proxy, object)).is_none())?;
    let timeout = go_duration(&shutdown.drain_timeout)?.min(DRAIN_MAX);
    Some((go_duration(&shutdown.minimum_drain_time)?.min(timeout), timeout))
}
