//! A kubeconfig → where the relay's API is, whom to trust, and who we are.
//!
//! Knows the places where kubeconfigs are looked for. Opens no connection (that is `client`).

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use underpass_shared::identity::{NameError, ProjectName};

/// The longest kubeconfig, certificate or key file in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Where `https` is when the URL names no port.
const DEFAULT_PORT: u16 = 443;

/// Everything that a connection to the relay's API needs.
#[derive(Debug)]
pub struct Kubeconfig {
    /// The file that all this was read from.
    pub source: PathBuf,
    pub server: Server,
    /// The name in the relay's certificate, when it is not the server's host.
    pub tls_server_name: Option<String>,
    /// PEM.
    pub(crate) ca: Vec<u8>,
    pub(crate) client: Option<ClientIdentity>,
    pub(crate) token: Option<BearerToken>,
    /// The namespace that the context names.
    pub namespace: Option<String>,
}

/// The client certificate and its key, both PEM.
pub(crate) struct ClientIdentity {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(..)")
    }
}

/// What a request says in `Authorization: Bearer …` (RFC 6750 §2.1): visible ASCII, so that it fits a header.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BearerToken(String);

impl BearerToken {
    /// `None` when the text cannot stand in a header.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(..)")
    }
}

/// The URL of the API, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
    /// The path before `/projects/NAME` and `/apis`, without a slash at its end.
    pub(crate) prefix: String,
    /// The project that the path names.
    pub project: Option<ProjectName>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}{}", self.host, self.port, self.prefix)
        } else {
            write!(f, "https://{}:{}{}", self.host, self.port, self.prefix)
        }
    }
}

/// Why there is no usable kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("{}", none_found(.0))]
    NoneFound(Vec<(PathBuf, io::ErrorKind)>),
    #[error("{}: cannot read this kubeconfig", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {problem}", path.display())]
    Unusable { path: PathBuf, problem: Problem },
}

