//! Bearer tokens that this deployment signs for ServiceAccounts: JSON Web Tokens (RFC 7519) with one fixed algorithm.
//!
//! A token ends by its time, with its ServiceAccount, or with the Secret that it is bound to.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use underpass_shared::{identity::ProjectName, resource::kind::Kind};

use super::account_key;
use crate::store::{
    Store, StoreError,
    object::{ObjectKey, Objects},
    record::RecordKey,
};

/// What signs: nobody but this deployment's relays can verify, so that a shared key is enough (RFC 7518 §3.2).
const ALGORITHM: Algorithm = Algorithm::HS256;
const ISSUER: &str = "underpass";
/// How far the clocks of relays may differ.
const SKEW: Duration = Duration::seconds(60);

/// Why a token is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(
        "the bearer token is not one of this deployment's: it was changed, made elsewhere, or taken off the token file"
    )]
    Unknown,
    #[error("the bearer token has expired: ask for another one")]
    Expired,
    #[error("the bearer token was revoked: its {0} was deleted since")]
    Revoked(&'static str),
}

/// The ServiceAccount that a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub project: ProjectName,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// The Secret that a token lives and dies with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    pub name: String,
    pub uid: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    jti: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    project: ProjectName,
    namespace: String,
    account: String,
    uid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Bound>,
}

/// Signs and verifies.
#[derive(Clone)]
pub struct Signer {
    sign: EncodingKey,
    verify: DecodingKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(..)")
    }
}

impl Signer {
    /// The deployment's key out of `store`; made and kept there, sealed, on the first start.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn load_or_create(store: &Store) -> Result<Self, StoreError> {
        let key = store
            .transact(|state, fresh| match state.record::<[u8; 32]>(&RecordKey::TokenKey)? {
                Some(key) => Ok(key),
                None => {
                    let key: [u8; 32] = fresh.bytes();
                    state.put_record(RecordKey::TokenKey, &key).map(|()| key)
                }
            })
            .await?;
        Ok(Self::new(&key))
    }

    /// A signer with this key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { sign: EncodingKey::from_secret(key), verify: DecodingKey::from_secret(key) }
    }

    /// A token for `account`, good until `life` from `now` is over.
    ///
    /// # Errors
    /// When the claims cannot be signed.
    pub fn issue(
        &self,
        account: &Account,
        secret: Option<Bound>,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<String, String> {
        let Account { project, namespace, name, uid } = account.clone();
        let seconds = now.unix_timestamp();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            jti: uuid::Uuid::new_v4().to_string(),
            iat: seconds,
            nbf: seconds,
            exp: (now + life).unix_timestamp(),
            project,
            namespace,
            account: name,
            uid,
            secret,
        };
        encode(&Header::new(ALGORITHM), &claims, &self.sign).map_err(|error| error.to_string())
    }

    /// The account that `token` speaks for, if it is still good in `objects`.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn verify(&self, token: &str, objects: &Objects, now: OffsetDateTime) -> Result<Account, TokenError> {
        let mut validation = Validation::new(ALGORITHM);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "sub"]);
        // Times are compared below, with the time that the caller gives.
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = decode::<Claims>(token, &self.verify, &validation).map_err(|_| TokenError::Unknown)?.claims;
        let now = now.unix_timestamp();
        if now >= claims.exp || now + SKEW.whole_seconds() < claims.nbf {
            return Err(TokenError::Expired);
        }
        let uid_of = |key: &ObjectKey| objects.get(key).map(|object| object.body.uid.clone());
        if uid_of(&account_key(&claims.project, &claims.namespace, &claims.account)) != Some(claims.uid.clone()) {
            return Err(TokenError::Revoked("ServiceAccount"));
        }
        if let Some(secret) = &claims.secret {
            let key = ObjectKey::namespaced(&claims.project, Kind::Secret, &claims.namespace, &secret.name);
            if uid_of(&key).as_ref() != Some(&secret.uid) {
                return Err(TokenError::Revoked("Secret"));
            }
        }
        Ok(Account { project: claims.project, namespace: claims.namespace, name: claims.account, uid: claims.uid })
    }
}
