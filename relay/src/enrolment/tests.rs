use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use underpass_shared::identity::Identity;

use super::*;
use underpass_shared::{prefix::NodeNumber, quic::tls::identity_of};

use crate::store::object::Draft;

struct Deployment {
    store: Store,
    enrolment: Enrolment,
    _directory: tempfile::TempDir,
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

async fn deployment(nodes: &[&str]) -> Deployment {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let authority = Authority::load_or_create(&store, now()).await.unwrap();
    let enrolment = Enrolment::new(store.clone(), authority, vec!["relay.example.com:7443".to_owned()]);
    let deployment = Deployment { store, enrolment, _directory: directory };
    for node in nodes {
        deployment.create_node(node).await;
    }
    deployment
}

impl Deployment {
    async fn create_node(&self, node: &str) {
        let draft = Draft::of_spec(node_key(node), json!({}));
        self.store.create(draft).await.unwrap();
    }

    async fn token(&self, node: &str, uses: u32) -> EnrolmentToken {
        let project = ProjectName::default();
        let hour = Duration::hours(1);
        self.enrolment.issue_token(&project, &node.parse().unwrap(), hour, uses, now()).await.unwrap()
    }

    async fn tokens_kept(&self) -> usize {
        let count = self
            .store
            .transact(|state, _| Ok::<_, WriteError>(state.record_keys(RecordKey::FIRST_TOKEN).count()))
            .await;
        count.unwrap()
    }
}

fn node_key(node: &str) -> ObjectKey {
    ObjectKey::cluster(&ProjectName::default(), Kind::TunnelNode, node)
}

fn request(node: &str, agent: &str) -> EnrolRequest {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    EnrolRequest {
        project: ProjectName::default(),
        node: node.parse().unwrap(),
        agent: agent.parse().unwrap(),
        csr: CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap(),
    }
}

fn said(refused: Result<impl std::fmt::Debug, Refusal>) -> (RefusalReason, String) {
    let refusal = refused.unwrap_err();
    (refusal.reason, refusal.message)
}

#[tokio::test]
async fn a_token_buys_a_certificate_and_a_place() {
    let d = deployment(&["office"]).await;
    let token = d.token("office", 1).await;
    assert_eq!(token.ca, d.enrolment.issuer.authority.fingerprint());
    assert_eq!(token.relays, ["relay.example.com:7443"]);

    let request = request("office", "a1");
    let issued = d.enrolment.redeem(&token.secret, &request, now()).await.unwrap();
    let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    assert_eq!(identity_of(&der), Ok(Identity::Agent(identity(&request))));
    assert_eq!(issued.not_before, now().unix_timestamp() - 120);
    assert_eq!(issued.not_after, now().unix_timestamp() + 7 * 86400);

    let admission = d.enrolment.admit(&identity(&request)).await.unwrap();
    assert_eq!((admission.node, admission.agent.value()), (NodeNumber(1), 1));
}

#[tokio::test]
async fn an_unknown_token_is_refused() {
    let d = deployment(&["office"]).await;
    for secret in [Secret::from_bytes([1; 32]), Secret::presented(""), Secret::presented("../authority")] {
        let (reason, message) = said(d.enrolment.redeem(&secret, &request("office", "a1"), now()).await);
        assert_eq!(reason, RefusalReason::UnknownToken);
        assert!(message.contains("underpass tunnel token"), "{message}");
    }
}

#[tokio::test]
async fn an_expired_token_is_refused_with_the_time() {
    let d = deployment(&["office"]).await;
    let token = d.token("office", 1).await;
    let late = now() + Duration::hours(1);
    let (reason, message) = said(d.enrolment.redeem(&token.secret, &request("office", "a1"), late).await);
    assert_eq!(reason, RefusalReason::TokenExpired);
    assert!(message.contains("expired at 2027-01-15T09:00:00Z"), "{message}");
    let in_time = late - Duration::seconds(1);
    d.enrolment.redeem(&token.secret, &request("office", "a1"), in_time).await.unwrap();
}

#[tokio::test]
async fn a_token_has_as_many_uses_as_it_was_given() {
    let d = deployment(&["office"]).await;
    let token = d.token("office", 2).await;
    d.enrolment.redeem(&token.secret, &request("office", "a1"), now()).await.unwrap();
    d.enrolment.redeem(&token.secret, &request("office", "a2"), now()).await.unwrap();
    let (reason, message) = said(d.enrolment.redeem(&token.secret, &request("office", "a3"), now()).await);
    assert_eq!(reason, RefusalReason::TokenUsed);
    assert!(message.contains("node office"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_redemptions_of_one_use_exactly_one_wins() {
    let d = deployment(&["office"]).await;
    let token = d.token("office", 1).await;
    let tries: Vec<_> = (0..20)
        .map(|n| {
            let (enrolment, secret) = (d.enrolment.clone(), token.secret.clone());
            tokio::spawn(async move { enrolment.redeem(&secret, &request("office", &format!("a{n}")), now()).await })
        })
        .collect();
    let mut won = 0;
    for redeemed in tries {
        match redeemed.await.unwrap() {
            Ok(_) => won += 1,
            Err(refusal) => assert_eq!(refusal.reason, RefusalReason::TokenUsed),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_token_for_another_node_or_project_is_refused_and_not_spent() {
    let d = deployment(&["office", "lab"]).await;
    let token = d.token("office", 1).await;
    let (reason, message) = said(d.enrolment.redeem(&token.secret, &request("lab", "a1"), now()).await);
    assert_eq!(reason, RefusalReason::WrongNode);
    assert_eq!(message, "the token is for node office of project default, not for node lab of project default");
    let foreign = EnrolRequest { project: "shop".parse().unwrap(), ..request("office", "a1") };
    assert_eq!(said(d.enrolment.redeem(&token.secret, &foreign, now()).await).0, RefusalReason::WrongNode);
    d.enrolment.redeem(&token.secret, &request("office", "a1"), now()).await.unwrap();
}

#[tokio::test]
async fn a_bad_request_spends_nothing() {
    let d = deployment(&["office"]).await;
    let token = d.token("office", 1).await;
    let bad = EnrolRequest { csr: "nonsense".to_owned(), ..request("office", "a1") };
    assert_eq!(said(d.enrolment.redeem(&token.secret, &bad, now()).await).0, RefusalReason::BadRequest);
    assert_eq!(said(d.enrolment.admit(&identity(&bad)).await).0, RefusalReason::Revoked, "no number was given either");
    d.enrolment.redeem(&token.secret, &request("office", "a1"), now()).await.unwrap();
}

#[tokio::test]
async fn a_node_that_was_deleted_takes_its_tokens_and_agents_with_it() {
    let d = deployment(&["office"]).await;
    let token = d.token("office", 2).await;
    let agent = request("office", "a1");
    d.enrolment.redeem(&token.secret, &agent, now()).await.unwrap();

    d.store.delete(node_key("office"), None).await.unwrap();
    let (reason, message) = said(d.enrolment.admit(&identity(&agent)).await);
    assert_eq!(reason, RefusalReason::NodeNotFound);
    assert!(message.contains("no node office in project default"), "{message}");
    assert_eq!(said(d.enrolment.redeem(&token.secret, &agent, now()).await).0, RefusalReason::NodeNotFound);
    assert_eq!(said(d.enrolment.renew(&identity(&agent), &agent, now()).await).0, RefusalReason::NodeNotFound);

    d.create_node("office").await;
    assert_eq!(said(d.enrolment.admit(&identity(&agent)).await).0, RefusalReason::Revoked);
    assert_eq!(said(d.enrolment.redeem(&token.secret, &agent, now()).await).0, RefusalReason::NodeNotFound);
}

#[tokio::test]
async fn an_agent_renews_for_itself_only_and_keeps_its_place() {
    let d = deployment(&["office"]).await;
    let token = d.token("office", 2).await;
    let (one, two) = (request("office", "a1"), request("office", "a2"));
    d.enrolment.redeem(&token.secret, &one, now()).await.unwrap();
    d.enrolment.redeem(&token.secret, &two, now()).await.unwrap();
    let before = d.enrolment.admit(&identity(&two)).await.unwrap();

    let later = now() + Duration::days(5);
    let issued = d.enrolment.renew(&identity(&two), &request("office", "a2"), later).await.unwrap();
    assert_eq!(issued.not_after, later.unix_timestamp() + 7 * 86400);
    assert_eq!(d.enrolment.admit(&identity(&two)).await.unwrap(), before);
    assert_eq!(before.agent.value(), 2);

    let (reason, message) = said(d.enrolment.renew(&identity(&one), &two, later).await);
    assert_eq!(reason, RefusalReason::WrongNode);
    assert!(message.contains("agent a1") && message.contains("agent a2"), "{message}");
}

#[tokio::test]
async fn tokens_are_made_for_nodes_that_are_there_and_old_ones_are_swept() {
    let d = deployment(&["office"]).await;
    let project = ProjectName::default();
    let issue = |node: &str, at| {
        let node: NodeName = node.parse().unwrap();
        let (d, project) = (&d, &project);
        async move { d.enrolment.issue_token(project, &node, Duration::hours(1), 1, at).await }
    };
    let missing = issue("lab", now()).await.unwrap_err();
    assert!(matches!(missing, TransactError::Refused(WriteError::NotFound(key)) if key == node_key("lab")));

    issue("office", now()).await.unwrap();
    issue("office", now() + Duration::hours(24)).await.unwrap();
    assert_eq!(d.tokens_kept().await, 2);
    issue("office", now() + Duration::hours(25)).await.unwrap();
    assert_eq!(d.tokens_kept().await, 2, "the first expired a day ago");
}
