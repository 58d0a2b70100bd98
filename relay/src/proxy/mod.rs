//! One request's life, in reading order: what the client asked, whom we ask for it, what came back, what we remember.
//!
//! [`Routing`] is shared by all workers; each worker has a [`Proxy`] of its own, with its own pool of connections.
//! Journey A passes from `listener` through [`Proxy::handle`] to `tunnel` or to a socket.

mod affinity;
pub mod answer;
pub mod body;
pub mod checks;
mod compression;
pub mod datagrams;
pub mod dial;
mod exchange;
mod filters;
mod forward;
mod grpc_web;
mod headers;
pub mod http1;
pub mod may_dial;
mod mirror;
pub mod names;
mod origin;
mod path;
mod record;
mod request;
pub mod session;
pub mod stream;
mod upgrade;
pub mod upstream;
pub mod upstream_tls;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, Request, Response, Version, header, request::Parts, response};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    answer::{Failure, Language},
    body::{ClientBody, ResponseBody},
    compression::Asks,
    exchange::{Answered, Exchange, Sent},
    forward::Pseudonym,
    may_dial::DialPolicy,
    mirror::Mirrors,
    names::Names,
    record::Record,
    request::Asked,
    session::Sessions,
    upgrade::Upgrade,
    upstream::Pool,
    upstream_tls::ClientConfigs,
};
use crate::{
    clock,
    route::{
        client::ClientSettings,
        fleet::{Registry, Watched},
        matcher::Head,
        table::{ListenAddress, Miss, Scheme, Table, TlsListener},
        target::{Answers, Backend, Protocol, Rule},
    },
    tunnel::Tunnels,
};

pub use self::upgrade::Hold;

/// What all workers share: the table of the day, and what may be dialled. Swapped whole, never locked.
#[derive(Debug)]
pub struct Routing {
    pub table: ArcSwap<Table>,
    pub dial_policy: ArcSwap<DialPolicy>,
    pub tunnels: Tunnels,
    client_configs: ClientConfigs,
    /// Every time of the balancers is counted from here.
    started: Instant,
    fleets: Mutex<Registry>,
    /// Endpoints that are to be asked for their health from now on.
    watched: mpsc::UnboundedSender<Watched>,
    to_watch: Mutex<Option<mpsc::UnboundedReceiver<Watched>>>,
    names: Names,
    sessions: Sessions,
    pseudonym: Pseudonym,
}

impl Routing {
    /// An empty table: everything is answered 404.
    #[must_use]
    pub fn new(tunnels: Tunnels, dial_policy: DialPolicy) -> Self {
        let client_configs = ClientConfigs::default();
        // Bounded by what tables hold: each endpoint is sent once.
        let (watched, to_watch) = mpsc::unbounded_channel();
        Self {
            table: ArcSwap::default(),
            dial_policy: ArcSwap::from_pointee(dial_policy),
            tunnels,
            client_configs,
            names: Names::default(),
            sessions: Sessions::new(&rand::random()),
            pseudonym: Pseudonym::default(),
            started: clock::instant(),
            fleets: Mutex::default(),
            watched,
            to_watch: Mutex::new(Some(to_watch)),
        }
    }

    /// Clients' sessions with endpoints are known by `sessions`, which all relays of the deployment share; without it, by a
    /// key of this one's life.
    #[must_use]
    pub fn with_sessions(self, sessions: Sessions) -> Self {
        Self { sessions, ..self }
    }

    /// Serves from `table` from now on, and gives back the one before. What was known of the endpoints stays known.
    pub fn publish(&self, table: impl Into<Arc<Table>>) -> Arc<Table> {
        let table = table.into();
        let mut fleets = self.fleets.lock().unwrap_or_else(PoisonError::into_inner);
        for watched in fleets.adopt(table.fleets(), self.now()) {
            // Without anybody who asks them, they count as healthy.
            let _ = self.watched.send(watched);
        }
        self.table.swap(table)
    }

    /// The time, counted from the start.
    fn now(&self) -> Duration {
        clock::instant().saturating_duration_since(self.started)
    }
}

/// Who asks, and where they came in.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: SocketAddr,
    /// The address that they connected to.
    pub local: SocketAddr,
    /// Where they came in.
    pub at: ListenAddress,
    /// What the handshake selected; none in the clear.
    pub tls: Option<Arc<TlsListener>>,
}

impl Client {
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }
}