/// What is wrong with a kubeconfig.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("longer than {} KiB: this is no kubeconfig", FILE_BYTES_MAX >> 10)]
    TooLong,
    #[error("not a kubeconfig: {0}")]
    Syntax(String),
    #[error("no `current-context`: add one that names an entry of `contexts`")]
    NoCurrentContext,
    #[error("no {kind} is called `{name}`")]
    Missing { kind: &'static str, name: String },
    #[error("there already is a {kind} called `{name}`")]
    Exists { kind: &'static str, name: String },
    #[error(
        "the new context `{name}` has no {field}, and there is no current context to take it from: name it with --{field}"
    )]
    NoModel { name: String, field: &'static str },
    #[error("`server: {0}` is not a URL such as https://relay.example.com:6443")]
    Url(String),
    #[error("`server: {0}` is not https: the API is served over TLS only")]
    NotHttps(String),
    #[error("the server's URL names a project")]
    Project(#[source] NameError),
    #[error(
        "`insecure-skip-tls-verify: true` would let anybody pose as the relay and is not supported: remove it, and put the relay's CA (ca.crt in its data directory) into `certificate-authority-data`"
    )]
    Insecure,
    #[error("no `certificate-authority-data`: put the relay's CA (ca.crt in its data directory) there, in base64")]
    NoAuthority,
    #[error("`{0}` is not base64")]
    Base64(&'static str),
    #[error("`{field}: {file}` cannot be read: {reason}", file = file.display())]
    File { field: &'static str, file: PathBuf, reason: String },
    #[error("`client-certificate-data` and `client-key-data` belong together: one of them is missing")]
    HalfIdentity,
    #[error("`{0}` is not a token: it must be one word of visible ASCII characters")]
    Token(&'static str),
    #[error("`{0}` is not supported: use a client certificate or a token")]
    UnsupportedUser(&'static str),
    #[error("others on this machine can read the private key or the token in {file}: run chmod 600 {file}", file = .0.display())]
    ReadableByOthers(PathBuf),
}

fn none_found(places: &[(PathBuf, io::ErrorKind)]) -> String {
    let mut text = "no kubeconfig found, so there is no relay to talk to; looked at:\n".to_owned();
    for (path, kind) in places {
        let reason = match kind {
            io::ErrorKind::NotFound => "does not exist".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            other => other.to_string(),
        };
        text += &format!("  {} ({reason})\n", path.display());
    }
    text + "copy admin.kubeconfig from the relay's data directory to the first of these, or name it with --kubeconfig FILE \
            or UNDERPASS_KUBECONFIG"
}

/// Where kubeconfigs are looked for, best first.
#[derive(Debug, Clone)]
pub struct Places(Vec<PathBuf>);

impl Places {
    /// `explicit` alone when it is given; else the user's own, then those of a relay with the default data directory on
    /// this machine, run by root or by the user.
    #[must_use]
    pub fn new(explicit: Option<&Path>) -> Self {
        Self::from_environment(explicit, |name| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        })
    }

    fn from_environment(explicit: Option<&Path>, variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        if let Some(path) = explicit {
            return Self(vec![path.to_owned()]);
        }
        let home = variable("HOME");
        let under = |name: &str, default: &str| variable(name).or_else(|| Some(home.as_ref()?.join(default)));
        let own = under("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("underpass/kubeconfig"));
        let system = Some(PathBuf::from("/var/lib/underpass-relay/admin.kubeconfig"));
        let state =
            under("XDG_STATE_HOME", ".local/state").map(|folder| folder.join("underpass-relay/admin.kubeconfig"));
        Self([own, system, state].into_iter().flatten().collect())
    }
}

impl Places {
    /// Where the user's own kubeconfig is, or will be.
    pub(crate) fn own(&self) -> Option<&Path> {
        self.0.first().map(PathBuf::as_path)
    }
}

/// The text of the first kubeconfig that is there, and where that is; `None` when there is none.
///
/// # Errors
/// When it cannot be read or is no text.
pub(crate) fn read_text(places: &Places) -> Result<Option<(PathBuf, String)>, KubeconfigError> {
    for path in &places.0 {
        let failed = |source| KubeconfigError::Read { path: path.clone(), source };
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if places.0.len() == 1 => return Err(failed(error)),
            Err(_) => continue,
        };
        let bytes = read_bounded(file).map_err(failed)?;
        let unusable = |problem| KubeconfigError::Unusable { path: path.clone(), problem };
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(unusable(Problem::TooLong));
        }
        let text = String::from_utf8(bytes).map_err(|_| unusable(Problem::Syntax("not UTF-8 text".to_owned())))?;
        return Ok(Some((path.clone(), text)));
    }
    Ok(None)
}

/// Reads the first kubeconfig that is there.
///
/// # Errors
/// When there is none, or when the first that is there cannot be used.
pub fn load(places: &Places) -> Result<Kubeconfig, KubeconfigError> {
    let mut tried = Vec::new();
    for path in &places.0 {
        match fs::File::open(path) {
            Ok(file) => return read(path, file),
            Err(source) if places.0.len() == 1 => return Err(KubeconfigError::Read { path: path.clone(), source }),
            Err(error) => tried.push((path.clone(), error.kind())),
        }
    }
    Err(KubeconfigError::NoneFound(tried))
}

fn read(path: &Path, file: fs::File) -> Result<Kubeconfig, KubeconfigError> {
    let failed = |source| KubeconfigError::Read { path: path.to_owned(), source };
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    let text = read_bounded(file).map_err(failed)?;
    let unusable = |problem| KubeconfigError::Unusable { path: path.to_owned(), problem };
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unusable(Problem::TooLong));
    }
    let written = String::from_utf8(text)
        .map_err(|_| Problem::Syntax("not UTF-8 text".to_owned()))
        .and_then(|text| parse(&text))
        .map_err(unusable)?;
    if written.has_secret_inside() && mode & 0o077 != 0 {
        return Err(unusable(Problem::ReadableByOthers(path.to_owned())));
    }
    resolve(&written, path).map_err(unusable)
}

fn read_bounded(file: fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, FILE_BYTES_MAX + 1), &mut bytes)?;
    Ok(bytes)
}

/// A kubeconfig as far as it is read; other keys are other programs' business.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Written {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

impl Written {
    fn has_secret_inside(&self) -> bool {
        self.users.iter().any(|user| user.user.client_key_data.is_some() || user.user.token.is_some())
    }
}

#[derive(Debug, Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Debug, Deserialize)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    certificate_authority_data: Option<String>,
    certificate_authority: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: Option<String>,
    client_certificate: Option<PathBuf>,
    client_key_data: Option<String>,
    client_key: Option<PathBuf>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<serde::de::IgnoredAny>,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("User(..)")
    }
}

fn parse(text: &str) -> Result<Written, Problem> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| Problem::Syntax(error.render_with_formatter(&serde_saphyr::UserMessageFormatter)))
}

