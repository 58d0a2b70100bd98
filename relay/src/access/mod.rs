//! Who asks, and what they may do.
//!
//! A caller is known by its client certificate or by a bearer token: one of a file that the operator keeps, or one that
//! this deployment signed for a ServiceAccount. What it may do is one of four roles in one project. Nothing is readable
//! without a credential but health and version, which the API decides before it comes here.

pub mod role;
pub mod static_tokens;
pub mod token;

use std::sync::Arc;

use http::{HeaderMap, header};
use time::OffsetDateTime;
use underpass_shared::{
    identity::{Identity, NodeName, ProjectName},
    resource::kind::Kind,
};

use self::{
    role::{Access, Role},
    static_tokens::StaticTokens,
    token::{Signer, TokenError},
};
use crate::store::{
    Store,
    object::{ObjectKey, Objects},
};

/// The longest bearer token in bytes.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// The most role bindings of a project that are looked at.
const BINDINGS_MAX: usize = 10_000;

/// A caller whose credential was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: Option<String>,
    pub groups: Vec<String>,
    /// What was given to it by its credential; bindings may add to it.
    grant: Grant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Grant {
    /// Everything, everywhere.
    Deployment(Role),
    /// This role in this project; `None`: what its bindings say.
    Project(ProjectName, Option<Role>),
    /// What an agent must do in this project: look at its own node.
    Agent(ProjectName, NodeName),
}

/// Why a caller is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("the bearer token is longer than {TOKEN_BYTES_MAX} bytes, or has characters that no token has")]
    Malformed,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the authorization header is not `Bearer TOKEN`")]
    Scheme,
}

/// Checks credentials and rights.
#[derive(Debug)]
pub struct Guard {
    store: Store,
    signer: Signer,
    fixed: Option<StaticTokens>,
}

impl Guard {
    #[must_use]
    pub fn new(store: Store, signer: Signer, fixed: Option<StaticTokens>) -> Self {
        Self { store, signer, fixed }
    }

    /// Signs tokens for ServiceAccounts.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The user behind a client certificate of this deployment.
    #[must_use]
    pub fn of_certificate(&self, identity: &Identity) -> Option<User> {
        let user = |name: String, group: &str, grant| {
            let groups = vec![group.to_owned(), "system:authenticated".to_owned()];
            Some(User { name, uid: None, groups, grant })
        };
        match identity {
            Identity::Admin => user("admin".to_owned(), "system:masters", Grant::Deployment(Role::Admin)),
            Identity::Agent(agent) => {
                let name = format!("system:agent:{}:{}", agent.node, agent.agent);
                user(name, "system:agents", Grant::Agent(agent.project.clone(), agent.node.clone()))
            }
            Identity::Relay(_) => None,
        }
    }

