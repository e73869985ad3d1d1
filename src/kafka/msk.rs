//! The token of Amazon MSK's IAM access control: a presigned URL for `kafka-cluster:Connect`, in
//! base64url, as the public signers make it (`aws-msk-iam-sasl-signer-python` and its like). Pure.

use std::error::Error;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::aws::presign::{Presigner, SessionTokenMode};

/// How long a token is good: what the public signers ask for.
pub(super) const LIFETIME: Duration = Duration::from_mins(15);

const PRESIGNER: Presigner = Presigner {
    service: "kafka-cluster",
    lifetime: LIFETIME,
    session_token: SessionTokenMode::Include,
};
const USER_AGENT: &str = concat!("appsync-bridge-", env!("CARGO_PKG_VERSION"));

/// A token that is good for [`LIFETIME`] from `now` on. Fails for a region that fits no host's name.
pub(super) fn token(
    keys: &Credentials,
    region: &str,
    now: SystemTime,
) -> Result<String, Box<dyn Error>> {
    let url = format!("https://kafka.{region}.amazonaws.com/?Action=kafka-cluster%3AConnect");
    let request = PRESIGNER.sign(http::Request::get(url).body(())?, keys, region, now)?;
    Ok(URL_SAFE_NO_PAD.encode(format!("{}&User-Agent={USER_AGENT}", request.uri())))
}

/// The region in the name of a broker of MSK:
/// `b-1.shop.abcdef.c2.kafka.eu-west-1.amazonaws.com:9098`.
pub(super) fn region(broker: &str) -> Option<&str> {
    let (before, _) = broker.split_once(".amazonaws.com")?;
    let mut labels = before.rsplit('.');
    let region = labels.next()?;
    labels.next().filter(|label| matches!(*label, "kafka" | "kafka-serverless"))?;
    Some(region)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_token_has_its_documented_form() {
        let session = Some("a+b/c=".to_owned());
        let keys = Credentials::new("AKIDEXAMPLE", "secret", session, None, "test");
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let token = token(&keys, "eu-west-1", now).unwrap();
        assert!(!token.contains(['+', '/', '=']), "base64url without padding");
        let url = String::from_utf8(URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap();
        let (head, query) = url.split_once('?').unwrap();
        assert_eq!(head, "https://kafka.eu-west-1.amazonaws.com/");
        let mut parts: Vec<_> = query.split('&').collect();
        parts.sort_unstable();
        let credential =
            "X-Amz-Credential=AKIDEXAMPLE%2F20231114%2Feu-west-1%2Fkafka-cluster%2Faws4_request";
        assert_eq!(
            parts,
            [
                "Action=kafka-cluster%3AConnect",
                &format!("User-Agent={USER_AGENT}"),
                "X-Amz-Algorithm=AWS4-HMAC-SHA256",
                credential,
                "X-Amz-Date=20231114T221320Z",
                "X-Amz-Expires=900",
                "X-Amz-Security-Token=a%2Bb%2Fc%3D",
                // Computed apart from the library, by the steps of AWS's documentation.
                "X-Amz-Signature=f240bd7c3e44f95146cd2628f30aa75473f735bcd303c6eb61f060485fd3028d",
                "X-Amz-SignedHeaders=host",
            ]
        );
    }

    #[test]
    fn the_region_is_in_the_name_of_a_broker() {
        let names = [
            ("b-1.shop.abcdef.c2.kafka.eu-west-1.amazonaws.com:9098", Some("eu-west-1")),
            ("boot-x.c1.kafka-serverless.us-east-1.amazonaws.com:9098", Some("us-east-1")),
            ("b-1.shop.abcdef.c2.kafka.cn-north-1.amazonaws.com.cn:9098", Some("cn-north-1")),
            ("kafka.example:9098", None),
            ("ec2-1.eu-west-1.compute.amazonaws.com:9098", None),
        ];
        for (name, expected) in names {
            assert_eq!(region(name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_region_is_an_error() {
        let keys = Credentials::new("id", "secret", None, None, "test");
        assert!(token(&keys, "no region", UNIX_EPOCH).is_err());
    }
}
