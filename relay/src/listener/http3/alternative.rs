//! Clients that came over TCP are told of HTTP/3 where it is served (RFC 7838 §3).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::tls;
use crate::{
    proxy::Client,
    route::table::{ListenAddress, Table},
};

/// How long clients may believe it, in seconds: a day, the default of RFC 7838 §3.1.
const MAX_AGE_SECONDS: u32 = 24 * 60 * 60;

/// Where one worker serves HTTP/3 now, and on how many sockets.
#[derive(Debug, Default)]
pub(in crate::listener) struct Served(Mutex<BTreeMap<ListenAddress, usize>>);

/// HTTP/3 is served while this lives.
#[derive(Debug)]
pub(super) struct Serving {
    served: Arc<Served>,
    at: ListenAddress,
}

impl Served {
    pub(super) fn begin(self: &Arc<Self>, at: ListenAddress) -> Serving {
        *self.lock().entry(at).or_default() += 1;
        Serving { served: self.clone(), at }
    }

    /// What `client` is told with each answer: its listener on the port that clients know it by.
    pub(in crate::listener) fn alternative(&self, table: &Table, client: &Client) -> Option<HeaderValue> {
        let tls = client.tls.as_ref()?;
        if !tls::is_served(table, client.at, tls) || !self.lock().contains_key(&client.at) {
            return None;
        }
        HeaderValue::from_str(&format!("h3=\":{}\"; ma={MAX_AGE_SECONDS}", client.at.port)).ok()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ListenAddress, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut served = self.served.lock();
        if let Some(sockets) = served.get_mut(&self.at) {
            *sockets -= 1;
            if *sockets == 0 {
                served.remove(&self.at);
            }
        }
    }
}

/// Adds `alternative` to an answer.
///
/// What a backend says of alternatives itself stays, `clear` too, unless it claims HTTP/3: a backend speaks of its own
/// ports, and only the gateway knows where HTTP/3 of this origin is served. With 421 it would be ignored (RFC 7838 §6).
pub(in crate::listener) fn advertise<B>(response: &mut Response<B>, alternative: Option<&HeaderValue>) {
    let Some(alternative) = alternative.filter(|_| response.status() != StatusCode::MISDIRECTED_REQUEST) else {
        return;
    };
    let headers = response.headers_mut();
    if !headers.contains_key(header::ALT_SVC) || claims_http3(headers) {
        headers.insert(header::ALT_SVC, alternative.clone());
    }
}

/// Whether an alternative speaks HTTP/3, or a draft of it.
fn claims_http3(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::ALT_SVC).iter().flat_map(|value| value.as_bytes().split(|&b| b == b','));
    values.any(|one| {
        let one = one.trim_ascii();
        one.starts_with(b"h3=") || one.starts_with(b"h3-")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advertised(status: u16, own: &[&str]) -> Vec<String> {
        let mut response = Response::builder().status(status);
        for value in own {
            response = response.header(header::ALT_SVC, *value);
        }
        let mut response = response.body(()).unwrap();
        advertise(&mut response, Some(&HeaderValue::from_static("ours")));
        response.headers().get_all(header::ALT_SVC).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_backend_may_say_anything_but_http3() {
        assert_eq!(advertised(200, &[]), ["ours"]);
        assert_eq!(advertised(200, &["clear"]), ["clear"]);
        assert_eq!(advertised(200, &["h2=\":8443\""]), ["h2=\":8443\""]);
        assert_eq!(advertised(200, &["h2=\":8443\"", "h3=\":8443\"; ma=60"]), ["ours"]);
        assert_eq!(advertised(200, &["h2=\":8443\", h3-29=\":8443\""]), ["ours"]);
        assert_eq!(advertised(421, &[]), [""; 0]);
    }

    #[test]
    fn a_backend_is_not_touched_where_http3_is_not_served() {
        let mut response = Response::builder().header(header::ALT_SVC, "h3=\":1\"").body(()).unwrap();
        advertise(&mut response, None);
        assert_eq!(response.headers()[header::ALT_SVC], "h3=\":1\"");
    }
}
