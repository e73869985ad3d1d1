//! Tests of `signature`.

use super::*;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use std::fmt::Write as _;
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
    let presented = presented(headers);
    let authorization = presented.one("authorization").unwrap();
    let authorization = Authorization::parse(authorization)?;
    let signed = Signed { presented: &presented, own_host: "", query, payload };
    authorization.verify(SECRET, region, signed, now)
}

fn presented(headers: &[(String, String)]) -> Presented<'_> {
    Presented::of(headers.iter().map(|(n, v)| (n.as_str().into(), v.as_str().into())))
}

/// What a client that shows `date` (a name and a value) and `host` sends, having signed these headers by
/// hand: `names` in the order of the alphabet.
fn by_hand(
    names: &str,
    date: (&str, &str),
    shown: &str,
    signed_host: &str,
) -> Vec<(String, String)> {
    let moment = amz_date(now());
    let value = |name: &str| match name {
        "host" => signed_host.to_owned(),
        name if name == date.0 => date.1.to_owned(),
        _ => format!("the {name}"),
    };
    let mut canonical = format!("POST\n{EVENT_PATH}\n\n");
    for name in names.split(';') {
        let _ = writeln!(canonical, "{name}:{}", value(name));
    }
    let _ = write!(canonical, "\n{names}\n{}", sha256_hex(BODY));
    let scope = format!("{}/eu-west-1/{SERVICE}/aws4_request", &moment[..8]);
    let key = signing_key(SECRET, &moment[..8], "eu-west-1", SERVICE);
    let to_sign = string_to_sign(&moment, &scope, &canonical);
    let signature = hex(hmac::sign(&key, to_sign.as_bytes()).as_ref());
    let mut sent: Vec<(String, String)> = names
        .split(';')
        .filter(|name| *name != "host" && *name != date.0)
        .map(|name| (name.to_owned(), value(name)))
        .collect();
    let authorization = format!(
        "{ALGORITHM} Credential=AKID/1/{scope}, SignedHeaders={names}, Signature={signature}"
    );
    for (name, value) in [("host", shown), date, ("authorization", authorization.as_str())] {
        sent.push((name.to_owned(), value.to_owned()));
    }
    sent
}

fn verify_by_hand(sent: &[(String, String)], own_host: &str) -> Result<(), SignatureFault> {
    let presented = presented(sent);
    let authorization = Authorization::parse(presented.one("authorization").unwrap())?;
    let signed = Signed { presented: &presented, own_host, query: "", payload: BODY };
    authorization.verify(SECRET, None, signed, now())
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
    let mismatched = |result| matches!(result, Err(SignatureFault::Mismatch { .. }));
    assert!(mismatched(verify(&sent, "", b"{}", None, now())));
    assert!(mismatched(verify(&sent, "a=1", BODY, None, now())));
    for (name, value) in [
        ("host", "other:1"),
        ("x-thing", "b"),
        ("x-amz-security-token", "other"),
        ("x-amz-date", &amz_date(now() + Duration::from_secs(1))),
    ] {
        let mut changed = sent.clone();
        set(&mut changed, name, value);
        assert!(mismatched(verify(&changed, "", BODY, None, now())), "{name}");
    }
    let mut hashed = sent.clone();
    hashed.push(("x-amz-content-sha256".to_owned(), "UNSIGNED-PAYLOAD".to_owned()));
    assert!(mismatched(verify(&hashed, "", BODY, None, now())));
}

#[test]
fn only_the_host_has_to_be_signed() {
    let moment = amz_date(now());
    let date = ("x-amz-date", moment.as_str());
    let http_date = httpdate::fmt_http_date(now());
    for names in ["accept;content-encoding;content-type;host", "host", "host;x-amz-security-token"]
    {
        assert_eq!(verify_by_hand(&by_hand(names, date, "h:1", "h:1"), "h:1"), Ok(()), "{names}");
        for date in [("date", moment.as_str()), ("date", http_date.as_str())] {
            let sent = by_hand(names, date, "h:1", "h:1");
            assert_eq!(verify_by_hand(&sent, "h:1"), Ok(()), "{names} {date:?}");
        }
    }
    let signed_date = by_hand("date;host", ("date", http_date.as_str()), "h:1", "h:1");
    assert_eq!(verify_by_hand(&signed_date, "h:1"), Ok(()));
    // A token that is shown and not signed is the user's matter: whose it is, is checked elsewhere.
    let mut with_token = by_hand("host", date, "h:1", "h:1");
    with_token.push(("x-amz-security-token".to_owned(), "any".to_owned()));
    assert_eq!(verify_by_hand(&with_token, "h:1"), Ok(()));
    // `x-amz-date` is the one that counts, if there are both.
    let mut both = by_hand("host", date, "h:1", "h:1");
    both.push(("date".to_owned(), httpdate::fmt_http_date(now() - 2 * MAX_SKEW)));
    assert_eq!(verify_by_hand(&both, "h:1"), Ok(()));
}

