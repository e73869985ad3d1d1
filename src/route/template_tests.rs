//! What renders, what is rejected, and what is a fault of the template.

use super::*;
use crate::message::{Coordinates, Message, Topic};
use crate::route::Pattern;
use crate::route::Reason;
use crate::route::decode::Document;
use bytes::Bytes;
use proptest::prelude::*;

fn message(topic: &str, payload: &str) -> Message {
    Message {
        source: "plant".into(),
        topic: Topic::new(topic, '/'),
        key: Some(b"k-1"[..].into()),
        headers: vec![
            ("tenant".into(), Bytes::from_static(b"t1")),
            ("two".into(), Bytes::new()),
            ("two".into(), Bytes::new()),
            ("bytes".into(), Bytes::from_static(b"ab\xff")),
        ],
        payload: Bytes::from(payload.to_owned()),
        order: None,
        published: None,
        expires: None,
        coordinates: Coordinates::default(),
    }
}

fn render(pattern: &str, template: &str, topic: &str, payload: &str) -> Result<String, Reason> {
    rendered(pattern, template, topic, payload).map_err(|rejection| rejection.reason)
}

fn rendered(
    pattern: &str,
    template: &str,
    topic: &str,
    payload: &str,
) -> Result<String, Rejection> {
    let pattern = Pattern::parse(pattern, '/').unwrap();
    let template = Template::channel(template, pattern.captures()).unwrap();
    let message = message(topic, payload);
    let captures = pattern.matches(&message.topic).unwrap();
    let document = Document::parse(&message.payload).unwrap();
    let context = Context { message: &message, captures: &captures, document: &document };
    template.render_channel(&context).map(|c| c.to_string())
}

#[test]
fn every_kind_of_placeholder_renders() {
    for (pattern, template, expected) in [
        ("{a}/{b}", "/ns/{b}/{a}", "/ns/y/x"),
        ("{a}/{b}", "ns/v-{a}", "/ns/v-x"),
        ("{rest..}", "/ns/{rest..}/end", "/ns/x/y/end"),
        ("*/*", "/ns/{topic..}", "/ns/x/y"),
        ("{topic..}", "/ns/{topic..}", "/ns/x/y"),
        ("x/{topic}", "/ns/{topic}", "/ns/y"),
        ("x/{topic}", "/ns/{topic..}", "/ns/x/y"),
        ("*/*", "/ns/{key}", "/ns/k-1"),
        ("*/*", "/ns/{header.tenant}", "/ns/t1"),
        ("*/*", "/ns/{json.a.b}", "/ns/deep"),
        ("*/*", "/ns/{json.n}", "/ns/7"),
        ("*/*", "/ns/fixed", "/ns/fixed"),
    ] {
        let payload = r#"{"n":7,"a":{"b":"deep"}}"#;
        assert_eq!(render(pattern, template, "x/y", payload), Ok(expected.into()), "{template}");
    }
}

#[test]
fn what_does_not_fit_is_rejected_with_its_reason() {
    for (template, payload, reason) in [
        ("/ns/{json.v}", r#"{"v":"../x"}"#, Reason::BadChannelSegment),
        ("/ns/{json.v}", r#"{"v":"a/b"}"#, Reason::BadChannelSegment),
        ("/ns/{json.v}", r#"{"v":"*"}"#, Reason::BadChannelSegment),
        ("/ns/{json.v}", r#"{"v":"x%2Fy"}"#, Reason::BadChannelSegment),
        ("/ns/{json.v}", r#"{"v":"a\nb"}"#, Reason::BadChannelSegment),
        ("/ns/{json.v}", "{\"v\":\"\u{430}\"}", Reason::BadChannelSegment),
        ("/ns/{json.v}", r#"{"v":"-a"}"#, Reason::BadChannelSegment),
        ("/ns/{json.v}", r#"{"v":1.5}"#, Reason::BadChannelSegment),
        ("/ns/{json.v}", r#"{"v":""}"#, Reason::NoRouteValue),
        ("/ns/{json.v}", r#"{"v":null}"#, Reason::NoRouteValue),
        ("/ns/{json.v}", r#"{"v":{}}"#, Reason::NoRouteValue),
        ("/ns/{json.v}", r"{}", Reason::NoRouteValue),
        ("/ns/{json.v}", r"[]", Reason::NoRouteValue),
        ("/ns/{json.v}", r#"{"v":"a","v":"a"}"#, Reason::DuplicateKey),
        ("/ns/{header.none}", "{}", Reason::NoRouteValue),
        ("/ns/{header.two}", "{}", Reason::DuplicateKey),
        ("/ns/a/b/{topic..}", "{}", Reason::BadChannelSegment),
    ] {
        assert_eq!(
            render("*/*/*", template, "x/y/z", payload),
            Err(reason),
            "{template} {payload}"
        );
    }
}

#[test]
fn a_header_that_is_no_text_is_called_so() {
    let rejection = rendered("*", "/ns/{header.bytes}", "x", "{}").unwrap_err();
    assert_eq!(rejection.reason, Reason::NoRouteValue);
    assert_eq!(rejection.detail, "the header `bytes` is not UTF-8 at byte 2");
}

#[test]
fn faults_point_at_the_place() {
    let captures =
        [Capture { name: "a".into(), many: false }, Capture { name: "r".into(), many: true }];
    for (template, span) in [
        ("/a/{json.id", 3..4),
        ("/{json.tenant}/x", 1..14),
        ("{a}/x", 0..3),
        ("/n-{a}/x", 3..6),
        ("/a/b/c/d/e/f", 11..12),
        ("/ns/a_b", 4..7),
        ("/ns/a_{a}", 4..6),
        ("/ns//b", 4..4),
        ("/ns/{b}", 4..7),
        ("/ns/{a..}", 4..9),
        ("/ns/{r}", 4..7),
        ("/ns/x{r..}", 5..10),
        ("/ns/{topic}", 4..11),
        ("/ns/{a|slug}", 4..12),
        ("/ns/{json.}", 4..11),
        ("/ns/a}", 5..6),
        // None of these could ever fit.
        ("/ns/-{a}", 4..5),
        ("/ns/x-{a}-", 9..10),
        ("/ns/a2345678901234567890123456789012345678901234567890-{a}", 4..58),
        ("", 0..0),
    ] {
        assert_eq!(Template::channel(template, &captures).unwrap_err().span, span, "{template}");
    }
}

#[test]
fn the_whole_topic_is_not_taken_for_a_part_of_it() {
    for pattern in ["x/{topic..}", "{first}/{topic..}"] {
        let pattern = Pattern::parse(pattern, '/').unwrap();
        for template in ["/ns/{topic..}", "/ns/{topic}"] {
            let fault = Template::channel(template, pattern.captures()).unwrap_err();
            assert!(fault.problem.contains("`{topic..}` is the whole topic"), "{}", fault.problem);
        }
        assert!(Template::channel("/ns/all", pattern.captures()).is_ok());
    }
}

proptest! {
    /// Whatever a producer writes, a channel that comes out lies under the prefix, one segment deeper.
    #[test]
    fn values_are_confined(value in any::<String>()) {
        let payload = serde_json::json!({ "v": value }).to_string();
        if let Ok(channel) = render("*", "/ns/pre/{json.v}/end", "x", &payload) {
            prop_assert_eq!(channel, format!("/ns/pre/{value}/end"));
            prop_assert!(Segment::parse(&value).is_ok());
        }
    }

    #[test]
    fn parsing_never_panics(text in any::<String>()) {
        let _ = Template::channel(&text, &[]);
        let _ = Template::free_text(&text, &[]);
    }
}
