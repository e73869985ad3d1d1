//! Who may call. The five ways of AWS come down to three here: an API key, a SigV4 signature of a
//! known user, and a token that stands for Cognito, OpenID Connect or a Lambda authorizer.
//!
//! Every mode may do everything on every namespace; the lists of modes that AWS keeps per namespace
//! are not emulated, nor are the claims of a token. Guess: an API key is looked at before an
//! `authorization`, if both are sent.

mod presented;
mod signature;

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::constant_time;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use serde_json::{Map, Value};

use crate::event_api::HEADER_SUBPROTOCOL_PREFIX;
pub(super) use presented::Presented;
use signature::Authorization;
pub(super) use signature::{SignatureFault, Signed};

/// A user whose signatures are accepted.
#[derive(Clone)]
pub struct IamUser {
    /// As in the credential scope.
    pub access_key_id: String,
    /// The key of the signature.
    pub secret_access_key: String,
    /// For temporary credentials: `x-amz-security-token` must be this.
    pub session_token: Option<String>,
}

impl fmt::Debug for IamUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IamUser")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// Everyone who may call.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) api_keys: Vec<String>,
    pub(super) tokens: Vec<String>,
    pub(super) users: Vec<IamUser>,
    /// Of the credential scope; `None` takes any.
    pub(super) region: Option<String>,
    /// `false` takes every signature that can be read.
    pub(super) verify_signatures: bool,
}

/// Why a client may not call. The words are for the log: they hold nothing that the client sent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Denied {
    /// No credential.
    #[error("it shows no credential")]
    NoCredential,
    /// Not one of ours.
    #[error("its `x-api-key` is none that is accepted")]
    UnknownKey,
    /// Not one of ours.
    #[error("its `authorization` is no token that is accepted")]
    UnknownToken,
    /// Not one of ours.
    #[error("its signature is of an unknown access key id")]
    UnknownUser,
    /// None where one is due, one where none is, or another.
    #[error("its `x-amz-security-token` is not that of the user")]
    OtherSession,
    /// A signature that does not hold.
    #[error("{}", .0.kind())]
    Signature(SignatureFault),
}

impl Denied {
    /// What would be right.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::NoCredential => "send `x-api-key`, a token as `authorization`, or a signature",
            Self::UnknownKey => "send a key of `--api-key` (`da2-local` unless set)",
            Self::UnknownToken => "send a token of `--token`",
            Self::UnknownUser => "sign as the user of `--access-key-id`",
            Self::OtherSession => "send the token of `--session-token`, or none if it is not set",
            Self::Signature(fault) => fault.hint(),
        }
    }
}

impl Access {
    /// Whether the one who shows `signed.presented` may call.
    pub(super) fn check(&self, signed: Signed<'_>, now: SystemTime) -> Result<(), Denied> {
        if let Some(key) = signed.presented.one("x-api-key") {
            return one_of(&self.api_keys, key).ok_or(Denied::UnknownKey);
        }
        let text = signed.presented.one("authorization").ok_or(Denied::NoCredential)?;
        if !Authorization::is_signature(text) {
            let token = text.strip_prefix("Bearer ").unwrap_or(text);
            return one_of(&self.tokens, token).ok_or(Denied::UnknownToken);
        }
        let authorization = Authorization::parse(text).map_err(Denied::Signature)?;
        if !self.verify_signatures {
            return Ok(());
        }
        let user = self.users.iter().find(|u| u.access_key_id == authorization.access_key_id);
        let user = user.ok_or(Denied::UnknownUser)?;
        if user.session_token.as_deref() != signed.presented.one("x-amz-security-token") {
            return Err(Denied::OtherSession);
        }
        authorization
            .verify(&user.secret_access_key, self.region.as_deref(), signed, now)
            .map_err(Denied::Signature)
    }
}

