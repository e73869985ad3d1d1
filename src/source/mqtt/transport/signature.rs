//! The signature on the handshake of AWS IoT Core's WebSocket: a presigned request in Signature Version 4, made
//! anew for each connection.
//!
//! The token of a session is no part of what is signed; it is put behind the signature (AWS IoT Core Developer
//! Guide, "Device communication protocols", MQTT over WebSocket Secure).

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as Keys;
use http::Request;
use parking_lot::Mutex;

use crate::aws::presign::{Presigner, SessionTokenMode};
use crate::aws::{AwsError, Credentials, Source};
use crate::config::api::Aws;
use crate::error_chain;
use crate::renewal::Held;

/// A signature is used at once; it is good for as long as AWS bears clocks that are apart.
const PRESIGNER: Presigner = Presigner {
    service: "iotdevicegateway",
    lifetime: Duration::from_mins(5),
    session_token: SessionTokenMode::Exclude,
};

/// Signs the handshakes of a source.
#[derive(Debug)]
pub(in super::super) struct Signer {
    credentials: Credentials,
    region: String,
    /// Those of the next connection.
    keys: Mutex<Option<Held<Keys>>>,
}

/// A handshake that can't be signed.
#[derive(Debug, thiserror::Error)]
#[error("the handshake can't be signed: {0}")]
pub(in super::super) struct Unsigned(String);

impl Signer {
    /// Starts to fetch credentials, and waits for none.
    pub(super) async fn open(aws: &Aws) -> Result<Self, AwsError> {
        let (credentials, region) = Credentials::open(Source {
            region: aws.region.clone(),
            profile: aws.profile.clone(),
            role_arn: aws.role_arn.clone(),
            external_id: aws.external_id.clone(),
        })
        .await?;
        Ok(Self { credentials, region, keys: Mutex::default() })
    }

    /// Tells `told` when the credentials in use end.
    pub(super) fn tell_end(&self, told: impl Fn(Option<SystemTime>) + Send + Sync + 'static) {
        self.credentials.tell_end(told);
    }

    /// Gets the credentials of the next connection.
    pub(super) async fn prepare(&self) -> Result<(), AwsError> {
        let keys = self.credentials.keys().await?;
        *self.keys.lock() = Some(keys);
        Ok(())
    }

    /// Those of the last connection were refused. Whether there are other ones.
    pub(super) async fn refused(&self) -> bool {
        let generation = self.keys.lock().as_ref().map(|held| held.generation);
        match generation {
            Some(generation) => self.credentials.refused(generation).await,
            None => false,
        }
    }

    /// Signs a handshake, as of now.
    pub(in super::super) fn sign(&self, handshake: Request<()>) -> Result<Request<()>, Unsigned> {
        let Some(held) = self.keys.lock().clone() else {
            return Err(Unsigned("there are no credentials yet".to_owned()));
        };
        signed(handshake, &held.value, &self.region, SystemTime::now())
    }
}

fn signed(
    handshake: Request<()>,
    keys: &Keys,
    region: &str,
    now: SystemTime,
) -> Result<Request<()>, Unsigned> {
    let signed = PRESIGNER.sign(handshake, keys, region, now);
    signed.map_err(|error| Unsigned(error_chain::in_one_line(&*error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "a1b2c3-ats.iot.eu-west-1.amazonaws.com";

    fn of(url: &str, host: &str, token: Option<&str>) -> String {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let keys = Keys::new("AKIDEXAMPLE", secret, token.map(str::to_owned), None, "test");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let handshake = Request::get(url).header("host", host).body(()).unwrap();
        let signed = signed(handshake, &keys, "eu-west-1", now).unwrap();
        assert_eq!(signed.headers().len(), 1, "nothing but the query");
        signed.uri().to_string()
    }

    /// Worked out apart from the library, by the steps of AWS's documentation, in Python:
    ///
    /// ```python
    /// query = ("X-Amz-Algorithm=AWS4-HMAC-SHA256"
    ///          "&X-Amz-Credential=AKIDEXAMPLE%2F20231114%2Feu-west-1%2Fiotdevicegateway%2Faws4_request"
    ///          "&X-Amz-Date=20231114T221320Z&X-Amz-Expires=300&X-Amz-SignedHeaders=host")
    /// canonical = f"GET\n/mqtt\n{query}\nhost:{host}\n\nhost\n{sha256(b'').hexdigest()}"
    /// scope = "20231114/eu-west-1/iotdevicegateway/aws4_request"
    /// to_sign = f"AWS4-HMAC-SHA256\n20231114T221320Z\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    /// key = b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    /// for part in scope.split("/"):
    ///     key = hmac.new(key, part.encode(), sha256).digest()
    /// signature = hmac.new(key, to_sign.encode(), sha256).hexdigest()
    /// url = f"/mqtt?{query}&X-Amz-Signature={signature}&X-Amz-Security-Token={quote('a+b/c=', safe='')}"
    /// ```
    #[test]
    fn the_url_is_the_one_worked_out_by_hand_and_the_token_is_not_signed() {
        let without = format!(
            "ws://{HOST}/mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIDEXAMPLE%2F20231114%2Feu-west-1%2Fiotdevicegateway%2Faws4_request\
             &X-Amz-Date=20231114T221320Z&X-Amz-Expires=300&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=a60f994135af818b601aa0f75154dfbbfe103dbe70a504971a3a6512813ffaed"
        );
        let url = format!("ws://{HOST}/mqtt");
        assert_eq!(of(&url, HOST, None), without);
        assert_eq!(
            of(&url, HOST, Some("a+b/c=")),
            format!("{without}&X-Amz-Security-Token=a%2Bb%2Fc%3D")
        );
    }

    #[test]
    fn the_host_that_is_signed_is_the_one_that_is_sent() {
        let url = "ws://127.0.0.1:8080/mqtt";
        let signature =
            |host| of(url, host, None).split_once("X-Amz-Signature=").unwrap().1.to_owned();
        assert_ne!(signature("127.0.0.1:8080"), signature("127.0.0.1"));
    }
}
