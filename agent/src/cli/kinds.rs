//! Kinds as people write them on a command line, and as output names them.
//!
//! Pure.

use std::str::FromStr;

use underpass_shared::resource::kind::{Kind, KindInfo};

use super::manifest::unknown_kind;

/// What `all` means: what people make themselves and look at every day.
pub(crate) const EVERYDAY: [Kind; 11] = [
    Kind::TunnelNode,
    Kind::Proxy,
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
    Kind::UdpRoute,
    Kind::Backend,
    Kind::EdgeFunction,
];

/// A kind as people write it: `httproute`, `hr`, `httproutes.gateway.apoxy.dev`, or with a name, `httproute/web`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindWord {
    pub(crate) kind: Kind,
    /// The group and version that were written, or the kind's own.
    pub(crate) api_version: &'static str,
    pub(crate) name: Option<String>,
}

impl KindWord {
    pub(crate) fn of(kind: Kind) -> Self {
        Self { kind, api_version: kind.info().api_versions[0], name: None }
    }

    /// The name in the word, then the others.
    pub(crate) fn with(&self, names: &[String]) -> Vec<String> {
        self.name.iter().chain(names).cloned().collect()
    }
}

impl FromStr for KindWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, name) = match text.split_once('/') {
            Some((_, "")) => return Err(format!("`{text}` ends where a name should follow")),
            Some((word, name)) => (word, Some(name.to_owned())),
            None => (text, None),
        };
        let (plain, place) = match word.split_once('.') {
            Some((plain, place)) => (plain, Some(place)),
            None => (word, None),
        };
        let info = Kind::of_word(plain).ok_or_else(|| unknown_kind(word))?.info();
        let is_at = |api_version: &str, place: &str| {
            let (group, version) = (group_of(api_version), version_of(api_version));
            place == group || place == version || place.split_once('.') == Some((version, group))
        };
        let served = info.api_versions.iter().find(|api_version| place.is_none_or(|place| is_at(api_version, place)));
        let api_version = served.ok_or_else(|| unknown_kind(word))?;
        Ok(Self { kind: info.kind, api_version, name })
    }
}

/// What `get` is asked for first: kinds joined by commas, `all`, or KIND/NAME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindWords(pub(crate) Vec<KindWord>);

impl FromStr for KindWords {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words: Vec<KindWord> = Vec::new();
        for part in text.split(',') {
            let more = match part {
                "all" => EVERYDAY.into_iter().map(KindWord::of).collect(),
                part => vec![part.parse()?],
            };
            words.extend(more.into_iter().filter(|word| !words.contains(word)).collect::<Vec<_>>());
        }
        if words.len() > 1 && words.iter().any(|word| word.name.is_some()) {
            return Err(format!("`{text}`: write KIND/NAME KIND/NAME with a space between"));
        }
        Ok(Self(words))
    }
}

/// `GROUP` of `GROUP/VERSION`; nothing for the core group.
pub(crate) fn group_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// `VERSION` of `GROUP/VERSION`.
pub(crate) fn version_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or(api_version, |(_, version)| version)
}

/// `httproute.gateway.networking.k8s.io`.
pub(crate) fn full_kind(info: &KindInfo, api_version: &str) -> String {
    match group_of(api_version) {
        "" => info.singular.to_owned(),
        group => format!("{}.{group}", info.singular),
    }
}

/// `httproute.gateway.networking.k8s.io/web`, as `apply` and `-o name` print it.
pub(crate) fn full_name(info: &KindInfo, api_version: &str, name: &str) -> String {
    format!("{}/{name}", full_kind(info, api_version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_all_their_names() {
        let check = |text: &str, kind: Kind, api_version: &'static str, name: Option<&str>| {
            assert_eq!(text.parse(), Ok(KindWord { kind, api_version, name: name.map(str::to_owned) }), "{text}");
        };
        let standard = "gateway.networking.k8s.io/v1";
        check("tn", Kind::TunnelNode, "core.apoxy.dev/v1alpha", None);
        check("HTTPRoutes", Kind::HttpRoute, standard, None);
        check("httproute.gateway.apoxy.dev/web", Kind::HttpRoute, "gateway.apoxy.dev/v1", Some("web"));
        check("gateways.gateway.networking.k8s.io", Kind::Gateway, standard, None);
        check("gateways.v1beta1.gateway.apoxy.dev", Kind::Gateway, "gateway.apoxy.dev/v1beta1", None);
        check("backends.v1alpha", Kind::Backend, "core.apoxy.dev/v1alpha", None);
        check("cm/x", Kind::ConfigMap, "v1", Some("x"));
        for (text, want) in [
            ("gatway", "unknown kind `gatway`: did you mean Gateway"),
            ("gateway.example.com", "unknown kind `gateway.example.com`"),
            ("gateway/", "ends where a name should follow"),
            ("", "unknown kind ``"),
        ] {
            let error = text.parse::<KindWord>().unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn several_kinds_are_joined_by_commas() {
        let kinds = |text: &str| -> Vec<Kind> {
            text.parse::<KindWords>().unwrap().0.into_iter().map(|word| word.kind).collect()
        };
        assert_eq!(kinds("tn,hr,tunnelnodes"), [Kind::TunnelNode, Kind::HttpRoute]);
        assert_eq!(kinds("all"), EVERYDAY);
        assert!("tn/a,hr".parse::<KindWords>().unwrap_err().contains("with a space between"));
        assert!("tn,".parse::<KindWords>().is_err());
    }
}
