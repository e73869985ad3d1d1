//! AWS Signature Version 4, verified: the canonical request is built from whatever headers the
//! client says it signed, for `POST /event` and the payload at hand.
//!
//! Rules come from the AWS Identity and Access Management guide ("Create a signed AWS API request")
//! and from what public clients of the Event API send:
//! * `x-amz-content-sha256` is optional; if there it must be the payload's hash, so
//!   `UNSIGNED-PAYLOAD` is refused.
//! * `host` is tried as given and without its port: one public client signs the bare host name.
//! * the date may be [`MAX_SKEW`] away from our clock.
//! * a session token must be among the signed headers (a guess: the guide asks for it, with
//!   exceptions for a few services).

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use aws_lc_rs::{constant_time, hmac};

use super::access::Presented;
use crate::event_api::EVENT_PATH;
use crate::event_api::sign::{
    ALGORITHM, SERVICE, amz_date, hex, sha256_hex, signing_key, string_to_sign,
};

/// How far the date of a signature may be from our clock, either way.
pub(super) const MAX_SKEW: Duration = Duration::from_mins(5);

/// What an `authorization` of this kind says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Authorization<'a> {
    /// Whose signature it is.
    pub(super) access_key_id: &'a str,
    day: &'a str,
    region: &'a str,
    service: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

/// What the signature has to cover.
#[derive(Clone, Copy)]
pub(super) struct Signed<'a> {
    /// The headers, or the fields of an auth object.
    pub(super) presented: &'a Presented<'a>,
    /// The query string of the request, empty on WebSocket.
    pub(super) query: &'a str,
    /// The exact bytes.
    pub(super) payload: &'a [u8],
}

/// Why a signature does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SignatureFault {
    /// A part of the header is missing or cannot be read.
    Incomplete,
    /// Another region, another service, or a day that is not that of the date.
    Scope,
    /// More than [`MAX_SKEW`] from our clock.
    Date,
    /// Computed over these bytes it would be another one.
    Mismatch,
}

impl<'a> Authorization<'a> {
    /// Whether `text` is meant to be a signature, and not a token.
    pub(super) fn is_meant(text: &str) -> bool {
        text.starts_with("AWS4-")
    }

    /// Reads `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`.
    pub(super) fn parse(text: &'a str) -> Result<Self, SignatureFault> {
        let parts = text.strip_prefix(ALGORITHM).ok_or(SignatureFault::Incomplete)?;
        let part = |name: &str| {
            parts
                .split(',')
                .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
                .filter(|value| !value.is_empty())
                .ok_or(SignatureFault::Incomplete)
        };
        // From the right, as the four last parts cannot hold a slash.
        let mut credential = part("Credential")?.rsplitn(5, '/');
        let mut next = || credential.next().ok_or(SignatureFault::Incomplete);
        let (end, service, region, day, access_key_id) =
            (next()?, next()?, next()?, next()?, next()?);
        if end != "aws4_request" {
            return Err(SignatureFault::Incomplete);
        }
        Ok(Self {
            access_key_id,
            day,
            region,
            service,
            signed_headers: part("SignedHeaders")?,
            signature: part("Signature")?,
        })
    }