/// The auth object that travels among the subprotocols of an upgrade, if one can be read.
pub(super) fn subprotocol_object(headers: &HeaderMap) -> Option<Map<String, Value>> {
    let lists = headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL).iter();
    let text = lists
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .find_map(|name| name.trim().strip_prefix(HEADER_SUBPROTOCOL_PREFIX))?;
    // Clients leave the padding out; one that does not is understood.
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn one_of(known: &[String], said: &str) -> Option<()> {
    let equal = |known: &String| {
        constant_time::verify_slices_are_equal(known.as_bytes(), said.as_bytes()).is_ok()
    };
    known.iter().any(equal).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_api::sign::Signer;

    fn access() -> Access {
        let user = |id: &str, token: Option<&str>| IamUser {
            access_key_id: id.to_owned(),
            secret_access_key: "secret".to_owned(),
            session_token: token.map(str::to_owned),
        };
        Access {
            api_keys: vec!["da2-one".to_owned(), "da2-two".to_owned()],
            tokens: vec!["token".to_owned()],
            users: vec![user("AKIA", None), user("ASIA", Some("session"))],
            region: Some("eu-west-1".to_owned()),
            verify_signatures: true,
        }
    }

    fn check(access: &Access, pairs: &[(&str, &str)]) -> Result<(), Denied> {
        let presented = Presented::of(pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())));
        let signed = Signed { presented: &presented, own_host: "", query: "", payload: b"{}" };
        access.check(signed, SystemTime::now())
    }

    #[test]
    fn keys_and_tokens_are_compared_whole() {
        let access = access();
        for good in [
            [("x-api-key", "da2-two")],
            [("X-API-Key", "da2-one")],
            [("authorization", "token")],
            [("Authorization", "Bearer token")],
        ] {
            assert_eq!(check(&access, &good), Ok(()), "{good:?}");
        }
        for (bad, why) in [
            (&[("x-api-key", "da2-on")][..], Denied::UnknownKey),
            (&[("x-api-key", "")][..], Denied::UnknownKey),
            (&[("authorization", "da2-one")][..], Denied::UnknownToken),
            (&[("authorization", "Bearer tokens")][..], Denied::UnknownToken),
            (&[("x-api-key", "no"), ("authorization", "token")][..], Denied::UnknownKey),
            (&[][..], Denied::NoCredential),
        ] {
            assert_eq!(check(&access, bad), Err(why), "{bad:?}");
        }
    }

    fn signed_by(id: &str, token: Option<&str>) -> Vec<(String, String)> {
        let signer = Signer::new("eu-west-1", "h", id, "secret", token);
        let signed = signer.sign(b"{}", SystemTime::now());
        let mut pairs = vec![
            ("host".to_owned(), "h".to_owned()),
            ("content-type".to_owned(), "application/json".to_owned()),
            ("x-amz-date".to_owned(), signed.date),
            ("authorization".to_owned(), signed.authorization),
        ];
        pairs.extend(token.map(|t| ("x-amz-security-token".to_owned(), t.to_owned())));
        pairs
    }

    #[test]
    fn a_user_is_known_by_the_key_id_and_the_session_token() {
        let mut access = access();
        let check = |access: &Access, id: &str, token: Option<&str>| {
            let pairs = signed_by(id, token);
            let pairs: Vec<(&str, &str)> =
                pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            check(access, &pairs)
        };
        assert_eq!(check(&access, "AKIA", None), Ok(()));
        assert_eq!(check(&access, "ASIA", Some("session")), Ok(()));
        assert_eq!(check(&access, "AKIB", None), Err(Denied::UnknownUser));
        for (id, token) in [("ASIA", None), ("ASIA", Some("other")), ("AKIA", Some("session"))] {
            assert_eq!(check(&access, id, token), Err(Denied::OtherSession), "{id} {token:?}");
        }
        access.users[0].secret_access_key = "another".to_owned();
        let refused = check(&access, "AKIA", None);
        assert!(matches!(refused, Err(Denied::Signature(SignatureFault::Mismatch { .. }))));
        access.verify_signatures = false;
        assert_eq!(check(&access, "AKIA", None), Ok(()));
    }

    #[test]
    fn the_auth_object_is_found_in_either_place_with_or_without_padding() {
        let object = r#"{"host":"h","x-api-key":"da2"}"#;
        let plain = URL_SAFE_NO_PAD.encode(object);
        for list in [
            format!("aws-appsync-event-ws, header-{plain}"),
            format!("header-{plain},aws-appsync-event-ws"),
            format!("header-{plain}==, aws-appsync-event-ws"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("sec-websocket-protocol", list.parse().unwrap());
            let object = subprotocol_object(&headers).unwrap();
            assert_eq!(Presented::object(&object).one("x-api-key"), Some("da2"), "{list}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("sec-websocket-protocol", "aws-appsync-event-ws".parse().unwrap());
        assert_eq!(subprotocol_object(&headers), None);
    }
}