fn resolve(written: &Written, path: &Path) -> Result<Kubeconfig, Problem> {
    if written.current_context.is_empty() {
        return Err(Problem::NoCurrentContext);
    }
    let missing = |kind, name: &str| Problem::Missing { kind, name: name.to_owned() };
    let named = |name: &str| written.contexts.iter().find(|context| context.name == name);
    let context = &named(&written.current_context).ok_or_else(|| missing("context", &written.current_context))?.context;
    let cluster = written.clusters.iter().find(|cluster| cluster.name == context.cluster);
    let cluster = &cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
    let user = written.users.iter().find(|user| user.name == context.user);
    let user = &user.ok_or_else(|| missing("user", &context.user))?.user;

    if cluster.insecure_skip_tls_verify {
        return Err(Problem::Insecure);
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let ca = Part {
        data: (cluster.certificate_authority_data.as_deref(), "certificate-authority-data"),
        file: (cluster.certificate_authority.as_deref(), "certificate-authority"),
    };
    Ok(Kubeconfig {
        source: path.to_owned(),
        server: parse_server(&cluster.server)?,
        tls_server_name: cluster.tls_server_name.clone(),
        ca: ca.read(folder)?.ok_or(Problem::NoAuthority)?,
        client: client_identity(user, folder)?,
        token: token(user, folder)?,
        namespace: context.namespace.clone().filter(|namespace| !namespace.is_empty()),
    })
}

fn client_identity(user: &User, folder: &Path) -> Result<Option<ClientIdentity>, Problem> {
    let certificate = Part {
        data: (user.client_certificate_data.as_deref(), "client-certificate-data"),
        file: (user.client_certificate.as_deref(), "client-certificate"),
    };
    let key = Part {
        data: (user.client_key_data.as_deref(), "client-key-data"),
        file: (user.client_key.as_deref(), "client-key"),
    };
    if let (None, Some(file)) = (user.client_key_data.as_ref(), user.client_key.as_ref()) {
        refuse_readable(&folder.join(file))?;
    }
    match (certificate.read(folder)?, key.read(folder)?) {
        (Some(certificate), Some(key)) => Ok(Some(ClientIdentity { certificate, key })),
        (None, None) => {
            let unsupported = [
                ("username", user.username.is_some()),
                ("exec", user.exec.is_some()),
                ("auth-provider", user.auth_provider.is_some()),
            ];
            match unsupported.into_iter().find(|(_, is_set)| *is_set) {
                Some((field, _)) => Err(Problem::UnsupportedUser(field)),
                None => Ok(None),
            }
        }
        _ => Err(Problem::HalfIdentity),
    }
}

/// The token in the kubeconfig, or that in a file beside it; the file is the fresher one and wins, as in kubectl.
fn token(user: &User, folder: &Path) -> Result<Option<BearerToken>, Problem> {
    if let Some(file) = &user.token_file {
        let file = folder.join(file);
        refuse_readable(&file)?;
        let failed = |reason| Problem::File { field: "tokenFile", file: file.clone(), reason };
        let bytes = fs::File::open(&file).and_then(read_bounded).map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| Problem::Token("tokenFile"))?;
        return BearerToken::parse(&text).map(Some).ok_or(Problem::Token("tokenFile"));
    }
    match user.token.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => BearerToken::parse(text).map(Some).ok_or(Problem::Token("token")),
    }
}

fn refuse_readable(file: &Path) -> Result<(), Problem> {
    if fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0) {
        return Err(Problem::ReadableByOthers(file.to_owned()));
    }
    Ok(())
}

/// A PEM text that is either inside the kubeconfig or in a file beside it.
struct Part<'a> {
    data: (Option<&'a str>, &'static str),
    file: (Option<&'a Path>, &'static str),
}

impl Part<'_> {
    /// Data wins over a file, as in kubectl.
    fn read(&self, folder: &Path) -> Result<Option<Vec<u8>>, Problem> {
        if let (Some(data), field) = self.data {
            let data: String = data.split_ascii_whitespace().collect();
            return STANDARD.decode(data).map(Some).map_err(|_| Problem::Base64(field));
        }
        let (Some(file), field) = self.file else { return Ok(None) };
        let file = folder.join(file);
        match fs::File::open(&file).and_then(read_bounded) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(Problem::File { field, file, reason: error.to_string() }),
        }
    }
}

