//! Verification of AWS Signature Version 4: the canonical request is built from the headers that the
//! client names as signed, for `POST /event` and the actual payload.
//!
//! The rules come from the AWS Identity and Access Management guide ("Create a signed AWS API request")
//! and from public clients of the Event API, some with test suites that ran against AWS:
//! * `host` must be signed; the client chooses the other headers. One client signs neither
//!   `x-amz-date` nor the session token.
//! * the time is that of `x-amz-date`, or else of `date`, signed or not.
//! * `x-amz-content-sha256` is optional; if present it must be the payload's hash, so
//!   `UNSIGNED-PAYLOAD` is refused.
//! * the signed host may be the one that the client presents or the `host` of its connection's request,
//!   each with or without the port: one client signs the bare name and sends the port, another the
//!   reverse.
//! * the date may be [`MAX_SKEW`] away from our clock.
//!
//! The texts of a refusal are those of AWS: the one for a mismatch is known from the Event API (over
//! WebSocket), the others are guesses after the texts of other AWS services.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use aws_lc_rs::{constant_time, hmac};

use super::presented::Presented;
use crate::event_api::EVENT_PATH;
use crate::event_api::sign::{
    ALGORITHM, SERVICE, amz_date, hex, sha256_hex, signing_key, string_to_sign,
};

/// How far the date of a signature may be from our clock, either way.
pub(crate) const MAX_SKEW: Duration = Duration::from_mins(5);

/// The parts of an `authorization` with a signature.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Authorization<'a> {
    /// Names the user.
    pub(crate) access_key_id: &'a str,
    day: &'a str,
    region: &'a str,
    service: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

/// The content that a signature has to cover.
#[derive(Clone, Copy)]
pub(crate) struct Signed<'a> {
    /// The headers, or the fields of an auth object.
    pub(crate) presented: &'a Presented<'a>,
    /// The `host` header of the connection's request; empty if there is none.
    pub(crate) own_host: &'a str,
    /// The query string of the request, empty on WebSocket.
    pub(crate) query: &'a str,
    /// The exact bytes.
    pub(crate) payload: &'a [u8],
}

/// Why a signature is refused, in the text for the client. A mismatch quotes the client's headers,
/// perhaps with a session token, so it is sent to that client and never logged.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum SignatureFault {
    /// A part is missing or cannot be read.
    #[error("{0}")]
    Incomplete(Cow<'static, str>),
    /// Another region, another service, or another day than that of the date.
    #[error("{0}")]
    Scope(String),
    /// More than [`MAX_SKEW`] from our clock.
    #[error("{0}")]
    Date(String),
    /// The signature of these bytes is a different one.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS \
         Secret Access Key and signing method. Consult the service documentation for details.\n\n\
         The Canonical String for this request should have been\n'{canonical}'\n\n\
         The String-to-Sign should have been\n'{to_sign}'\n"
    )]
    Mismatch {
        /// The canonical request.
        canonical: String,
        /// The string to sign that follows from it.
        to_sign: String,
    },
}

impl SignatureFault {
    /// The kind of fault, without any text of the client.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Incomplete(_) => "its signature is incomplete",
            Self::Scope(_) => "its signature is for another day, region or service",
            Self::Date(_) => "its signature is expired or from the future",
            Self::Mismatch { .. } => "its signature does not match",
        }
    }

    /// The remedy; the answer to the client has the details.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Incomplete(_) => "its answer names the missing or unreadable part",
            Self::Scope(_) => {
                "sign for the service `appsync` in the region of `--region`, with the day of the date"
            }
            Self::Date(_) => "correct its clock: it may be off by five minutes",
            Self::Mismatch { .. } => {
                "sign with the secret of `--secret-access-key` exactly what is sent: its answer has the \
                 canonical request that was expected"
            }
        }
    }
}

impl<'a> Authorization<'a> {
    /// Whether `text` is a signature, well-formed or not, as opposed to a token.
    pub(crate) fn is_signature(text: &str) -> bool {
        text.starts_with("AWS4-")
    }

    /// Reads `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`.
    pub(crate) fn parse(text: &'a str) -> Result<Self, SignatureFault> {
        let Some(parts) = text.strip_prefix(ALGORITHM) else {
            return Err(incomplete(format!(
                "Unsupported AWS 'algorithm': it must be {ALGORITHM}."
            )));
        };
        let part = |name: &str| {
            let find = |part: &'a str| part.trim().strip_prefix(name)?.strip_prefix('=');
            parts.split(',').find_map(find).filter(|value| !value.is_empty())
        };
        let names = ["Credential", "Signature", "SignedHeaders"];
        let [Some(credential), Some(signature), Some(signed_headers)] = names.map(part) else {
            let missing = names.into_iter().filter(|name| part(name).is_none());
            let words = missing.map(|n| format!("Authorization header requires '{n}' parameter."));
            return Err(incomplete(words.collect::<Vec<_>>().join(" ")));
        };
        // From the right, as the four last parts cannot hold a slash.
        let mut scope = credential.rsplitn(5, '/');
        let parts = [(); 5].map(|()| scope.next());
        let [Some("aws4_request"), Some(service), Some(region), Some(day), Some(access_key_id)] =
            parts
        else {
            return Err(incomplete(
                "Credential must have exactly 5 slash-delimited elements, e.g. \
                 keyid/date/region/service/term, and the term must be 'aws4_request'.",
            ));
        };
        Ok(Self { access_key_id, day, region, service, signed_headers, signature })
    }

