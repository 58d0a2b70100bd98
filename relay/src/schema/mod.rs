//! What may be written for each kind: fields, bounds, defaults and rules, read from our own OpenAPI definitions.
//!
//! `definitions/*.yaml` are structural schemas as a CustomResourceDefinition holds them; [`of`] gives the schema of a
//! kind, and everything that needs to know a field (validation, defaulting, patches, field ownership, `explain`) walks
//! its [`Node`]s. Whether a reference resolves is not decided here.

pub mod convert;
pub mod crds;
pub mod quirks;

mod cel;
mod default;
mod load;
mod metadata;
mod node;
mod openapi;
mod parse;
mod problem;
mod prune;
mod text;
mod validate;

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use underpass_shared::resource::kind::Kind;

use self::problem::Findings;
pub use self::{
    load::LoadError,
    node::{Form, Format, ListKind, Logic, Node, PatchStrategy, Pattern, Rule},
    problem::{Cause, PROBLEMS_MAX, Problem},
    text::{dns_label, dns_subdomain, hostname},
};

static LIBRARY: LazyLock<load::Library> = LazyLock::new(|| {
    load::Library::load(load::FILES).expect("the definitions are part of the program, and a test loads them all")
});

/// The schema of `kind`, one for all its served versions.
///
/// The definitions are read on first use; patterns and rules are compiled when they are first needed.
#[must_use]
pub fn of(kind: Kind) -> &'static Schema {
    LIBRARY.schema(kind)
}

/// The definition `name`, whether or not it is a kind: `ObjectMeta`, `DeleteOptions`, `TokenRequest`.
#[must_use]
pub fn definition(name: &str) -> Option<&'static Arc<Node>> {
    LIBRARY.definition(name)
}

/// Everything that is known of the objects of one kind.
#[derive(Debug)]
pub struct Schema {
    kind: Kind,
    root: Arc<Node>,
}

impl Schema {
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The whole object, `apiVersion`, `kind` and `metadata` included.
    #[must_use]
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// Fills in what upstream writes where a manifest is silent, and drops each `null` where none may stand.
    ///
    /// Total: what has the wrong type is left for `validate` to report. Doing it twice changes nothing more.
    pub fn default(&self, object: &mut Value) {
        default::fill(&self.root, object);
    }

    /// Every problem of `object`; empty when it may be stored.
    ///
    /// `old` is what is stored now: the rules that compare the two run only when it is given. Total over arbitrary JSON.
    /// Unknown fields are no problem here: see [`Self::unknown`].
    #[must_use]
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<Problem> {
        let mut findings = Findings::default();
        validate::check(&self.root, object, old, &mut findings);
        metadata::check(self.kind, object, &mut findings);
        findings.into_problems()
    }

    /// The full paths of the fields that no schema knows, at most [`PROBLEMS_MAX`] of them.
    #[must_use]
    pub fn unknown_fields(&self, object: &Value) -> Vec<String> {
        self.unknown(object).into_iter().map(|problem| problem.path).collect()
    }

    /// The fields that no schema knows, each with a hint where another is probably meant.
    #[must_use]
    pub fn unknown(&self, object: &Value) -> Vec<Problem> {
        prune::unknown(&self.root, object)
    }

    /// Removes the fields that no schema knows.
    pub fn prune(&self, object: &mut Value) {
        prune::prune(&self.root, object);
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
#[path = "definitions/tests.rs"]
mod definitions_tests;
