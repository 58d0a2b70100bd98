//! What is remembered of one request: one line when its last byte has passed, or when it is given up.

use std::{sync::Arc, time::Instant};

use http::{Method, StatusCode};

use super::{Client, answer::Failure, body::Meter};
use crate::{
    clock,
    route::{
        fleet::Held,
        target::{Backend, Rule},
    },
};

/// The access record; it writes itself when it is dropped. The default one is empty and writes nothing.
#[derive(Debug, Default)]
pub(super) struct Record(Option<Box<Facts>>);

#[derive(Debug)]
struct Facts {
    started: Instant,
    method: Method,
    client: Arc<Client>,
    rule: Option<Arc<Rule>>,
    backend: Option<Arc<str>>,
    status: u16,
    error: Option<String>,
    meter: Arc<Meter>,
    bytes_out: u64,
    /// The endpoint has this to do for as long.
    held: Option<Held>,
}

impl Record {
    pub(super) fn new(method: &Method, client: Arc<Client>, started: Instant) -> Self {
        Self(Some(Box::new(Facts {
            started,
            method: method.clone(),
            client,
            rule: None,
            backend: None,
            status: 0,
            error: None,
            meter: Arc::default(),
            bytes_out: 0,
            held: None,
        })))
    }

    /// Counts what the client sends.
    pub(super) fn meter(&self) -> Arc<Meter> {
        self.0.as_ref().map(|facts| facts.meter.clone()).unwrap_or_default()
    }

    /// The client is somebody else than who connected.
    pub(super) fn came_from(&mut self, client: &Arc<Client>) {
        if let Some(facts) = &mut self.0 {
            facts.client = client.clone();
        }
    }

    pub(super) fn chose(&mut self, rule: &Arc<Rule>, backend: Option<&Backend>) {
        if let Some(facts) = &mut self.0 {
            facts.rule = Some(rule.clone());
            facts.backend = backend.map(|backend| backend.name.clone());
        }
    }

    /// Keeps what the endpoint has to do until the last byte has passed.
    pub(super) fn holds(&mut self, held: Option<Held>) {
        if let Some(facts) = &mut self.0 {
            facts.held = held;
        }
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some(facts) = &mut self.0 {
            facts.status = status.as_u16();
        }
    }

    pub(super) fn failed(&mut self, failure: &Failure) {
        self.answered(failure.status());
        self.broke(failure);
    }

    /// Remembers what ended the exchange early; the first reason stays.
    pub(super) fn broke(&mut self, error: &dyn std::error::Error) {
        if let Some(facts) = &mut self.0 {
            facts.error.get_or_insert_with(|| match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            });
        }
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        if let Some(facts) = &mut self.0 {
            facts.bytes_out += bytes;
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(facts) = self.0.take() else { return };
        // A response that never came: the client went away, or the worker was cut.
        let status = if facts.status == 0 { 499 } else { facts.status };
        tracing::debug!(
            project = facts.rule.as_ref().map(|rule| tracing::field::display(&rule.project)),
            route = facts.rule.as_ref().map(|rule| &*rule.route),
            backend = facts.backend.as_deref(),
            src = %facts.client.address,
            port = facts.client.at.port,
            method = %facts.method,
            status,
            bytes_in = facts.meter.bytes(),
            bytes_out = facts.bytes_out,
            elapsed = ?clock::instant().saturating_duration_since(facts.started),
            error = facts.error.as_deref().map(tracing::field::debug),
            "request"
        );
    }
}