    /// Whether the signature was made with `secret` over `signed`, now, for `region` (`None`: any).
    pub(super) fn verify(
        &self,
        secret: &str,
        region: Option<&str>,
        signed: Signed<'_>,
        now: SystemTime,
    ) -> Result<(), SignatureFault> {
        let date = signed.presented.one("x-amz-date").ok_or(SignatureFault::Incomplete)?;
        if self.service != SERVICE || region.is_some_and(|region| region != self.region) {
            return Err(SignatureFault::Scope);
        }
        if !is_amz_date(date) {
            return Err(SignatureFault::Incomplete);
        }
        if !date.starts_with(self.day) || self.day.len() != 8 {
            return Err(SignatureFault::Scope);
        }
        // Dates of this form sort as text.
        if *date < *amz_date(now - MAX_SKEW) || *date > *amz_date(now + MAX_SKEW) {
            return Err(SignatureFault::Date);
        }
        let must_sign = |name: &str| self.signed_headers.split(';').any(|signed| signed == name);
        if !must_sign("host")
            || !must_sign("x-amz-date")
            || (signed.presented.one("x-amz-security-token").is_some()
                && !must_sign("x-amz-security-token"))
        {
            return Err(SignatureFault::Incomplete);
        }
        let hash = sha256_hex(signed.payload);
        if signed.presented.one("x-amz-content-sha256").is_some_and(|said| said != hash) {
            return Err(SignatureFault::Mismatch);
        }
        let host = signed.presented.one("host").ok_or(SignatureFault::Incomplete)?;
        let scope = format!("{}/{}/{}/aws4_request", self.day, self.region, self.service);
        let key = signing_key(secret, self.day, self.region, self.service);
        let bare = without_port(host);
        let hosts = [Some(host), (bare != host).then_some(bare)];
        for host in hosts.into_iter().flatten() {
            let canonical = self.canonical_request(signed, host, &hash)?;
            let to_sign = string_to_sign(date, &scope, &canonical);
            let ours = hex(hmac::sign(&key, to_sign.as_bytes()).as_ref());
            let equal =
                constant_time::verify_slices_are_equal(ours.as_bytes(), self.signature.as_bytes());
            if equal.is_ok() {
                return Ok(());
            }
        }
        Err(SignatureFault::Mismatch)
    }

    fn canonical_request(
        &self,
        signed: Signed<'_>,
        host: &str,
        hash: &str,
    ) -> Result<String, SignatureFault> {
        let mut text = format!("POST\n{EVENT_PATH}\n{}\n", canonical_query(signed.query));
        for name in self.signed_headers.split(';') {
            text.push_str(name);
            text.push(':');
            if name == "host" {
                text.push_str(host);
            } else {
                let mut values = signed.presented.all(name).peekable();
                values.peek().ok_or(SignatureFault::Incomplete)?;
                for (n, value) in values.enumerate() {
                    if n > 0 {
                        text.push(',');
                    }
                    text.push_str(&single_spaced(value));
                }
            }
            text.push('\n');
        }
        text.push('\n');
        text.push_str(self.signed_headers);
        text.push('\n');
        text.push_str(hash);
        Ok(text)
    }
}