#[test]
fn the_host_is_the_one_shown_or_the_connections_with_or_without_port() {
    let moment = amz_date(now());
    let date = ("x-amz-date", moment.as_str());
    for (shown, own, signed, good) in [
        ("a:1", "a:1", "a:1", true),
        ("a:1", "a:1", "a", true),
        ("a", "a:1", "a:1", true),
        ("a", "a:1", "a", true),
        ("a", "b:1", "b:1", true),
        ("a", "b:1", "b", true),
        ("a", "b:1", "a:1", true),
        ("a:2", "b:1", "a:2", true),
        ("[::1]", "[::1]:1", "[::1]:1", true),
        ("a", "", "a", true),
        ("a", "a:1", "a:2", false),
        ("a", "b:1", "c:1", false),
        ("a:1", "a:1", "", false),
        ("", "", "", false),
    ] {
        let result = verify_by_hand(&by_hand("host", date, shown, signed), own);
        assert_eq!(result.is_ok(), good, "{shown} {own} {signed}: {result:?}");
    }
}

#[test]
fn a_refusal_has_the_words_of_its_cause() {
    let sent = signed(&[("host", "h:1")], "", None, false);
    let words = |result: Result<(), SignatureFault>| result.unwrap_err().to_string();
    let moment = amz_date(now());
    let mismatch = words(verify(&sent, "", b"{}", None, now()));
    let canonical = format!(
        "POST\n/event\n\nhost:h:1\nx-amz-date:{moment}\n\nhost;x-amz-date\n{}",
        sha256_hex(b"{}")
    );
    let scope = format!("{}/eu-west-1/appsync/aws4_request", &moment[..8]);
    let expected = format!(
        "The request signature we calculated does not match the signature you provided. Check your AWS \
         Secret Access Key and signing method. Consult the service documentation for details.\n\n\
         The Canonical String for this request should have been\n'{canonical}'\n\n\
         The String-to-Sign should have been\n'AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}'\n",
        sha256_hex(canonical.as_bytes())
    );
    assert_eq!(mismatch, expected);
    assert_eq!(
        words(verify(&sent, "", BODY, Some("eu-west-2"), now())),
        "Credential should be scoped to a valid region, not 'eu-west-1': this API is in 'eu-west-2'."
    );
    let mut other = sent.clone();
    for (name, from, to, says) in [
        ("authorization", "/appsync/", "/execute-api/", "correct service: 'appsync'"),
        ("authorization", &moment[..8], "20200101", "'20200101' != '"),
        ("authorization", "Signature=", "Sig=", "requires 'Signature' parameter."),
        (
            "authorization",
            "SignedHeaders=host;",
            "SignedHeaders=",
            "'host' must be a 'SignedHeader'",
        ),
        ("authorization", "x-amz-date,", "x-other,", "signed header 'x-other' is missing"),
        ("x-amz-date", moment.as_str(), "yesterday", "ISO-8601"),
        ("x-amz-date", &moment[4..], "x", "ISO-8601"),
    ] {
        let value = &sent.iter().find(|(n, _)| n == name).unwrap().1;
        set(&mut other, name, &value.replace(from, to));
        let words = words(verify(&other, "", BODY, None, now()));
        assert!(words.contains(says), "{says}: {words}");
        set(&mut other, name, value);
    }
    let early = words(verify(&sent, "", BODY, None, now() + 2 * MAX_SKEW));
    assert!(
        early.starts_with(&format!("Signature expired: {moment} is now earlier than")),
        "{early}"
    );
    let late = words(verify(&sent, "", BODY, None, now() - 2 * MAX_SKEW));
    assert!(
        late.starts_with(&format!("Signature not yet current: {moment} is still later")),
        "{late}"
    );
    let no_date: Vec<_> = sent.iter().filter(|(n, _)| n != "x-amz-date").cloned().collect();
    let words = words(verify(&no_date, "", BODY, None, now()));
    assert!(words.contains("either a 'X-Amz-Date' or a 'Date' header"), "{words}");
}

#[test]
fn a_date_may_be_five_minutes_off() {
    let sent = signed(&[("host", "h:1")], "", None, false);
    for (clock, good) in [
        (now() + MAX_SKEW, true),
        (now() - MAX_SKEW, true),
        (now() + MAX_SKEW + Duration::from_secs(1), false),
        (now() - MAX_SKEW - Duration::from_secs(1), false),
    ] {
        match verify(&sent, "", BODY, None, clock) {
            Ok(()) => assert!(good),
            Err(why) => assert!(!good && matches!(why, SignatureFault::Date(_)), "{why:?}"),
        }
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
        assert!(matches!(result, Err(SignatureFault::Incomplete(_))), "{to}: {result:?}");
    }
}
