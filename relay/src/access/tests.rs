use http::HeaderValue;
use serde_json::json;
use time::Duration;

use super::{
    token::{Account, Bound},
    *,
};
use crate::store::object::Draft;

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap()
}

fn project(name: &str) -> ProjectName {
    name.parse().unwrap()
}

fn access<'a>(verb: &'a str, kind: Kind, project: Option<&'a ProjectName>) -> Access<'a> {
    Access { verb, kind: Some(kind), subresource: None, project, namespace: None, name: None }
}

struct Deployment {
    guard: Guard,
    store: Store,
    _directory: tempfile::TempDir,
}

impl Deployment {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let signer = Signer::load_or_create(&store).await.unwrap();
        Self { guard: Guard::new(store.clone(), signer, None), store, _directory: directory }
    }

    async fn create(&self, key: ObjectKey, content: serde_json::Value) -> String {
        self.store.create(Draft::of_value(key, content)).await.unwrap().body.uid.clone()
    }

    async fn account(&self, name: &str) -> Account {
        let uid = self.create(account_key(&project("default"), "default", name), json!({})).await;
        Account { project: project("default"), namespace: "default".to_owned(), name: name.to_owned(), uid }
    }

    async fn bind(&self, name: &str, role: &str, account: &str) {
        let key = ObjectKey::cluster(&project("default"), Kind::ClusterRoleBinding, name);
        let subject = json!({ "kind": "ServiceAccount", "namespace": "default", "name": account });
        let content = json!({ "roleRef": { "kind": "ClusterRole", "name": role }, "subjects": [subject] });
        self.create(key, content).await;
    }

    fn user(&self, token: &str, at: OffsetDateTime) -> Result<User, Unknown> {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        self.guard.of_token(&headers, at).map(|user| user.expect("there is a token"))
    }
}

#[tokio::test]
async fn a_signed_token_speaks_for_its_account_until_its_time_is_over() {
    let deployment = Deployment::start().await;
    let account = deployment.account("ci").await;
    let token = deployment.guard.signer().issue(&account, None, Duration::hours(1), now()).unwrap();
    let user = deployment.user(&token, now()).unwrap();
    assert_eq!(user.name, "system:serviceaccount:default:ci");
    assert_eq!(deployment.user(&token, now() + Duration::hours(1)), Err(Unknown::Token(TokenError::Expired)));

    let again = Signer::load_or_create(&deployment.store).await.unwrap();
    assert_eq!(again.verify(&token, &deployment.store.snapshot(), now()), Ok(account), "the key is kept");
}

#[tokio::test]
async fn a_token_dies_with_its_account_and_with_its_secret() {
    let deployment = Deployment::start().await;
    let account = deployment.account("ci").await;
    let secret = ObjectKey::namespaced(&project("default"), Kind::Secret, "default", "leash");
    let uid = deployment.create(secret.clone(), json!({})).await;
    let bound = Bound { name: "leash".to_owned(), uid };
    let signer = deployment.guard.signer();
    let leashed = signer.issue(&account, Some(bound), Duration::hours(1), now()).unwrap();
    let free = signer.issue(&account, None, Duration::hours(1), now()).unwrap();
    assert!(deployment.user(&leashed, now()).is_ok());
    deployment.store.delete(secret, None).await.unwrap();
    assert_eq!(deployment.user(&leashed, now()), Err(Unknown::Token(TokenError::Revoked("Secret"))));

    let key = account_key(&account.project, &account.namespace, &account.name);
    deployment.store.delete(key, None).await.unwrap();
    deployment.account("ci").await;
    assert_eq!(deployment.user(&free, now()), Err(Unknown::Token(TokenError::Revoked("ServiceAccount"))));
}

