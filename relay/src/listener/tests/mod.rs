//! The gateway on loopback: real clients, real upstreams, one worker. What follows here is the harness.

mod backend_tls;
mod balancing;
mod bodies;
mod clients;
mod compression;
mod connections;
mod datagrams;
mod filters;
mod grpc_web;
mod http3;
mod proxied;
mod requests;
mod streams;
mod tls;
mod upstreams;
mod websockets;

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Incoming},
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use underpass_shared::identity::ProjectName;

use super::{Gateway, Worker, bind};
use crate::{
    proxy::{Routing, may_dial::DialPolicy},
    route::{
        filter::Filters,
        host::HostPattern,
        matcher::{Matcher, PathMatcher},
        table::{Attachment, ListenAddress, Scheme, Table, TableBuilder},
        target::{self, Endpoint, Link, Protocol, Rule, Target, Upstream},
    },
    tunnel::Tunnels,
};

/// A gateway with one worker in this runtime.
struct Gate {
    /// Where it listens for port 80.
    address: SocketAddr,
    gateway: Arc<Gateway>,
    worker: Arc<Worker>,
    stop: CancellationToken,
}

impl Gate {
    /// Serves `routes` by hostname. Loopback may be dialled.
    fn open(routes: &[(&str, Target)]) -> Self {
        Self::open_with(routes, Scheme::Http, &["127.0.0.0/8"])
    }

    fn open_with(routes: &[(&str, Target)], scheme: Scheme, allow: &[&str]) -> Self {
        let allow_backends = allow.iter().map(|net| net.parse().unwrap()).collect();
        let policy = DialPolicy { allow_backends, ..DialPolicy::default() };
        let gateway = Gateway::new(Arc::new(Routing::new(Tunnels::new(tokio::runtime::Handle::current()), policy)));
        gateway.routing.table.store(Arc::new(table(routes, scheme)));
        let worker = Worker::new(gateway.clone());
        let socket = bind::bind((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap().remove(0);
        let address = socket.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(worker.clone().serve(socket, ListenAddress::shared(80), stop.clone()));
        Self { address, gateway, worker, stop }
    }

    fn publish(&self, routes: &[(&str, Target)]) {
        self.gateway.routing.publish(table(routes, Scheme::Http));
    }

    /// Serves `a.com` by one rule, which sends to `backend` and is then changed.
    fn open_rule(backend: SocketAddr, change: impl FnOnce(&mut Rule)) -> Self {
        let gate = Self::open(&[]);
        let (at, project) = (ListenAddress::shared(80), ProjectName::default());
        let (name, target) = ("default/b".into(), to_address(backend));
        let backend = target::Backend { name, weight: 1, target, filters: Filters::default() };
        let mut rule = Rule::new(project.clone(), "default/r".into(), vec![backend]);
        change(&mut rule);
        let mut builder = TableBuilder::default();
        builder.http(at, &project, &HostPattern::Any);
        attach(&mut builder, at, "a.com", rule);
        gate.gateway.routing.publish(builder.build());
        gate
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn http1<B: Body<Data = Bytes, Error = Infallible> + Send + 'static>(&self) -> http1::SendRequest<B> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    async fn http2<B>(&self) -> http2::SendRequest<B>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        let io = TokioIo::new(self.connect().await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One GET on a connection of its own.
    async fn get(&self, host: &str, path: &str) -> (u16, String) {
        let mut sender = self.http1().await;
        told(sender.send_request(get(host, path)).await.unwrap()).await
    }

    /// Writes `request` as it is and reads until the gateway closes.
    async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is as good as an end.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn get(host: &str, path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", host).body(Full::default()).unwrap()
}

/// The status and the whole body.
async fn told(response: Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn table(routes: &[(&str, Target)], scheme: Scheme) -> Table {
    let mut builder = TableBuilder::default();
    let project = ProjectName::default();
    let at = ListenAddress::shared(80);
    match scheme {
        Scheme::Http => builder.http(at, &project, &HostPattern::Any),
        Scheme::Https => builder.https(at, &project, &HostPattern::Any, Arc::default()),
    }
    for (host, target) in routes {
        let backends = vec![target::Backend {
            name: "default/b".into(),
            weight: 1,
            target: target.clone(),
            filters: Filters::default(),
        }];
        attach(&mut builder, at, host, Rule::new(project.clone(), "default/r".into(), backends));
    }
    builder.build()
}

/// Lets `rule` serve all of `host`.
fn attach(builder: &mut TableBuilder, at: ListenAddress, host: &str, rule: Rule) {
    let host = HostPattern::parse(host).unwrap();
    builder.owner(at, &host, &rule.project);
    builder.attach(Attachment {
        at,
        listener: &HostPattern::Any,
        host: &host,
        matcher: Matcher::new(PathMatcher::prefix("/").unwrap()),
        created: 0,
        position: (0, 0),
        rule: &Arc::new(rule),
    });
}

fn to(endpoint: Endpoint, protocol: Protocol) -> Target {
    let project = ProjectName::default();
    Target::Upstreams(vec![Arc::new(Upstream {
        project,
        endpoint,
        protocol,
        tls: None,
        announces: None,
        link: Link::default(),
    })])
}

fn to_address(address: SocketAddr) -> Target {
    to(Endpoint::Address(address), Protocol::Http1)
}

/// A listener on a free port of loopback.
async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An HTTP server that answers with `answer`, in HTTP/1.1 or HTTP/2 as it is spoken to.
async fn server<F, R, B>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

/// A server that answers with the request as it saw it: head in text form, then the body.
async fn echo() -> SocketAddr {
    server(|request: Request<Incoming>| async move {
        let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
        for (name, value) in request.headers() {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&body));
        Response::new(Full::new(Bytes::from(text)))
    })
    .await
}

/// Reads from `stream` until `end` has come, and returns everything.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(end) {
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "closed before {end:?}: {seen:?}");
        seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    seen
}