fn parse_server(text: &str) -> Result<Server, Problem> {
    let refuse = || Problem::Url(text.escape_debug().to_string());
    let uri: http::Uri = text.trim().parse().map_err(|_| refuse())?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") => return Err(Problem::NotHttps(text.to_owned())),
        _ => return Err(refuse()),
    }
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(refuse)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || uri.query().is_some() {
        return Err(refuse());
    }
    let path = uri.path().trim_end_matches('/');
    let (prefix, project) = match path.rsplit_once("/projects/") {
        Some((prefix, project)) => (prefix, Some(project.parse().map_err(Problem::Project)?)),
        None => (path, None),
    };
    let port = match authority.port() {
        Some(port) => port.as_u16(),
        None => DEFAULT_PORT,
    };
    Ok(Server { host: host.to_owned(), port, prefix: prefix.to_owned(), project })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: &str = "
apiVersion: v1
kind: Config
preferences: {}
current-context: main
contexts:
- name: other
  context: {cluster: nowhere, user: nobody}
- name: main
  context: {cluster: relay, user: admin, namespace: shop}
clusters:
- name: relay
  cluster:
    server: https://relay.example.com:6443/projects/acme
    certificate-authority-data: Y2E=
users:
- name: admin
  user:
    client-certificate-data: Y2VydA==
    client-key-data: |
      a2V5