#[tokio::test]
async fn what_others_made_is_no_token() {
    let deployment = Deployment::start().await;
    let account = deployment.account("ci").await;
    let foreign = Signer::new(&[7; 32]).issue(&account, None, Duration::hours(1), now()).unwrap();
    let good = deployment.guard.signer().issue(&account, None, Duration::hours(1), now()).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
    let cut = format!("{}.{}.", parts[0], parts[1]);
    for token in [foreign.as_str(), &unsigned, &cut, "abc", "..", "a.b.c"] {
        assert_eq!(deployment.user(token, now()), Err(Unknown::Token(TokenError::Unknown)), "{token}");
    }
    assert_eq!(deployment.user(&"x".repeat(9000), now()), Err(Unknown::Malformed));
    let basic = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Basic eDp5"))]);
    assert_eq!(deployment.guard.of_token(&basic, now()), Err(Unknown::Scheme));
    assert_eq!(deployment.guard.of_token(&HeaderMap::new(), now()), Ok(None));
}

#[tokio::test]
async fn bindings_give_roles_and_taking_them_away_takes_effect_at_once() {
    let deployment = Deployment::start().await;
    let account = deployment.account("ci").await;
    let token = deployment.guard.signer().issue(&account, None, Duration::hours(1), now()).unwrap();
    let user = deployment.user(&token, now()).unwrap();
    let (own, other) = (project("default"), project("other"));
    let may = |verb: &str, kind: Kind, project| deployment.guard.authorize(&user, &access(verb, kind, project)).is_ok();
    assert!(!may("get", Kind::Backend, Some(&own)), "no binding, no right");

    deployment.bind("ci", "view", "ci").await;
    assert!(may("list", Kind::Backend, Some(&own)));
    assert!(!may("list", Kind::Secret, Some(&own)) && !may("create", Kind::Backend, Some(&own)));
    assert!(!may("list", Kind::Backend, Some(&other)), "rights end with the project");
    assert!(!may("list", Kind::Project, None));

    deployment.bind("ci-too", "editor", "ci").await;
    assert!(may("create", Kind::Backend, Some(&own)) && may("get", Kind::Secret, Some(&own)));
    assert!(!may("create", Kind::ClusterRoleBinding, Some(&own)), "an editor gives no rights");
    let token = Access { subresource: Some("token"), ..access("create", Kind::ServiceAccount, Some(&own)) };
    assert!(deployment.guard.authorize(&user, &token).is_err());
    let token = Access { subresource: Some("token"), ..access("create", Kind::TunnelNode, Some(&own)) };
    assert!(deployment.guard.authorize(&user, &token).is_ok());

    let binding = ObjectKey::cluster(&own, Kind::ClusterRoleBinding, "ci-too");
    deployment.store.delete(binding, None).await.unwrap();
    assert!(!may("create", Kind::Backend, Some(&own)));
    let refused = deployment.guard.authorize(&user, &access("create", Kind::Backend, Some(&own))).unwrap_err();
    assert_eq!(
        refused,
        "User \"system:serviceaccount:default:ci\" cannot create resource \"backends\" in API group \"core.apoxy.dev\" \
         in project default"
    );
}

#[tokio::test]
async fn certificates_stand_for_the_administrator_and_for_agents() {
    let deployment = Deployment::start().await;
    let (own, other) = (project("default"), project("other"));
    let admin = deployment.guard.of_certificate(&Identity::Admin).unwrap();
    for place in [Some(&own), Some(&other), None] {
        assert!(deployment.guard.authorize(&admin, &access("delete", Kind::Secret, place)).is_ok());
    }
    let identity = Identity::Agent(underpass_shared::identity::AgentIdentity {
        project: own.clone(),
        node: "office".parse().unwrap(),
        agent: "a1".parse().unwrap(),
    });
    let agent = deployment.guard.of_certificate(&identity).unwrap();
    let look = |name| Access { name: Some(name), ..access("get", Kind::TunnelNode, Some(&own)) };
    assert!(deployment.guard.authorize(&agent, &look("office")).is_ok());
    assert!(deployment.guard.authorize(&agent, &look("other")).is_err());
    assert!(deployment.guard.authorize(&agent, &access("list", Kind::TunnelNode, Some(&own))).is_err());
    let token = Access { subresource: Some("token"), verb: "create", ..look("office") };
    assert!(deployment.guard.authorize(&agent, &token).is_err());
    assert_eq!(deployment.guard.of_certificate(&Identity::Relay("r1".parse().unwrap())), None);
}
