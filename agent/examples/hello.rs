//! A small web service for trying Underpass: answers every request with what it saw, and prints one line for each.
//!
//! `hello [ADDRESS:PORT]`; without an argument it takes a free port of loopback. The first line it prints says where.

use std::{convert::Infallible, env, fmt::Write as _, io};

use http::{Request, Response, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(&address).await?;
    println!("listening http://{}", listener.local_addr()?);
    loop {
        let (tcp, client) = listener.accept().await?;
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let served = server.serve_connection(TokioIo::new(tcp), service_fn(answer)).await;
            if let Err(error) = served {
                eprintln!("connection of {client}: {error}");
            }
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(request.uri().authority().map(|authority| authority.as_str())).unwrap_or("nobody");
    println!("request {} {} for {host}", request.method(), request.uri().path());
    let mut body = "Hello from a service without an open port.\n\n".to_owned();
    let _ = writeln!(body, "{} {} {:?}", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        let _ = writeln!(body, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    Ok(Response::new(body))
}
