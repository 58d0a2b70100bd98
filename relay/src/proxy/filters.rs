//! A rule's and a backend's filters at work on one request and its answer.

use std::sync::Arc;

use http::{
    HeaderValue, Response, StatusCode, header,
    request::Parts,
    uri::{Authority, PathAndQuery},
};

use tokio::sync::Semaphore;

use super::{
    Client,
    answer::Failure,
    body::ResponseBody,
    compression::{self, Asks},
    grpc_web,
    request::Asked,
};
use crate::route::{
    change,
    filter::{Cors, Direct, End, Filters, PathChange, Redirect, Rewrite},
};

/// Applies what acts before the backend. Something means that the request is answered with it.
pub(super) fn before(
    filters: &Filters,
    parts: &mut Parts,
    asked: &mut Asked,
    client: &Client,
) -> Option<Result<Response<ResponseBody>, Failure>> {
    if let Some(cors) = &filters.cors
        && Cors::is_preflight(&parts.method, &parts.headers)
    {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.headers_mut() = cors.preflight(&parts.headers);
        return Some(Ok(response));
    }
    filters.request_headers.apply(&mut parts.headers);
    match &filters.end {
        Some(End::Redirect(redirect)) => return Some(self::redirect(redirect, asked, client)),
        Some(End::Direct(direct)) => return Some(Ok(self::direct(direct))),
        Some(End::Broken(answer)) => {
            return Some(Err(Failure::Unresolved { status: answer.status, text: answer.text.as_ref().to_owned() }));
        }
        None => {}
    }
    let rewritten = filters.rewrite.as_ref().map(|rewrite| self::rewrite(rewrite, asked));
    rewritten.and_then(Result::err).map(Err)
}

/// What of the request its answer depends on.
#[derive(Debug)]
pub(super) struct Back<'a> {
    pub(super) origin: Option<HeaderValue>,
    pub(super) asks: Asks,
    pub(super) packing: &'a Arc<Semaphore>,
    /// The form of gRPC-Web in which the client wants it.
    pub(super) web: Option<grpc_web::Form>,
}

/// Applies what acts on the answer, those of the backend first; what packs it sees it as it would go out.
pub(super) fn after(
    filters: &[&Filters],
    back: &Back<'_>,
    mut response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    // What a preflight was told is not told twice.
    let is_preflight = response.headers().contains_key(header::ACCESS_CONTROL_MAX_AGE);
    for filters in filters {
        filters.response_headers.apply(response.headers_mut());
        if let Some(cors) = filters.cors.as_ref().filter(|_| !is_preflight) {
            cors.mark(back.origin.as_ref(), response.headers_mut());
        }
    }
    if let Some(form) = back.web {
        response = form.answer(response);
    }
    compression::pack(filters, back.asks, back.packing, response)
}

fn redirect(redirect: &Redirect, asked: &Asked, client: &Client) -> Result<Response<ResponseBody>, Failure> {
    let location = redirect.location(change::Target {
        scheme: client.scheme(),
        host: asked.authority.host(),
        port: client.at.port,
        path: asked.path_and_query.path(),
        query: asked.path_and_query.query(),
    });
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::from_u16(redirect.status).map_err(|_| Failure::Internal)?;
    let location = HeaderValue::from_str(&location).map_err(|_| Failure::Internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

fn direct(direct: &Direct) -> Response<ResponseBody> {
    let body = direct.body.clone();
    let mut response = Response::new(if body.is_empty() { ResponseBody::empty() } else { ResponseBody::text(body) });
    *response.status_mut() = StatusCode::from_u16(direct.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &direct.headers {
        response.headers_mut().append(name.clone(), value.clone());
    }
    response
}

/// Changes what the backend is asked for.
fn rewrite(rewrite: &Rewrite, asked: &mut Asked) -> Result<(), Failure> {
    if let Some(hostname) = &rewrite.hostname {
        asked.authority = Authority::try_from(&**hostname).map_err(|_| Failure::Internal)?;
    }
    if let Some(change) = &rewrite.path {
        asked.path_and_query = changed(change, &asked.path_and_query)?;
    }
    Ok(())
}

fn changed(change: &PathChange, old: &PathAndQuery) -> Result<PathAndQuery, Failure> {
    let path = change.apply(old.path());
    let text = match old.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    PathAndQuery::try_from(text).map_err(|_| Failure::Internal)
}