/// One worker's half of the gateway that faces the backends.
#[derive(Debug)]
pub struct Proxy {
    routing: Arc<Routing>,
    pool: Arc<Pool>,
    mirrors: Mirrors,
    /// A permit for each response that may be packed.
    packing: Arc<Semaphore>,
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl Proxy {
    /// Upgraded connections live on `tasks` and end at the latest when `cut` is cancelled.
    #[must_use]
    pub fn new(routing: Arc<Routing>, tasks: TaskTracker, cut: CancellationToken) -> Self {
        let pool = Pool::new(routing.clone());
        let mirrors = Mirrors::new(pool.clone(), tasks.clone(), cut.clone());
        let packing = Arc::new(Semaphore::new(compression::PACKED_MAX));
        Self { pool, routing, mirrors, packing, tasks, cut }
    }

    /// Serves one request. Every failure becomes an answer that says what is wrong.
    ///
    /// Heads are boxed: what a future holds is moved about with it, for each request.
    pub async fn handle(&self, request: Box<Request<ClientBody>>, client: &Arc<Client>) -> Response<ResponseBody> {
        let arrived = clock::instant();
        let mut record = Record::new(request.method(), client.clone(), arrived);
        let (version, language) = (request.version(), Language::of(request.headers()));
        let is_head = request.method() == Method::HEAD;
        let response = match self.serve(request, (client, arrived), &mut record).await {
            Ok(response) => {
                record.answered(response.status());
                // That of an upgraded connection was taken, until the bytes end: this one is empty then.
                response.map(|body| body.recorded(record))
            }
            Err(failure) => {
                record.failed(&failure);
                failure.response(version, language).map(|body| body.recorded(record))
            }
        };
        // hyper leaves bodies out of HTTP/1.1 only.
        if is_head { without_body(response) } else { response }
    }

    async fn serve(
        &self,
        mut request: Box<Request<ClientBody>>,
        (client, arrived): (&Client, Instant),
        record: &mut Record,
    ) -> Result<Response<ResponseBody>, Failure> {
        let upgrade = upgrade::take(&mut request)?;
        let (mut sent, incoming) = checked(*request)?;
        let Sent { parts, asked } = &mut *sent;
        let (rule, settings) = select(&self.routing.table.load(), asked, parts, client);
        let of_clients = settings.as_ref().map(|settings| &settings.requests);
        let origin = of_clients.and_then(|clients| clients.origin.as_ref());
        let found = origin.map(|origin| origin::find(origin, &parts.headers, client)).transpose()?;
        let behind = found.as_ref().map(|found| Arc::new(found.of(client)));
        behind.iter().for_each(|client| record.came_from(client));
        let rule = rule?;
        record.chose(&rule, None);
        let web = if rule.answers == Answers::Grpc { grpc_web::Form::take(&mut parts.headers) } else { None };
        let incoming = match web {
            Some(form) => form.upload(incoming),
            None => incoming,
        };
        let incoming = match of_clients {
            Some(clients) => incoming.timed(clients, arrived),
            None => incoming,
        };
        let trailers = headers::forward_request(&mut parts.headers, asked, client, found.as_ref()) || web.is_some();
        let client = behind.as_deref().unwrap_or(client);
        let back = filters::Back {
            origin: parts.headers.get(header::ORIGIN).cloned(),
            asks: if upgrade.is_some() { Asks::default() } else { Asks::of(&rule, parts) },
            packing: &self.packing,
            web,
        };
        if let Some(answer) = filters::before(&rule.filters, parts, asked, client) {
            return Ok(filters::after(&[&rule.filters], &back, answer?));
        }
        let pinned = session::find(&self.routing, &rule, &parts.headers);
        let backend = match &pinned {
            Some(pinned) => &rule.backends[pinned.backend],
            None => choose(&rule)?,
        };
        record.chose(&rule, Some(backend));
        let has_mirrors = !rule.filters.mirrors.is_empty();
        let of_rule = has_mirrors.then(|| Box::new(Sent { parts: parts.clone(), asked: asked.clone() }));
        if let Some(answer) = filters::before(&backend.filters, parts, asked, client) {
            return Ok(filters::after(&[&backend.filters, &rule.filters], &back, answer?));
        }
        let pin = affinity::find(backend, &parts.headers, client);
        let (key, meter) = (pin.key, record.meter());
        let pinned = pinned.as_ref();
        let idle = of_clients.and_then(|clients| clients.idle);
        let exchange =
            Exchange { proxy: self, rule: &rule, backend, client, trailers, meter, arrived, key, pinned, idle };
        let mut reply = exchange.run(sent, of_rule, incoming, upgrade.is_some()).await?;
        record.holds(reply.held.take());
        let moved = reply.place.filter(|&place| pinned.is_none_or(|pinned| pinned.place != place));
        let mut response = self.pass_back(reply, upgrade, record)?;
        if let Some(place) = moved {
            session::tell(&self.routing, &rule, place, client, response.headers_mut());
        }
        if let Some(limit) = idle {
            response.body_mut().may_be_silent_for(limit);
        }
        response.headers_mut().extend(pin.cookie.map(|cookie| (header::SET_COOKIE, cookie)));
        Ok(filters::after(&[&backend.filters, &rule.filters], &back, response))
    }

    fn pass_back(
        &self,
        reply: Answered,
        upgrade: Option<Upgrade>,
        record: &mut Record,
    ) -> Result<Response<ResponseBody>, Failure> {
        let Answered { response, deadline, .. } = reply;
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            let upgrade = upgrade.ok_or(Failure::UnaskedUpgrade)?;
            upgrade.check(response.headers())?;
            let (mut parts, incoming) = response.into_parts();
            let backend = incoming.into_switched().ok_or(Failure::UnaskedUpgrade)?;
            headers::forward_response(&mut parts.headers);
            upgrade.answer(&mut parts.status, &mut parts.headers);
            record.answered(parts.status);
            let record = std::mem::take(record);
            self.tasks.spawn(upgrade::join(upgrade, backend, record, self.cut.clone()));
            return Ok(Response::from_parts(plain(parts), ResponseBody::empty()));
        }
        if upgrade.is_some_and(|upgrade| !upgrade.may_refuse_with(response.status())) {
            return Err(Failure::Handshake);
        }
        let doubtful = response.headers().contains_key(header::TRANSFER_ENCODING)
            && response.headers().contains_key(header::CONTENT_LENGTH);
        if doubtful {
            return Err(Failure::Framing);
        }
        let (mut parts, incoming) = response.into_parts();
        headers::forward_response(&mut parts.headers);
        Ok(Response::from_parts(plain(parts), ResponseBody::stream(incoming, deadline)))
    }
}

