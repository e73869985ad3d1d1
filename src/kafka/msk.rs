//! The token of Amazon MSK's IAM access control: a presigned URL for `kafka-cluster:Connect`, in
//! base64url, as the public signers make it (`aws-msk-iam-sasl-signer-python` and its like). Pure.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// How long a token is good: what the public signers ask for.
pub(super) const LIFETIME: Duration = Duration::from_mins(15);

const SERVICE: &str = "kafka-cluster";
const USER_AGENT: &str = concat!("appsync-bridge-", env!("CARGO_PKG_VERSION"));

/// AWS keys.
pub(super) struct Keys<'a> {
    pub(super) id: &'a str,
    pub(super) secret: &'a str,
    pub(super) session: Option<&'a str>,
}

/// A token that is good for [`LIFETIME`] from `now` on.
pub(super) fn token(keys: &Keys<'_>, region: &str, now: SystemTime) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}&User-Agent={USER_AGENT}", signed_url(keys, region, now)))
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

fn signed_url(keys: &Keys<'_>, region: &str, now: SystemTime) -> String {
    let host = format!("kafka.{region}.amazonaws.com");
    let time = timestamp(now);
    let date = &time[..8];
    let scope = format!("{date}/{region}/{SERVICE}/aws4_request");
    // In the order of their names, as the signature wants them.
    let mut query = format!(
        "Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}\
         &X-Amz-Date={time}&X-Amz-Expires={}",
        encoded(&format!("{}/{scope}", keys.id)),
        LIFETIME.as_secs(),
    );
    if let Some(session) = keys.session {
        let _ = write!(query, "&X-Amz-Security-Token={}", encoded(session));
    }
    query.push_str("&X-Amz-SignedHeaders=host");
    let nothing = hex(digest(&SHA256, b"").as_ref());
    let request = format!("GET\n/\n{query}\nhost:{host}\n\nhost\n{nothing}");
    let request = hex(digest(&SHA256, request.as_bytes()).as_ref());
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{request}");
    let mut key = sign(format!("AWS4{}", keys.secret).as_bytes(), date);
    for part in [region, SERVICE, "aws4_request"] {
        key = sign(key.as_ref(), part);
    }
    let signature = hex(sign(key.as_ref(), &text).as_ref());
    format!("https://{host}/?{query}&X-Amz-Signature={signature}")
}

fn sign(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&Key::new(HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Percent-encoded but for what RFC 3986 leaves alone.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// `20261122T143000Z`.
fn timestamp(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, seconds) = (seconds / 86_400, seconds % 86_400);
    // Civil date of a day count, by 400-year eras that begin in March (Howard Hinnant's algorithm).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, year) } else { (month - 9, year + 1) };
    let year = year + era * 400;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hours:02}{minutes:02}{seconds:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{
        SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
    };
    use aws_sigv4::sign::v4;
    use proptest::prelude::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// What the library of AWS makes of the same.
    fn reference(keys: &Keys<'_>, region: &str, now: SystemTime) -> String {
        let identity =
            Credentials::new(keys.id, keys.secret, keys.session.map(str::to_owned), None, "test")
                .into();
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(LIFETIME);
        settings.excluded_headers = None;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(SERVICE)
            .time(now)
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let url = format!("https://kafka.{region}.amazonaws.com/?Action=kafka-cluster%3AConnect");
        let request =
            SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(b""))
                .unwrap();
        let (instructions, _) = sign(request, &params).unwrap().into_parts();
        let mut request = http::Request::builder().uri(&url).body(()).unwrap();
        instructions.apply_to_request_http1x(&mut request);
        request.uri().to_string()
    }

    /// A query without the order of its parts.
    fn parts(url: &str) -> (String, Vec<String>) {
        let (head, query) = url.split_once('?').unwrap();
        let mut parts: Vec<_> = query.split('&').map(str::to_owned).collect();
        parts.sort();
        (head.to_owned(), parts)
    }

    #[test]
    fn a_token_has_its_documented_form() {
        let keys = Keys { id: "AKIDEXAMPLE", secret: "secret", session: Some("a+b/c=") };
        let token = token(&keys, "eu-west-1", at(1_700_000_000));
        assert!(!token.contains(['+', '/', '=']), "base64url without padding");
        let url = String::from_utf8(URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap();
        let (head, parts) = parts(&url);
        assert_eq!(head, "https://kafka.eu-west-1.amazonaws.com/");
        let signature = parts.iter().find_map(|p| p.strip_prefix("X-Amz-Signature=")).unwrap();
        assert!(signature.len() == 64 && signature.bytes().all(|b| b.is_ascii_hexdigit()));
        let others: Vec<_> = parts.iter().filter(|p| !p.starts_with("X-Amz-Signature")).collect();
        let credential =
            "X-Amz-Credential=AKIDEXAMPLE%2F20231114%2Feu-west-1%2Fkafka-cluster%2Faws4_request";
        assert_eq!(
            others,
            [
                "Action=kafka-cluster%3AConnect",
                &format!("User-Agent={USER_AGENT}"),
                "X-Amz-Algorithm=AWS4-HMAC-SHA256",
                credential,
                "X-Amz-Date=20231114T221320Z",
                "X-Amz-Expires=900",
                "X-Amz-Security-Token=a%2Bb%2Fc%3D",
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

    proptest! {
        /// The same signature as the one of AWS's own library, whatever the keys and the time.
        #[test]
        fn signs_as_the_library_of_aws_does(
            id in "[A-Z0-9]{16,20}",
            secret in "[A-Za-z0-9/+]{40}",
            session in prop::option::of("[A-Za-z0-9/+=]{1,200}"),
            seconds in 0..4_000_000_000_u64,
        ) {
            let keys = Keys { id: &id, secret: &secret, session: session.as_deref() };
            let expected = reference(&keys, "eu-west-1", at(seconds));
            prop_assert_eq!(parts(&signed_url(&keys, "eu-west-1", at(seconds))), parts(&expected));
        }
    }
}
