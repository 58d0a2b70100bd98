//! A Kubernetes Service whose one endpoint is in the test's own process, as a cluster would publish it.

use std::{convert::Infallible, net::SocketAddr};

use http::Request;
use hyper::{Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use crate::client::{Body, full};

/// What a service answers, from its name and the path that was asked for.
pub type Says = fn(&str, &str) -> String;

/// It answers every request, in HTTP/1.1 and HTTP/2 in the clear. Stops, with all its connections, when dropped.
#[derive(Debug)]
pub struct Service {
    place: Place,
    address: SocketAddr,
    seen: watch::Receiver<Vec<String>>,
    listener: AbortHandle,
}

/// Where a Service is, and the port that it is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Service {
    /// # Panics
    /// When loopback has no free port.
    pub async fn start(place: Place, says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (sender, seen) = watch::channel(Vec::new());
        let listener = tokio::spawn(accept(listener, place.name.clone(), says, sender)).abort_handle();
        Self { place, address, seen, listener }
    }

    /// The Service and its EndpointSlice.
    #[must_use]
    pub fn manifest(&self) -> String {
        let Place { namespace, name, port } = &self.place;
        let (ip, bound) = (self.address.ip(), self.address.port());
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{ports: [{{port: {port}, targetPort: {bound}}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nendpoints: [{{addresses: [{ip}], conditions: {{ready: true}}}}]\n\
             ports: [{{name: '', port: {bound}, protocol: TCP}}]\n"
        )
    }

    /// Where it is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests that came, as `METHOD PATH`.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        self.seen.borrow().clone()
    }
}

async fn accept(listener: TcpListener, name: String, says: Says, seen: watch::Sender<Vec<String>>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (name, seen) = (name.clone(), seen.clone());
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path();
                seen.send_modify(|seen| seen.push(format!("{} {path}", request.method())));
                let answer = Ok::<_, Infallible>(Response::<Body>::new(full(says(&name, path))));
                async move { answer }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            // A client that goes away is the test's business, not ours.
            let _ = server.serve_connection(TokioIo::new(tcp), service).await;
        });
    }
}