";

    fn parsed(text: &str) -> Result<Kubeconfig, Problem> {
        parse(text).and_then(|written| resolve(&written, Path::new("/nowhere/config")))
    }

    fn problem(text: &str) -> String {
        parsed(text).unwrap_err().to_string()
    }

    #[test]
    fn the_current_context_is_resolved() {
        let config = parsed(CONFIG).unwrap();
        assert_eq!(config.server.to_string(), "https://relay.example.com:6443");
        assert_eq!(config.server.project, Some("acme".parse().unwrap()));
        assert_eq!(config.namespace.as_deref(), Some("shop"));
        assert_eq!(config.ca, b"ca");
        let client = config.client.unwrap();
        assert_eq!((client.certificate.as_slice(), client.key.as_slice()), (&b"cert"[..], &b"key"[..]));
    }

    #[test]
    fn json_kubeconfigs_are_read_too() {
        let value: serde_json::Value = serde_saphyr::from_str(CONFIG).unwrap();
        assert_eq!(parsed(&serde_json::to_string_pretty(&value).unwrap()).unwrap().server.port, 6443);
    }

    #[test]
    fn what_is_unsafe_or_unsupported_is_refused_with_advice() {
        let insecure = CONFIG.replace("    certificate-authority-data: Y2E=", "    insecure-skip-tls-verify: true");
        assert!(problem(&insecure).starts_with("`insecure-skip-tls-verify: true` would let anybody pose as the relay"));
        let with_data = CONFIG.replace("certificate-authority-data", "insecure-skip-tls-verify: true\n    x");
        assert_eq!(parsed(&with_data).unwrap_err(), Problem::Insecure);
        assert_eq!(
            problem(&CONFIG.replace("https:", "http:")).split_once(" is not https").unwrap().1,
            ": the API is served over TLS only"
        );
        assert_eq!(parsed(&CONFIG.replace("certificate-authority-data", "x")).unwrap_err(), Problem::NoAuthority);
        assert_eq!(parsed(&CONFIG.replace("client-key-data", "x")).unwrap_err(), Problem::HalfIdentity);
        let exec = CONFIG.replace("client-certificate-data: Y2VydA==", "exec: {}").replace("client-key-data", "x");
        assert_eq!(parsed(&exec).unwrap_err(), Problem::UnsupportedUser("exec"));
    }

    #[test]
    fn a_token_is_read_from_the_kubeconfig_or_from_a_file() {
        let with = |line: &str| {
            CONFIG.replace("client-certificate-data: Y2VydA==", line).replace("client-key-data: |\n      a2V5", "x: y")
        };
        let config = parsed(&with("token: abc.d-e_f")).unwrap();
        assert_eq!(config.token.as_ref().map(BearerToken::as_str), Some("abc.d-e_f"));
        assert!(config.client.is_none() && !format!("{config:?}").contains("abc"));
        assert_eq!(parsed(&with("token: 'a b'")).unwrap_err(), Problem::Token("token"));

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t");
        let load = || parsed(&with(&format!("token: old\n    tokenFile: {}", file.display())));
        assert!(matches!(load().unwrap_err(), Problem::File { field: "tokenFile", .. }));
        write(&file, "fresh\n", 0o644);
        assert_eq!(load().unwrap_err(), Problem::ReadableByOthers(file.clone()));
        write(&file, "fresh\n", 0o600);
        assert_eq!(load().unwrap().token.unwrap().as_str(), "fresh");
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        assert_eq!(parsed("{}").unwrap_err(), Problem::NoCurrentContext);
        assert_eq!(problem(&CONFIG.replace("current-context: main", "current-context: x")), "no context is called `x`");
        assert_eq!(
            problem(&CONFIG.replace("current-context: main", "current-context: other")),
            "no cluster is called `nowhere`"
        );
        assert_eq!(
            parsed(&CONFIG.replace("Y2E=", "not base64")).unwrap_err(),
            Problem::Base64("certificate-authority-data")
        );
        assert!(problem("a: [").starts_with("not a kubeconfig: "));
        assert!(problem("hello").starts_with("not a kubeconfig: "));
        let file = CONFIG.replace("certificate-authority-data: Y2E=", "certificate-authority: ca.crt");
        assert!(problem(&file).starts_with("`certificate-authority: /nowhere/ca.crt` cannot be read"));
    }

    #[test]
    fn server_urls_are_taken_apart() {
        let check = |text: &str, want: &str, project: Option<&str>| {
            let server = parse_server(text).unwrap();
            assert_eq!(server.to_string(), want);
            assert_eq!(server.project.map(String::from).as_deref(), project);
        };
        check("https://[::1]:6443", "https://[::1]:6443", None);
        check("https://127.0.0.1/", "https://127.0.0.1:443", None);
        check("https://h:1/behind/proxy/projects/a-b/", "https://h:1/behind/proxy", Some("a-b"));
        for bad in ["", "h:1", "https://", "https://u@h", "https://h/projects/A", "ftp://h", "https://h?x=1", "/x"] {
            assert!(parse_server(bad).is_err(), "{bad}");
        }
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_users_own_kubeconfig_comes_before_the_relays() {
        let home = tempfile::tempdir().unwrap();
        let places = |explicit: Option<&Path>| {
            Places::from_environment(explicit, |name| (name == "HOME").then(|| home.path().to_owned()))
        };
        let own = home.path().join(".config/underpass/kubeconfig");
        let relay = home.path().join(".local/state/underpass-relay/admin.kubeconfig");
        assert_eq!(places(None).0, [own.clone(), "/var/lib/underpass-relay/admin.kubeconfig".into(), relay.clone()]);

        let mut without_system = places(None);
        without_system.0.remove(1);
        let text = load(&without_system).unwrap_err().to_string();
        assert!(text.contains(&format!("  {} (does not exist)\n", own.display())), "{text}");
        assert!(text.contains("--kubeconfig FILE"), "{text}");

        write(&relay, CONFIG, 0o600);
        assert_eq!(load(&without_system).unwrap().source, relay);
        write(&own, CONFIG, 0o600);
        assert_eq!(load(&without_system).unwrap().source, own);
        assert_eq!(load(&places(Some(&relay))).unwrap().source, relay);
        let missing = home.path().join("missing");
        assert!(matches!(load(&places(Some(&missing))), Err(KubeconfigError::Read { path, .. }) if path == missing));
    }

    #[test]
    fn a_private_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        write(&path, CONFIG, 0o640);
        let text = load(&Places(vec![path.clone()])).unwrap_err().to_string();
        assert!(text.ends_with(&format!("run chmod 600 {}", path.display())), "{text}");

        let with_files = CONFIG
            .replace("client-certificate-data: Y2VydA==", "client-certificate: c.pem")
            .replace("client-key-data: |\n      a2V5", "client-key: k.pem");
        write(&path, &with_files, 0o644);
        write(&folder.path().join("c.pem"), "cert", 0o644);
        write(&folder.path().join("k.pem"), "key", 0o644);
        assert!(load(&Places(vec![path.clone()])).unwrap_err().to_string().ends_with("k.pem"));
        write(&folder.path().join("k.pem"), "key", 0o600);
        assert_eq!(load(&Places(vec![path])).unwrap().client.unwrap().key, b"key");
    }

    proptest! {
        #[test]
        fn arbitrary_servers_never_panic(text in "(https://)?\\PC*") {
            if let Ok(server) = parse_server(&text) {
                prop_assert!(!server.host.is_empty());
            }
        }
    }
}