    /// The user behind the bearer token of `headers`; `None` when there is none.
    ///
    /// # Errors
    /// [`Unknown`] when there is one that is not good, or not any more.
    pub fn of_token(&self, headers: &HeaderMap, now: OffsetDateTime) -> Result<Option<User>, Unknown> {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let text = value.to_str().map_err(|_| Unknown::Malformed)?;
        let (scheme, token) = text.split_once(' ').ok_or(Unknown::Scheme)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Unknown::Scheme);
        }
        let token = token.trim();
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(Unknown::Malformed);
        }
        if let Some(fixed) = self.fixed.as_ref().and_then(|fixed| fixed.find(token)) {
            let grant = match fixed.project {
                Some(project) => Grant::Project(project, Some(fixed.role)),
                None => Grant::Deployment(fixed.role),
            };
            let groups = vec!["system:authenticated".to_owned()];
            return Ok(Some(User { name: fixed.name, uid: None, groups, grant }));
        }
        let account = self.signer.verify(token, &self.store.snapshot(), now)?;
        let groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", account.namespace),
            "system:authenticated".to_owned(),
        ];
        Ok(Some(User {
            name: format!("system:serviceaccount:{}:{}", account.namespace, account.name),
            uid: Some(account.uid),
            groups,
            grant: Grant::Project(account.project, None),
        }))
    }

    /// Whether `user` may do `access`; a refusal says why.
    ///
    /// # Errors
    /// A sentence for the `Status`.
    pub fn authorize(&self, user: &User, access: &Access<'_>) -> Result<(), String> {
        let objects = self.store.snapshot();
        let allowed = match &user.grant {
            Grant::Deployment(role) => role.allows(access),
            Grant::Agent(project, node) => access.project == Some(project) && role::agent_allows(node.as_str(), access),
            Grant::Project(project, role) => match access.project {
                Some(asked) if asked == project => {
                    role.is_some_and(|role| role.allows(access))
                        || bound_roles(&objects, project, user).any(|role| role.allows(access))
                }
                // Its own project is the one thing outside that a project's user may look at.
                None => {
                    access.kind == Some(Kind::Project) && access.verb == "get" && access.name == Some(project.as_str())
                }
                Some(_) => false,
            },
        };
        if allowed { Ok(()) } else { Err(refusal(user, access)) }
    }

    /// Whether `user` administrates the whole deployment.
    #[must_use]
    pub fn owns(&self, user: &User) -> bool {
        user.grant == Grant::Deployment(Role::Admin)
    }

    /// Whether `user` may see that the project is there: its documents, and answers about itself.
    #[must_use]
    pub fn reaches(&self, user: &User, project: &ProjectName) -> bool {
        match &user.grant {
            Grant::Deployment(_) => true,
            Grant::Project(own, _) | Grant::Agent(own, _) => own == project,
        }
    }

    /// The roles that `user` has in `project`, the strongest first, for `SelfSubjectRulesReview`.
    #[must_use]
    pub fn roles(&self, user: &User, project: &ProjectName) -> Vec<Role> {
        let objects = self.store.snapshot();
        let mut roles: Vec<Role> = match &user.grant {
            Grant::Deployment(role) => vec![*role],
            Grant::Project(own, role) if own == project => {
                role.iter().copied().chain(bound_roles(&objects, project, user)).collect()
            }
            Grant::Project(..) | Grant::Agent(..) => Vec::new(),
        };
        roles.sort_unstable();
        roles.dedup();
        roles
    }
}

/// The roles that the project's ClusterRoleBindings give to `user`.
fn bound_roles<'a>(
    objects: &'a Arc<Objects>,
    project: &'a ProjectName,
    user: &'a User,
) -> impl Iterator<Item = Role> + use<'a> {
    objects.of(Some(project), Kind::ClusterRoleBinding).take(BINDINGS_MAX).filter_map(move |binding| {
        let content = &binding.body.content;
        let subjects = content.get("subjects")?.as_array()?;
        let is_user = subjects.iter().any(|subject| {
            let text = |field: &str| subject.get(field).and_then(serde_json::Value::as_str).unwrap_or_default();
            match text("kind") {
                "ServiceAccount" => {
                    user.name == format!("system:serviceaccount:{}:{}", text("namespace"), text("name"))
                }
                "User" => user.name == text("name"),
                "Group" => user.groups.iter().any(|group| group == text("name")),
                _ => false,
            }
        });
        let role = content.get("roleRef")?.get("name")?.as_str()?;
        is_user.then(|| Role::parse(role)).flatten()
    })
}

fn refusal(user: &User, access: &Access<'_>) -> String {
    let what = match access.kind {
        Some(kind) => {
            let (group, plural) = (role::group_of(kind), kind.info().plural);
            let subresource = access.subresource.map(|name| format!("/{name}")).unwrap_or_default();
            format!("resource \"{plural}{subresource}\" in API group \"{group}\"")
        }
        None => "this path".to_owned(),
    };
    let place = match (access.project, access.namespace) {
        (Some(project), Some(namespace)) => format!(" in the namespace \"{namespace}\" of project {project}"),
        (Some(project), None) => format!(" in project {project}"),
        (None, _) => String::new(),
    };
    format!("User \"{}\" cannot {} {what}{place}", user.name, access.verb)
}

/// The key of a ServiceAccount.
#[must_use]
pub fn account_key(project: &ProjectName, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::namespaced(project, Kind::ServiceAccount, namespace, name)
}

#[cfg(test)]
mod tests;
