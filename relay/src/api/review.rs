//! Questions about the caller: who am I, and what may I do?

use http::StatusCode;
use serde_json::{Value, json};
use underpass_shared::{
    identity::ProjectName,
    resource::kind::{KINDS, Kind, Scope},
};

use super::{
    discovery,
    exchange::Done,
    path::{Reach, Review},
    status::Failure,
};
use crate::access::{
    Guard, User,
    role::{Access, group_of},
};

/// Answers `review`, whose question is `body`.
///
/// # Errors
/// 400 when there is no question in it.
pub(super) fn answer(guard: &Guard, user: &User, reach: &Reach, review: Review, body: &Value) -> Result<Done, Failure> {
    let project = match reach {
        Reach::Project(project) => project.clone(),
        Reach::Deployment => ProjectName::default(),
    };
    let (kind, api_version, spec, status) = match review {
        Review::Subject => {
            let info = json!({ "username": user.name, "uid": user.uid, "groups": user.groups });
            ("SelfSubjectReview", "authentication.k8s.io/v1", Value::Null, json!({ "userInfo": info }))
        }
        Review::Access => {
            let spec = body.get("spec").cloned().unwrap_or_default();
            let status = may(guard, user, &project, &spec)?;
            ("SelfSubjectAccessReview", "authorization.k8s.io/v1", spec, status)
        }
        Review::Rules => {
            let spec = body.get("spec").cloned().unwrap_or_default();
            ("SelfSubjectRulesReview", "authorization.k8s.io/v1", spec, rules(guard, user, &project))
        }
    };
    let mut shown = json!({ "kind": kind, "apiVersion": api_version, "metadata": {}, "status": status });
    if !spec.is_null() {
        shown["spec"] = spec;
    }
    Ok(Done::shown(StatusCode::CREATED, shown))
}

fn may(guard: &Guard, user: &User, project: &ProjectName, spec: &Value) -> Result<Value, Failure> {
    if spec.get("nonResourceAttributes").is_some_and(Value::is_object) {
        // Documents are for whoever may be in the project, and the caller was let in.
        return Ok(json!({ "allowed": true }));
    }
    let asked = spec.get("resourceAttributes").filter(|asked| asked.is_object()).ok_or_else(|| {
        Failure::bad_request("spec.resourceAttributes or spec.nonResourceAttributes must say what is asked about")
    })?;
    let text = |field: &str| asked.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (plural, group) = (text("resource").unwrap_or("*"), text("group").unwrap_or_default());
    let mut kinds = KINDS.iter().filter(|info| {
        let in_group = group == "*"
            || info.api_versions.iter().any(|version| version.split_once('/').map_or("", |(group, _)| group) == group);
        (plural == "*" || info.plural == plural) && in_group
    });
    let verbs: Vec<&str> = match text("verb").unwrap_or("*") {
        "*" => discovery::verbs(Kind::Backend).to_vec(),
        verb => vec![verb],
    };
    let refused = kinds.find_map(|info| {
        verbs.iter().find_map(|verb| {
            let access = Access {
                verb,
                kind: Some(info.kind),
                subresource: text("subresource"),
                project: (info.scope != Scope::Deployment).then_some(project),
                namespace: text("namespace"),
                name: text("name"),
            };
            guard.authorize(user, &access).err()
        })
    });
    Ok(match refused {
        None => json!({ "allowed": true }),
        Some(why) => json!({ "allowed": false, "reason": why }),
    })
}

fn rules(guard: &Guard, user: &User, project: &ProjectName) -> Value {
    let roles = guard.roles(user, project);
    let rules: Vec<Value> = KINDS
        .iter()
        .filter(|info| info.scope != Scope::Deployment)
        .filter_map(|info| {
            let access = |verb| Access {
                verb,
                kind: Some(info.kind),
                subresource: None,
                project: Some(project),
                namespace: None,
                name: None,
            };
            let verbs: Vec<&str> = discovery::verbs(info.kind)
                .iter()
                .copied()
                .filter(|verb| roles.iter().any(|role| role.allows(&access(verb))))
                .collect();
            let rule = json!({ "apiGroups": [group_of(info.kind)], "resources": [info.plural], "verbs": verbs });
            (!verbs.is_empty()).then_some(rule)
        })
        .collect();
    json!({ "resourceRules": rules, "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["*"] }], "incomplete": false })
}
