//! How an agent gets its certificate: the one copyable token, and the exchange that redeems it.
//!
//! The token is made by the relay, carried by a person, and redeemed by the agent over the tunnel port:
//! `POST /.well-known/underpass/enrol` with the secret as bearer token, or `POST /.well-known/underpass/renew`
//! under the certificate that is to be renewed. Both answer an [`Issued`].

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::identity::{AgentId, NodeName, ProjectName};

/// Request path that trades an enrolment token for a certificate.
pub const ENROL_PATH: &str = "/.well-known/underpass/enrol";
/// Request path that trades a valid certificate for a fresh one.
pub const RENEW_PATH: &str = "/.well-known/underpass/renew";
/// The longest body of either request and answer, in bytes.
pub const EXCHANGE_BYTES_MAX: usize = 64 << 10;

/// What every token begins with: the name says what it is, the digit its version.
const PREFIX: &str = "underpass1.";
/// The longest token in bytes.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Everything an agent on another host needs, as one string.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentToken {
    pub project: ProjectName,
    pub node: NodeName,
    /// `host:port` of the relays' tunnel port, best first.
    pub relays: Vec<String>,
    /// Fingerprint of the deployment's CA.
    pub ca: Fingerprint,
    /// What the relay knows the token by.
    pub secret: Secret,
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrolmentToken({}/{}, ..)", self.project, self.node)
    }
}

impl fmt::Display for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }
}

/// Why a text is no enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not an enrolment token: it must begin with `{PREFIX}`, as `underpass tunnel token NODE` prints it")]
    Prefix,
    #[error("the enrolment token is damaged or cut short: copy it again in full")]
    Damaged,
}

impl FromStr for EnrolmentToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if body.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Damaged);
        }
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?;
        serde_json::from_slice(&json).map_err(|_| TokenError::Damaged)
    }
}

/// A secret of 32 random bytes that prints as `Secret(..)`; base64url on the wire.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// A secret that somebody presented, of whatever shape.
    #[must_use]
    pub fn presented(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The secret's text, for the `authorization` header only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// SHA-256 of a certificate's DER, as lower-case hex.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    #[must_use]
    pub fn of(certificate_der: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate_der);
        Self(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", self.0)
    }
}

/// Body of [`ENROL_PATH`] and [`RENEW_PATH`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    pub project: ProjectName,
    pub node: NodeName,
    /// The id that the agent keeps in its state directory.
    pub agent: AgentId,
    /// PKCS #10, PEM. Only its public key is read; the relay writes the names.
    pub csr: String,
}

/// What an agent keeps: its certificate and how to come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The agent's certificate, PEM.
    pub certificate: String,
    /// The deployment's CA, PEM.
    pub ca: String,
    /// `host:port` of the relays' tunnel port, best first.
    pub relays: Vec<String>,
    /// When the certificate was issued and when it ends, seconds since the Unix epoch.
    pub not_before: i64,
    pub not_after: i64,
}

/// Body of a refusal: which rule, and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub reason: RefusalReason,
    pub message: String,
}

/// Why the relay gave no certificate or no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalReason {
    /// The relay never issued this token, or it was changed.
    UnknownToken,
    TokenExpired,
    /// All uses of the token are spent.
    TokenUsed,
    /// The token or certificate is for another node or project.
    WrongNode,
    NodeNotFound,
    /// No certificate of this deployment was shown.
    Unauthenticated,
    /// The certificate was revoked.
    Revoked,
    /// The request could not be read.
    BadRequest,
    /// The relay cannot do it now; try again.
    Unavailable,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> EnrolmentToken {
        EnrolmentToken {
            project: ProjectName::default(),
            node: "office".parse().unwrap(),
            relays: vec!["relay.example.com:7443".to_owned()],
            ca: Fingerprint::of(b"certificate"),
            secret: Secret::from_bytes([7; 32]),
        }
    }

    #[test]
    fn a_token_survives_copy_and_paste() {
        assert_eq!(format!("  {}\n", token()).parse(), Ok(token()));
    }

    #[test]
    fn a_cut_or_foreign_text_is_refused() {
        let text = token().to_string();
        assert_eq!(text[..text.len() - 3].parse::<EnrolmentToken>(), Err(TokenError::Damaged));
        assert_eq!("eyJhbGciOiJIUzI1NiJ9.e30.x".parse::<EnrolmentToken>(), Err(TokenError::Prefix));
        assert_eq!(format!("{PREFIX}{}", "A".repeat(9000)).parse::<EnrolmentToken>(), Err(TokenError::Damaged));
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", token()), "EnrolmentToken(default/office, ..)");
        assert_eq!(format!("{:?}", token().secret), "Secret(..)");
    }
}