    /// Whether the signature was made with `secret` over `signed`, now, for `region` (`None`: any).
    pub(crate) fn verify(
        &self,
        secret: &str,
        region: Option<&str>,
        signed: Signed<'_>,
        now: SystemTime,
    ) -> Result<(), SignatureFault> {
        let date = date(signed.presented)?;
        self.in_scope(region, &date)?;
        in_time(&date, now)?;
        if !self.signed_headers.split(';').any(|signed| signed == "host") {
            return Err(incomplete("'host' must be a 'SignedHeader' in the AWS Authorization."));
        }
        let Some(host) = signed.presented.one("host") else {
            return Err(incomplete("The signed header 'host' is missing."));
        };
        let hash = sha256_hex(signed.payload);
        let scope = format!("{}/{}/{}/aws4_request", self.day, self.region, self.service);
        let key = signing_key(secret, self.day, self.region, self.service);
        let stated = signed.presented.one("x-amz-content-sha256");
        let hash_is_right = stated.is_none_or(|stated| stated == hash);
        let mut mismatch = None;
        for host in hosts(host, signed.own_host) {
            let canonical = self.canonical_request(signed, &host, &hash)?;
            let to_sign = string_to_sign(&date, &scope, &canonical);
            let ours = hex(hmac::sign(&key, to_sign.as_bytes()).as_ref());
            let equal =
                constant_time::verify_slices_are_equal(ours.as_bytes(), self.signature.as_bytes());
            if equal.is_ok() && hash_is_right {
                return Ok(());
            }
            // The answer quotes the first candidate, with the host that the client presented.
            mismatch = mismatch.or(Some(SignatureFault::Mismatch { canonical, to_sign }));
        }
        Err(mismatch.unwrap_or_else(|| incomplete("The signed header 'host' is missing.")))
    }

    fn in_scope(&self, region: Option<&str>, date: &str) -> Result<(), SignatureFault> {
        let wrong = |words| Err(SignatureFault::Scope(words));
        if self.service != SERVICE {
            return wrong(format!("Credential should be scoped to correct service: '{SERVICE}'."));
        }
        if let Some(region) = region.filter(|region| *region != self.region) {
            return wrong(format!(
                "Credential should be scoped to a valid region, not '{}': this API is in '{region}'.",
                self.region
            ));
        }
        let day = &date[..8];
        if day != self.day {
            return wrong(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from \
                 HTTP: '{}' != '{day}', from '{date}'.",
                self.day
            ));
        }
        Ok(())
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
                if values.peek().is_none() {
                    return Err(incomplete(format!("The signed header '{name}' is missing.")));
                }
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

fn incomplete(words: impl Into<Cow<'static, str>>) -> SignatureFault {
    SignatureFault::Incomplete(words.into())
}

/// The time of the signature, such as `20261122T103116Z`: from `x-amz-date`, or else from `date`, which
/// may also be in the form of HTTP.
fn date<'a>(presented: &'a Presented<'_>) -> Result<Cow<'a, str>, SignatureFault> {
    if let Some(date) = presented.one("x-amz-date") {
        return if is_amz_date(date) {
            Ok(date.into())
        } else {
            Err(incomplete("The date in 'X-Amz-Date' must be in ISO-8601 'basic format'."))
        };
    }
    let Some(date) = presented.one("date") else {
        return Err(incomplete(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.",
        ));
    };
    if is_amz_date(date) {
        return Ok(date.into());
    }
    let time = httpdate::parse_http_date(date);
    let time = time.map_err(|_| incomplete("The date in 'Date' cannot be read."))?;
    Ok(amz_date(time).into())
}

fn in_time(date: &str, now: SystemTime) -> Result<(), SignatureFault> {
    let (first, last) = (amz_date(now - MAX_SKEW), amz_date(now + MAX_SKEW));
    let now = amz_date(now);
    // Dates of this form sort as text.
    if *date < *first {
        let words =
            format!("Signature expired: {date} is now earlier than {first} ({now} - 5 min.)");
        return Err(SignatureFault::Date(words));
    }
    if *date > *last {
        let words = format!(
            "Signature not yet current: {date} is still later than {last} ({now} + 5 min.)"
        );
        return Err(SignatureFault::Date(words));
    }
    Ok(())
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

/// The hosts that the client may have signed, first the one that it presented.
fn hosts(presented: &str, own: &str) -> Vec<String> {
    let port = port(own).or_else(|| port(presented));
    let mut hosts: Vec<String> = Vec::new();
    for host in [presented, own].into_iter().filter(|host| !host.is_empty()) {
        let bare = without_port(host);
        let with_port = port.map(|port| format!("{bare}:{port}"));
        for host in [Some(host.to_owned()), Some(bare.to_owned()), with_port].into_iter().flatten()
        {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
    }
    hosts
}

fn port(host: &str) -> Option<&str> {
    let (_, port) = host.rsplit_once(':')?;
    (!port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())).then_some(port)
}

fn without_port(host: &str) -> &str {
    port(host).map_or(host, |port| &host[..host.len() - port.len() - 1])
}

/// Sorted by name and value, each name with its `=`; encoded as the client encoded it.
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

/// Trimmed, with every run of blanks reduced to one.
fn single_spaced(value: &str) -> Cow<'_, str> {
    let trimmed = value.trim();
    if trimmed.contains("  ") || trimmed.contains('\t') {
        Cow::Owned(trimmed.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
    } else {
        Cow::Borrowed(trimmed)
    }
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