/// `20261122T103116Z`.
fn is_amz_date(text: &str) -> bool {
    text.len() == 16
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Sorted by name and value, each name with its `=`; taken as encoded by the client.
fn canonical_query(query: &str) -> String {
    let mut pairs: Vec<(&str, &str)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// Trimmed, and every run of blanks made one.
fn single_spaced(value: &str) -> Cow<'_, str> {
    let trimmed = value.trim();
    if trimmed.contains("  ") || trimmed.contains('\t') {
        Cow::Owned(trimmed.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
    } else {
        Cow::Borrowed(trimmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{
        PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign,
    };
    use aws_sigv4::sign::v4;
    use std::time::UNIX_EPOCH;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const BODY: &[u8] = br#"{"channel":"/demo/a","events":["1"]}"#;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_343_476)
    }

    /// The headers of a request that `aws-sigv4` signed.
    fn signed(
        headers: &[(&str, &str)],
        query: &str,
        token: Option<&str>,
        checksum: bool,
    ) -> Vec<(String, String)> {
        let identity =
            Credentials::new("AKID/1", SECRET, token.map(str::to_owned), None, "test").into();
        let mut settings = SigningSettings::default();
        if checksum {
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("eu-west-1")
            .name(SERVICE)
            .time(now())
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let uri = format!("https://h:1{EVENT_PATH}{query}");
        let request =
            SignableRequest::new("POST", uri, headers.iter().copied(), SignableBody::Bytes(BODY))
                .unwrap();
        let (instructions, _) = sign(request, &params).unwrap().into_parts();
        let (added, _) = instructions.into_parts();
        let own = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        own.chain(added.iter().map(|h| (h.name().to_owned(), h.value().to_owned()))).collect()
    }

    fn verify(
        headers: &[(String, String)],
        query: &str,
        payload: &[u8],
        region: Option<&str>,
        now: SystemTime,
    ) -> Result<(), SignatureFault> {
        let presented =
            Presented::of(headers.iter().map(|(n, v)| (n.as_str().into(), v.as_str().into())));
        let authorization = presented.one("authorization").unwrap();
        let authorization = Authorization::parse(authorization)?;
        let signed = Signed { presented: &presented, query, payload };
        authorization.verify(SECRET, region, signed, now)
    }

    fn set(headers: &mut [(String, String)], name: &str, value: &str) {
        headers.iter_mut().find(|(n, _)| n == name).unwrap().1 = value.to_owned();
    }

    #[test]
    fn what_aws_sigv4_signs_is_accepted_with_any_list_of_headers() {
        let spaced = [("host", "h:1"), ("x-thing", "  a   b "), ("accept", "*/*")];
        for headers in [&[("host", "h:1")][..], &spaced[..], &[("host", "h")][..]] {
            for (query, raw) in [("", ""), ("?b=2&a=1", "b=2&a=1")] {
                for token in [None, Some("to+ken/=")] {
                    for checksum in [false, true] {
                        let mut sent = signed(headers, query, token, checksum);
                        // The port goes on the wire even if the client did not sign it.
                        set(&mut sent, "host", "h:1");
                        let result = verify(&sent, raw, BODY, Some("eu-west-1"), now());
                        assert_eq!(result, Ok(()), "{sent:?}");
                        assert_eq!(verify(&sent, raw, BODY, None, now()), Ok(()));
                    }
                }
            }
        }
    }

    #[test]
    fn anything_changed_is_refused() {
        let sent = signed(&[("host", "h:1"), ("x-thing", "a")], "", Some("token"), false);
        let mismatch = Err(SignatureFault::Mismatch);
        assert_eq!(verify(&sent, "", b"{}", None, now()), mismatch);
        assert_eq!(verify(&sent, "a=1", BODY, None, now()), mismatch);
        for (name, value) in [
            ("host", "other:1"),
            ("x-thing", "b"),
            ("x-amz-security-token", "other"),
            ("x-amz-date", &amz_date(now() + Duration::from_secs(1))),
        ] {
            let mut changed = sent.clone();
            set(&mut changed, name, value);
            assert_eq!(verify(&changed, "", BODY, None, now()), mismatch, "{name}");
        }
        let mut hashed = sent.clone();
        hashed.push(("x-amz-content-sha256".to_owned(), "UNSIGNED-PAYLOAD".to_owned()));
        assert_eq!(verify(&hashed, "", BODY, None, now()), mismatch);
        let scope = Err(SignatureFault::Scope);
        assert_eq!(verify(&sent, "", BODY, Some("eu-west-2"), now()), scope);
    }

    #[test]
    fn a_date_may_be_five_minutes_off() {
        let sent = signed(&[("host", "h:1")], "", None, false);
        let late = Err(SignatureFault::Date);
        for (clock, result) in [
            (now() + MAX_SKEW, Ok(())),
            (now() - MAX_SKEW, Ok(())),
            (now() + MAX_SKEW + Duration::from_secs(1), late),
            (now() - MAX_SKEW - Duration::from_secs(1), late),
        ] {
            assert_eq!(verify(&sent, "", BODY, None, clock), result);
        }
    }

    #[test]
    fn an_incomplete_header_is_told_apart() {
        let mut sent = signed(&[("host", "h:1")], "", None, false);
        let whole = sent.iter().find(|(n, _)| n == "authorization").unwrap().1.clone();
        for (from, to) in [
            ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"),
            ("Signature=", "Sig="),
            ("SignedHeaders=host;", "SignedHeaders="),
            (";x-amz-date", ";x-amz-other"),
            ("aws4_request", "aws5_request"),
            ("AKID/1/", ""),
        ] {
            set(&mut sent, "authorization", &whole.replace(from, to));
            let result = verify(&sent, "", BODY, None, now());
            assert!(
                matches!(result, Err(SignatureFault::Incomplete | SignatureFault::Scope)),
                "{to}: {result:?}"
            );
        }
    }
}