/// Apart from what waits, which would have room for the parts as long as it does.
fn checked(request: Request<ClientBody>) -> Result<(Box<Sent>, ClientBody), Failure> {
    let (parts, incoming) = request.into_parts();
    let asked = request::check(&parts)?;
    Ok((Box::new(Sent { parts, asked }), incoming))
}

/// What a client that asked with HEAD is sent.
fn without_body(response: Response<ResponseBody>) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    let (body, length) = body.left_out();
    if let Some(length) = length {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(parts, body)
}

/// The rule that serves the request, and how its listener deals with clients. The table is borrowed for no longer, so
/// that a long response does not keep an old one alive.
fn select(
    table: &Table,
    asked: &Asked,
    parts: &Parts,
    client: &Client,
) -> (Result<Arc<Rule>, Failure>, Option<Arc<ClientSettings>>) {
    let settings = table.requests(client.at, &asked.host, client.tls.as_deref()).cloned();
    (rule(table, asked, parts, client), settings)
}

fn rule(table: &Table, asked: &Asked, parts: &Parts, client: &Client) -> Result<Arc<Rule>, Failure> {
    let (path, query) = (asked.path_and_query.path(), asked.path_and_query.query());
    let head = Head { at: client.at, host: &asked.host, method: &parts.method, path, query, headers: &parts.headers };
    let selection = table.select(&head, client.tls.as_deref()).map_err(|miss| match miss {
        Miss::Host => Failure::UnknownHost { host: asked.host.clone() },
        Miss::Rule => Failure::NoRule { host: asked.host.clone(), path: path.to_owned() },
        Miss::Misdirected => Failure::Misdirected { host: asked.host.clone() },
    })?;
    Ok(selection.rule.clone())
}

/// The backend whose turn it is.
fn choose(rule: &Rule) -> Result<&Backend, Failure> {
    rule.backend(rand::random()).ok_or_else(|| Failure::Unresolved {
        status: 500,
        text: "the route has no backend to send requests to".to_owned(),
    })
}

/// The version is a matter of each connection.
fn plain(mut parts: response::Parts) -> response::Parts {
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    parts
}

/// Makes the head one that the upstream's protocol can carry.
fn prepare(
    parts: &mut Parts,
    asked: &Asked,
    protocol: Protocol,
    bodiless: bool,
    trailers: bool,
) -> Result<(), Failure> {
    let authority = HeaderValue::from_str(asked.authority.as_str()).map_err(|_| Failure::Internal)?;
    parts.extensions.clear();
    if trailers {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(asked.path_and_query.clone());
    match protocol {
        Protocol::Http1 => {
            parts.version = Version::HTTP_11;
            parts.headers.insert(header::HOST, authority);
            if trailers {
                parts.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            }
            // Without it the body of a GET would be left out.
            if !bodiless && !parts.headers.contains_key(header::CONTENT_LENGTH) {
                parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        Protocol::Http2 | Protocol::Either => {
            parts.version = Version::HTTP_2;
            parts.headers.remove(header::HOST);
            uri.scheme = Some(http::uri::Scheme::HTTP);
            uri.authority = Some(asked.authority.clone());
        }
    }
    parts.uri = http::Uri::from_parts(uri).map_err(|_| Failure::Internal)?;
    Ok(())
}
