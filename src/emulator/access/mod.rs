//! The check of credentials. The five modes of AWS are three here: an API key, a SigV4 signature of a
//! known user, and a token in place of Cognito, OpenID Connect and a Lambda authorizer.
//!
//! A namespace may take some of them only. The claims of a token are not emulated. Guess: if both are sent, an
//! API key is checked and the `authorization` ignored.

mod namespace;
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
pub(super) use namespace::Operation;
pub use namespace::{Mode, Namespace};
pub(super) use presented::Presented;
use signature::Authorization;
pub(super) use signature::{SignatureFault, Signed};

/// A user whose signatures are accepted.
#[derive(Clone)]
pub struct IamUser {
    /// The first part of a signature's `Credential`.
    pub access_key_id: String,
    /// The key that signs.
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

/// The accepted credentials.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) api_keys: Vec<String>,
    pub(super) tokens: Vec<String>,
    /// Every JSON Web Token is accepted, whoever made it and for whatever time.
    pub(super) any_jwt: bool,
    pub(super) users: Vec<IamUser>,
    /// Of the credential scope; `None` takes any.
    pub(super) region: Option<String>,
    /// `false` accepts every well-formed signature.
    pub(super) verify_signatures: bool,
}

/// Why a client is denied access. The texts are for the log: they hold nothing that the client sent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Denied {
    /// No credential.
    #[error("it sent no credential")]
    NoCredential,
    /// An API key that is not accepted.
    #[error("its `x-api-key` is not accepted")]
    UnknownKey,
    /// A token that is not accepted.
    #[error("its `authorization` is not an accepted token")]
    UnknownToken,
    /// An access key id of no known user.
    #[error("its signature has an unknown access key id")]
    UnknownUser,
    /// A session token is missing, unexpected or wrong.
    #[error("its `x-amz-security-token` is not that of the user")]
    OtherSession,
    /// A wrong signature.
    #[error("{}", .0.kind())]
    Signature(SignatureFault),
}

impl Denied {
    /// The remedy.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::NoCredential => "send `x-api-key`, a token as `authorization`, or a signature",
            Self::UnknownKey => "send a key of `--api-key` (`da2-local` unless set)",
            Self::UnknownToken => "send a token of `--token`, or start it with `--any-jwt`",
            Self::UnknownUser => "sign as the user of `--access-key-id`",
            Self::OtherSession => "send the token of `--session-token`, or none if it is not set",
            Self::Signature(fault) => fault.hint(),
        }
    }
}

impl Access {
    /// How a client with these credentials has shown who it is, if it has access.
    pub(super) fn check(&self, signed: Signed<'_>, now: SystemTime) -> Result<Mode, Denied> {
        if let Some(key) = signed.presented.one("x-api-key") {
            return one_of(&self.api_keys, key).map(|()| Mode::ApiKey).ok_or(Denied::UnknownKey);
        }
        let text = signed.presented.one("authorization").ok_or(Denied::NoCredential)?;
        if !Authorization::is_signature(text) {
            let token = text.strip_prefix("Bearer ").unwrap_or(text);
            let known = one_of(&self.tokens, token).is_some() || (self.any_jwt && is_jwt(token));
            return known.then_some(Mode::Token).ok_or(Denied::UnknownToken);
        }
        let authorization = Authorization::parse(text).map_err(Denied::Signature)?;
        if !self.verify_signatures {
            return Ok(Mode::Iam);
        }
        let user = self.users.iter().find(|u| u.access_key_id == authorization.access_key_id);
        let user = user.ok_or(Denied::UnknownUser)?;
        if user.session_token.as_deref() != signed.presented.one("x-amz-security-token") {
            return Err(Denied::OtherSession);
        }
        authorization
            .verify(&user.secret_access_key, self.region.as_deref(), signed, now)
            .map(|()| Mode::Iam)
            .map_err(Denied::Signature)
    }
}

/// The auth object among the subprotocols of an upgrade, if there is a readable one.
pub(super) fn subprotocol_object(headers: &HeaderMap) -> Option<Map<String, Value>> {
    let lists = headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL).iter();
    let text = lists
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .find_map(|name| name.trim().strip_prefix(HEADER_SUBPROTOCOL_PREFIX))?;
    // Clients omit the padding; it is accepted, too.
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Whether it has the form of a JSON Web Token: a header that names an algorithm, claims, and some third part.
fn is_jwt(token: &str) -> bool {
    let object = |part: &str| -> Option<Map<String, Value>> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    };
    let parts: Vec<_> = token.split('.').collect();
    matches!(parts[..], [head, claims, _]
        if object(head).is_some_and(|head| head.contains_key("alg")) && object(claims).is_some())
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
            any_jwt: false,
            users: vec![user("AKIA", None), user("ASIA", Some("session"))],
            region: Some("eu-west-1".to_owned()),
            verify_signatures: true,
        }
    }

    fn check(access: &Access, pairs: &[(&str, &str)]) -> Result<Mode, Denied> {
        let presented = Presented::of(pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())));
        let signed = Signed { presented: &presented, own_host: "", query: "", payload: b"{}" };
        access.check(signed, SystemTime::now())
    }

    #[test]
    fn keys_and_tokens_are_compared_whole() {
        let access = access();
        for (good, mode) in [
            ([("x-api-key", "da2-two")], Mode::ApiKey),
            ([("X-API-Key", "da2-one")], Mode::ApiKey),
            ([("authorization", "token")], Mode::Token),
            ([("Authorization", "Bearer token")], Mode::Token),
        ] {
            assert_eq!(check(&access, &good), Ok(mode), "{good:?}");
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

    #[test]
    fn any_jwt_is_taken_on_request_and_nothing_else() {
        let mut access = access();
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let head = part(r#"{"alg":"RS256","kid":"k"}"#);
        let claims = part(r#"{"sub":"u","exp":1}"#);
        let token = format!("Bearer {head}.{claims}.c2ln");
        let jwt = [("authorization", token.as_str())];
        assert_eq!(check(&access, &jwt), Err(Denied::UnknownToken));
        access.any_jwt = true;
        assert_eq!(check(&access, &jwt), Ok(Mode::Token));
        for bad in [
            "a.b.c".to_owned(),
            format!("{head}.{claims}"),
            format!("{head}.{claims}.a.b"),
            format!("{}.{claims}.c2ln", part("{}")),
            format!("{head}.{}.c2ln", part("[]")),
        ] {
            let sent = [("authorization", bad.as_str())];
            assert_eq!(check(&access, &sent), Err(Denied::UnknownToken), "{bad}");
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
        assert_eq!(check(&access, "AKIA", None), Ok(Mode::Iam));
        assert_eq!(check(&access, "ASIA", Some("session")), Ok(Mode::Iam));
        assert_eq!(check(&access, "AKIB", None), Err(Denied::UnknownUser));
        for (id, token) in [("ASIA", None), ("ASIA", Some("other")), ("AKIA", Some("session"))] {
            assert_eq!(check(&access, id, token), Err(Denied::OtherSession), "{id} {token:?}");
        }
        access.users[0].secret_access_key = "another".to_owned();
        let refused = check(&access, "AKIA", None);
        assert!(matches!(refused, Err(Denied::Signature(SignatureFault::Mismatch { .. }))));
        access.verify_signatures = false;
        assert_eq!(check(&access, "AKIA", None), Ok(Mode::Iam));
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
