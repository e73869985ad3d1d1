//! Answers, literal where the service was seen, and what is made of them.

use super::super::words::MOST_WORDS;
use bytes::Bytes;

use super::*;

fn answer(status: u16, body: &str) -> Answer {
    Answer { status, body: Bytes::copy_from_slice(body.as_bytes()), ..Answer::default() }
}

fn error(status: u16, kind: &str, message: &str) -> Answer {
    let body = format!(r#"{{"errors":[{{"errorType":"{kind}","message":"{message}"}}]}}"#);
    answer(status, &body)
}

fn errors(status: u16, kind: &str, message: &str) -> Verdict {
    judge(&error(status, kind, message), 1)
}

fn retry(fault: Fault) -> Verdict {
    Verdict::Retry { fault, after: None }
}

const QUOTA_ERRORS: [(u16, &str); 7] = [
    (400, "ThrottlingException"),
    (400, "RequestLimitExceededException"),
    (400, "ProvisionedThroughputExceededException"),
    (402, "ServiceQuotaExceededException"),
    (429, "LimitExceededException"),
    (400, "TooManyRequestsException"),
    (503, "SlowDown"),
];

#[test]
fn every_index_once_is_decided() {
    let body = r#"{"failed":[{"code":"EventTooLargeException","identifier":"a","index":1,"message":"Transformed event is larger than 240KB"}],"successful":[{"identifier":"b","index":0},{"identifier":"c","index":2}]}"#;
    let why = "EventTooLargeException: Transformed event is larger than 240KB".to_owned();
    let expected =
        vec![EventVerdict::Accepted, EventVerdict::Hopeless { why }, EventVerdict::Accepted];
    assert_eq!(judge(&answer(200, body), 3), Verdict::Decided(expected));
}

#[test]
fn an_index_in_neither_list_is_unconfirmed() {
    let body = r#"{"failed":[],"successful":[{"identifier":"b","index":1}]}"#;
    let expected = vec![EventVerdict::Unconfirmed, EventVerdict::Accepted];
    assert_eq!(judge(&answer(200, body), 2), Verdict::Decided(expected));
}

#[test]
fn what_can_not_be_matched_is_never_a_success() {
    for body in [
        "",
        "{}",
        "[[],[]]",
        "[null,[]]",
        "[[],[[0],[1]]]",
        "<html>200</html>",
        r#"{"failed":[],"successful":[{"identifier":"b","index":0}"#,
        r#"{"failed":[],"successful":[{"identifier":"b","index":0},{"identifier":"b","index":0}]}"#,
        r#"{"failed":[],"successful":[{"identifier":"b","index":2}]}"#,
        r#"{"failed":[{"index":0,"code":"x"}],"successful":[{"identifier":"b","index":0}]}"#,
        r#"{"failed":[],"successful":[{"identifier":"b","index":-1}]}"#,
    ] {
        assert_eq!(judge(&answer(200, body), 2), retry(Fault::UnknownAnswer), "{body}");
    }
}

#[test]
fn what_was_accepted_beside_an_error_is_not_sent_again() {
    let named = r#"{"failed":[{"index":1,"code":"X"}],"successful":[{"index":0}]}"#;
    let errors = named.replacen('{', r#"{"errors":[{"errorType":"X"}],"#, 1);
    let decided = [EventVerdict::Accepted, EventVerdict::Retry { why: "X".into() }].to_vec();
    let none = r#"{"failed":[{"index":0,"code":"TooLarge"},{"index":1}],"successful":[]}"#;
    let one = r#"{"failed":[],"successful":[{"index":0}]}"#;
    let twice = r#"{"failed":[{"index":1},{"index":0}],"successful":[{"index":0}]}"#;
    for status in [302, 400, 401, 403, 404, 413, 429, 500, 503] {
        for body in [named, &errors] {
            let verdict = judge(&answer(status, body), 2);
            assert_eq!(verdict, Verdict::Decided(decided.clone()), "{status} {body}");
            assert_eq!(refusal(&answer(status, body)), None);
        }
        // Where nothing is, or it is not said of each, the status decides.
        for body in [none, one, twice, r#"{"failed":[],"successful":[]}"#] {
            let verdict = judge(&answer(status, body), 2);
            assert!(!matches!(verdict, Verdict::Decided(_)), "{status} {body}: {verdict:?}");
        }
    }
}

#[test]
fn the_kind_decides_before_the_status() {
    for status in [400, 401, 403] {
        for kind in [
            "UnauthorizedException",
            "AccessDeniedException",
            "ExpiredTokenException",
            "SignatureDoesNotMatch",
            "InvalidSignatureException",
        ] {
            assert!(
                matches!(errors(status, kind, "m"), Verdict::Refused { .. }),
                "{status} {kind}"
            );
        }
    }
    assert!(matches!(
        errors(400, "BadRequestException", "signature mismatch"),
        Verdict::Refused { .. }
    ));
    assert!(matches!(
        errors(400, "BadRequestException", "Input exceeded 5 event limit"),
        Verdict::Bad { .. }
    ));
    for (status, kind) in QUOTA_ERRORS {
        assert_eq!(errors(status, kind, "m"), retry(Fault::Throttled), "{status} {kind}");
    }
    for own in ["DailyQuotaExceeded", "CreditLimitExceeded", "DynamoDB:ThrottlingException"] {
        for status in [200, 403] {
            let verdict = errors(status, own, "m");
            assert_ne!(verdict, retry(Fault::Throttled), "{status} {own}");
        }
    }
    let too_large = errors(400, "PayloadSizeLimitExceeded", "m");
    assert!(matches!(too_large, Verdict::Bad { .. }), "a limit of size passes by no waiting");
    assert!(matches!(judge(&answer(402, ""), 1), Verdict::Bad { .. }));
    for (kind, who) in [
        ("UnauthorizedException", Refuser::Namespace),
        ("WAFForbiddenException", Refuser::Firewall),
        ("ExpiredTokenException", Refuser::Api),
    ] {
        assert_eq!(errors(403, kind, "m"), Verdict::Refused { why: format!("403 {kind}: m"), who });
    }
    for (kind, message) in [
        ("TenantBlocked", "not today"),
        ("Unauthorized", "You are not authorized to make this call."),
        ("BadRequestException", "the offer has expired"),
    ] {
        let why = format!("403 {kind}: {message}");
        assert_eq!(errors(403, kind, message), Verdict::HandlerRefused { why });
    }
    for (status, who) in [(400, Refuser::Unsure), (401, Refuser::Api), (403, Refuser::Namespace)] {
        let why = format!("{status} BadRequestException: Signature mismatch");
        let bad = errors(status, "BadRequestException", "Signature mismatch");
        assert_eq!(bad, Verdict::Refused { why, who });
    }
}

#[test]
fn errors_beside_the_lists_are_not_passed_over() {
    let with = |kind: &str, successful: &str| {
        let errors = format!(r#"[{{"errorType":"{kind}","message":"m"}}]"#);
        judge(
            &answer(
                200,
                &format!(r#"{{"errors":{errors},"failed":[],"successful":{successful}}}"#),
            ),
            1,
        )
    };
    assert_eq!(with("X", "[]"), Verdict::HandlerRefused { why: "200 X: m".into() });
    assert_eq!(with("InternalFailureException", "[]"), retry(Fault::UnknownAnswer));
    assert_eq!(with("ThrottlingException", "[]"), retry(Fault::Throttled));
    assert!(matches!(
        with("UnauthorizedException", "[]"),
        Verdict::Refused { who: Refuser::Namespace, .. }
    ));
    let named = r#"[{"index":0,"identifier":"x"}]"#;
    assert_eq!(with("X", named), Verdict::Decided(vec![EventVerdict::Accepted]));
    for (kind, is_throttling) in [("X", false), ("ThrottlingException", true)] {
        let body = format!(
            r#"{{"errors":[{{"errorType":"{kind}"}}],"failed":[],"successful":[{{"index":0}}]}}"#
        );
        let why = format!("200 {kind}");
        let other = if is_throttling {
            EventVerdict::Throttled { why }
        } else {
            EventVerdict::Retry { why }
        };
        let expected = Verdict::Decided(vec![EventVerdict::Accepted, other]);
        assert_eq!(judge(&answer(200, &body), 2), expected);
    }
    // Whatever form they have.
    for errors in [
        r#"[{"errorType":"InternalFailure","errorCode":"500"}]"#,
        r#"[{"errorType":7}]"#,
        r#"["text"]"#,
        r#"{"message":"m"}"#,
        r#""text""#,
    ] {
        let body = format!(r#"{{"errors":{errors},"failed":[],"successful":[]}}"#);
        let verdict = judge(&answer(200, &body), 1);
        let kept = matches!(verdict, Verdict::HandlerRefused { .. } | Verdict::Retry { .. });
        assert!(kept, "{errors}: {verdict:?}");
    }
    let none = r#"{"errors":[],"failed":[],"successful":[]}"#;
    let unconfirmed = Verdict::Decided(vec![EventVerdict::Unconfirmed]);
    assert_eq!(judge(&answer(200, none), 1), unconfirmed);
}

/// Where a success says so of no event, it may be any of them, or none.
#[test]
fn an_error_of_a_success_without_lists_says_nothing_of_events_but_of_us() {
    for kind in ["X", "BadRequestException", "InternalFailure"] {
        assert_eq!(errors(200, kind, "m"), retry(Fault::UnknownAnswer), "{kind}");
    }
    for body in [
        r#"{"errors":[{"errorType":"X"}],"failed":null,"successful":null}"#,
        r#"{"errors":["m"]}"#,
        r#"{"message":"m","code":"X"}"#,
    ] {
        assert_eq!(judge(&answer(200, body), 1), retry(Fault::UnknownAnswer), "{body}");
    }
    for kind in ["ExpiredTokenException", "UnauthorizedException"] {
        assert!(matches!(errors(200, kind, "m"), Verdict::Refused { .. }), "{kind}");
        assert_eq!(refusal(&error(200, kind, "m")).as_deref(), Some(kind));
    }
}

/// An error may quote half of a character, of an event that was cut, and stays an error.
#[test]
fn an_error_is_one_whatever_it_quotes() {
    let quoting = r#"{"errors":[{"errorType":"X","message":"no \ud83d"}],"failed":[],"successful":[],"debug":1e999}"#;
    assert!(matches!(judge(&answer(200, quoting), 1), Verdict::HandlerRefused { .. }));
    let failed =
        r#"{"failed":[{"index":1,"code":"X","message":"no \ud83d"}],"successful":[{"index":0}]}"#;
    let Verdict::Decided(verdicts) = judge(&answer(200, failed), 2) else { panic!() };
    assert_eq!(verdicts[0], EventVerdict::Accepted);
    assert!(matches!(verdicts[1], EventVerdict::Retry { .. }));
    assert!(matches!(errors(403, "TenantBlocked", "no \\ud83d"), Verdict::HandlerRefused { .. }));
}

/// A name is optional in `util.error`. Without one it may be the service's: it pauses, and so do words about who may do
/// what, whatever else is taken.
#[test]
fn a_handler_needs_no_name_for_its_error() {
    let errors = |item: &str| answer(403, &format!(r#"{{"errors":[{item}]}}"#));
    for item in [
        r#"{"message":"bad order"}"#,
        r#"{"message":"bad order","errorType":null}"#,
        r#"{"message":"bad order","errorType":""}"#,
        r#""bad order""#,
    ] {
        let nameless = Verdict::Refused { why: "403: bad order".into(), who: Refuser::Nameless };
        assert_eq!(judge(&errors(item), 1), nameless, "{item}");
        assert_eq!(refusal(&errors(item)).as_deref(), Some(""));
    }
    for item in ["{}", r#"{"message":""}"#, r#"{"message":"You are not authorized to do this"}"#] {
        let verdict = judge(&errors(item), 1);
        let refused = matches!(verdict, Verdict::Refused { who: Refuser::Namespace, .. });
        assert!(refused, "{item}: {verdict:?}");
    }
}

/// What stands before an Event API answers as other services of AWS do.
#[test]
fn the_common_form_of_an_error_is_read() {
    let aws = |status, kind: &str, message: &str| {
        let body = format!(r#"{{"__type":"com.amazon#{kind}","message":"{message}"}}"#);
        answer(status, &body)
    };
    let expired = aws(400, "ExpiredTokenException", "m");
    let why = "400 ExpiredTokenException: m".to_owned();
    assert_eq!(judge(&expired, 1), Verdict::Refused { why, who: Refuser::Api });
    assert_eq!(refusal(&expired).as_deref(), Some("ExpiredTokenException"));
    assert_eq!(judge(&aws(400, "ThrottlingException", "m"), 1), retry(Fault::Throttled));
    assert!(matches!(judge(&aws(403, "OptInRequired", "m"), 1), Verdict::Refused { .. }));
    let mut named = answer(400, r#"{"message":"The request signature we calculated is another"}"#);
    for header in [None, Some("BadRequestException".to_owned())] {
        named.error_type = header;
        let verdict = judge(&named, 1);
        assert!(matches!(verdict, Verdict::Refused { who: Refuser::Unsure, .. }), "{verdict:?}");
        assert_eq!(refusal(&named).as_deref(), Some("InvalidSignatureException"));
    }
    let forbidden = answer(403, r#"{"message":"Forbidden"}"#);
    let why = "403: Forbidden".to_owned();
    assert_eq!(judge(&forbidden, 1), Verdict::Refused { why, who: Refuser::Namespace });
}

#[test]
fn a_refusal_of_us_is_told_from_all_else() {
    let of = |status, kind, message| refusal(&error(status, kind, message));
    let some = |code: &str| Some(code.to_owned());
    assert_eq!(of(401, "UnauthorizedException", ""), some("UnauthorizedException"));
    assert_eq!(of(400, "ExpiredTokenException", ""), some("ExpiredTokenException"));
    let named = of(400, "BadRequestException", "signature mismatch");
    assert_eq!(named, some("InvalidSignatureException"));
    assert_eq!(of(400, "BadRequestException", "Input exceeded 5 event limit"), None);
    assert_eq!(of(403, "TenantBlocked", "not today"), None);
    assert_eq!(of(429, "ThrottlingException", ""), None);
    let bare = |status| refusal(&answer(status, "<html>"));
    assert_eq!((bare(401), bare(403)), (some(""), some("")));
    assert_eq!((bare(200), bare(307), bare(404), bare(500)), (None, None, None, None));
}

#[test]
fn statuses_without_a_readable_body() {
    let refused = |why, who| Verdict::Refused { why, who };
    let bad = |why, certain| Verdict::Bad { why, certain };
    for (statuses, expected) in [
        (&[429][..], &(|_| retry(Fault::Throttled)) as &dyn Fn(String) -> Verdict),
        (&[408, 425, 500, 502, 503, 504, 506, 507, 509, 512, 519, 520, 599], &|_| {
            retry(Fault::Unavailable)
        }),
        (&[0, 100, 199, 600, 999], &|_| retry(Fault::UnknownAnswer)),
        (&[400, 402, 431, 499, 501, 505], &|why| bad(why, false)),
        (&[413], &|why| bad(why, true)),
        (&[401, 403], &|why| refused(why, Refuser::Namespace)),
        (&[301, 307, 404, 407, 511], &|why| refused(why, Refuser::Api)),
    ] {
        for status in statuses {
            let mut verdict = judge(&answer(*status, "no JSON"), 1);
            if let Verdict::Refused { why, .. } | Verdict::Bad { why, .. } = &mut verdict {
                // What more is said of it is not the verdict.
                why.truncate("status 000".len());
            }
            assert_eq!(verdict, expected(format!("status {status}")), "{status}");
        }
    }
}

#[test]
fn codes_of_single_events() {
    let one = |code: &str| {
        let body =
            format!(r#"{{"failed":[{{"index":0,"code":{code},"message":"m"}}],"successful":[]}}"#);
        match judge(&answer(200, &body), 1) {
            Verdict::Decided(mut verdicts) => verdicts.remove(0),
            other => panic!("{other:?}"),
        }
    };
    for hopeless in [
        "\"EventTooLargeException\"",
        "\"EVENT_TOO_LARGE\"",
        "\"413 Payload Too Large\"",
        "\"InvalidEvent\"",
        "\"BadRequestException\"",
        "\"BAD_REQUEST\"",
        "400",
        "413",
    ] {
        assert!(matches!(one(hopeless), EventVerdict::Hopeless { .. }), "{hopeless}");
    }
    for throttled in [
        "\"ThrottlingException\"",
        "\"TOO_MANY_REQUESTS\"",
        "\"Too Many Requests\"",
        "\"LIMIT_EXCEEDED\"",
        "\"RateLimited\"",
        "\"429 slow\"",
        "429",
        "\"429\"",
    ] {
        assert!(matches!(one(throttled), EventVerdict::Throttled { .. }), "{throttled}");
    }
    for (_, kind) in QUOTA_ERRORS {
        assert!(matches!(one(&format!("\"{kind}\"")), EventVerdict::Throttled { .. }), "{kind}");
    }
    for own in [
        "\"DailyQuotaExceeded\"",
        "\"EventSizeLimitExceeded\"",
        "401",
        "403",
        "408",
        "500",
        "\"InternalFailure\"",
        "\"Unauthorized\"",
        "\"InvalidSignatureException\"",
        "\"InvalidClientTokenId\"",
        "\"Custom\"",
        "null",
    ] {
        assert!(matches!(one(own), EventVerdict::Retry { .. }), "{own}");
    }
}

#[test]
fn a_floor_and_words_have_an_end() {
    let mut answer = answer(429, "");
    answer.retry_after = Some(Duration::from_secs(u64::MAX));
    assert_eq!(
        judge(&answer, 1),
        Verdict::Retry { fault: Fault::Throttled, after: Some(LONGEST_FLOOR) }
    );
    let Verdict::HandlerRefused { why } = errors(403, "Own", &"é".repeat(5_000)) else { panic!() };
    assert_eq!(why.chars().count(), MOST_WORDS + 1);
    // As JSON spells them; what they do to a terminal is not passed on.
    for (status, kind) in [(403, "Own"), (403, "AccessDenied"), (400, "Bad\\u001b[0m")] {
        let verdict = errors(status, kind, "\\u001b[2J\\u009b1m\\u202ex\\r\\ny");
        let (Verdict::HandlerRefused { why }
        | Verdict::Refused { why, .. }
        | Verdict::Bad { why, .. }) = verdict
        else {
            panic!("{verdict:?}")
        };
        assert!(!why.contains(char::is_control) && why.contains("\\u{202e}x  y"), "{why}");
    }
    let own =
        r#"{"failed":[{"index":0,"code":"InvalidEvent","message":"\u001b[2J"}],"successful":[]}"#;
    let Verdict::Decided(verdicts) = judge(&super::tests::answer(200, own), 1) else { panic!() };
    assert_eq!(verdicts, [EventVerdict::Hopeless { why: "InvalidEvent: \\u{1b}[2J".to_owned() }]);
}

#[test]
fn the_header_names_the_kind_where_the_body_does_not() {
    let mut answer = answer(400, "");
    answer.error_type = Some("com.amazon#ExpiredTokenException:http://x/".into());
    assert!(matches!(judge(&answer, 1), Verdict::Refused { .. }));
}
