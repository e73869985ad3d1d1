//! The answers of the service, as a client reads them.
//!
//! What counts of an answer is which events it took: whatever else stands there, in whatever form, can't make one
//! unreadable, for that would send again what was accepted. JSON allows more than most readers take: half of a surrogate
//! pair, numbers without a bound, any depth. A list or an index that stands twice is left unread, for two readers may
//! disagree on which of the two counts.

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor,
};
use serde_json::value::RawValue;

use super::wire::{AcceptedEvent, ErrorAnswer, ErrorItem, FailedEvent, PublishAnswer};

impl PublishAnswer {
    /// Reads an answer; `None` for anything that has neither list, so that `{}` is never a success.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let Lists { failed, successful } = serde_json::from_str(&text(body)).ok()?;
        if failed.is_none() && successful.is_none() {
            return None;
        }
        let failed = failed.unwrap_or_default().into_iter().map(|item| FailedEvent {
            code: item.code,
            identifier: String::new(),
            index: item.index,
            message: item.message,
        });
        let successful = successful.unwrap_or_default().into_iter();
        let successful = successful
            .map(|item| AcceptedEvent { identifier: String::new(), index: item.index })
            .collect();
        Some(Self { failed: failed.collect(), successful })
    }
}

impl ErrorAnswer {
    /// Reads the body of an error; `None` for anything that names none. Whatever form an error has, it is
    /// one: to pass it over would be to take its events for accepted.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let text = text(body);
        let [errors] = members(&text, ["errors"])?;
        let errors = errors.filter(|errors| errors.get() != "null")?;
        let errors = serde_json::from_str(errors.get()).unwrap_or_else(|_| vec![errors]);
        let errors: Vec<ErrorItem> = errors.into_iter().map(error_item).collect();
        (!errors.is_empty()).then_some(Self { errors })
    }
}

impl ErrorItem {
    /// Reads the body of an error in the form that services of AWS have in common, `{"__type":…,"message":…}`: what stands
    /// before the Event API may answer so. `None` for any other.
    #[must_use]
    pub fn of_aws(body: &[u8]) -> Option<Self> {
        let text = text(body);
        let [kind, code, message, capital] =
            members(&text, ["__type", "code", "message", "Message"])?;
        let kind = words(kind).or_else(|| words(code));
        // A name of the service may stand before it.
        let kind = kind.map(|kind| kind.rsplit('#').next().unwrap_or_default().to_owned());
        let message = words(message).or_else(|| words(capital));
        let item = Self {
            error_type: kind.map(Cow::from),
            error_code: None,
            message: message.map(Cow::from),
        };
        (item != Self::default()).then_some(item)
    }
}

/// A body as text. What is not UTF-8 can only be somebody's words.
fn text(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body))
}

/// The lists of an answer. A struct that is derived could also be read from an array, by position.
struct Lists {
    failed: Option<Vec<Item>>,
    successful: Option<Vec<Item>>,
}

/// One event of a list.
struct Item {
    index: usize,
    code: String,
    message: String,
}

impl<'de> Deserialize<'de> for Lists {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Lists;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Lists, A::Error> {
                let (mut failed, mut successful) = (None, None);
                while let Some(name) = map.next_key_seed(Among(["failed", "successful"]))? {
                    let list = match name {
                        Some(0) => &mut failed,
                        Some(_) => &mut successful,
                        None => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if list.replace(map.next_value()?).is_some() {
                        return Err(A::Error::custom("a list twice"));
                    }
                }
                Ok(Lists { failed: failed.flatten(), successful: successful.flatten() })
            }
        }
        deserializer.deserialize_map(Read)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
                let names = ["index", "code", "errorCode", "message"];
                let mut found = [None; 4];
                while let Some(name) = map.next_key_seed(Among(names))? {
                    let value: &RawValue = map.next_value()?;
                    match name {
                        Some(0) if found[0].is_some() => {
                            return Err(A::Error::custom("an index twice"));
                        }
                        Some(name) => found[name] = Some(value),
                        None => {}
                    }
                }
                let [index, code, error_code, message] = found;
                Ok(Item {
                    index: index.and_then(number).ok_or_else(|| A::Error::custom("no index"))?,
                    code: words(code).or_else(|| words(error_code)).unwrap_or_default(),
                    message: words(message).unwrap_or_default(),
                })
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// An index: a whole number, which a server of another make may write as a text, or with a point.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it is small and not negative
fn number(raw: &RawValue) -> Option<usize> {
    let digits = raw.get().trim_matches('"');
    let whole = || {
        let number: f64 = digits.parse().ok()?;
        (number.fract() == 0.0 && (0.0..1_000.0).contains(&number)).then_some(number as usize)
    };
    digits.parse().ok().or_else(whole)
}

fn error_item(raw: &RawValue) -> ErrorItem {
    let Some([kind, code, message]) = members(raw.get(), ["errorType", "errorCode", "message"])
    else {
        return ErrorItem { message: words(Some(raw)).map(Cow::from), ..ErrorItem::default() };
    };
    ErrorItem {
        error_type: words(kind).map(Cow::from),
        error_code: words(code).and_then(|code| code.parse().ok()),
        message: words(message).map(Cow::from),
    }
}

/// A text as it is, nothing as nothing, anything else as it stands there.
fn words(raw: Option<&RawValue>) -> Option<String> {
    let raw = raw?.get();
    let words = match raw.as_bytes().first() {
        Some(b'n') => return None,
        Some(b'"') => serde_json::Deserializer::from_str(raw).deserialize_bytes(Lossy).ok()?,
        _ => raw.to_owned(),
    };
    Some(words).filter(|words| !words.is_empty())
}

/// The members of an object that have these names; of those that stand twice, the last. `None` for what is no object.
fn members<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Option<[Option<&'a RawValue>; N]> {
    struct Read<'n, const N: usize>([&'n str; N]);
    impl<'de, const N: usize> Visitor<'de> for Read<'_, N> {
        type Value = [Option<&'de RawValue>; N];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = [None; N];
            while let Some(name) = map.next_key_seed(Among(self.0))? {
                let value = map.next_value()?;
                if let Some(name) = name {
                    found[name] = Some(value);
                }
            }
            Ok(found)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let found = reader.deserialize_map(Read(names)).ok()?;
    reader.end().ok()?;
    Some(found)
}

/// Which of these names a key is. Compared as bytes: half of a surrogate pair has some, and is no text.
struct Among<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Among<'_, N> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Option<usize>, D::Error> {
        key.deserialize_bytes(self)
    }
}

impl<const N: usize> Visitor<'_> for Among<'_, N> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|name| name.as_bytes() == key))
    }
}

/// A string, with a mark for each half of a surrogate pair.
struct Lossy;

impl Visitor<'_> for Lossy {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E>(self, text: &[u8]) -> Result<String, E> {
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literal_answers_of_the_service_are_read() {
        let success = r#"{"failed":[],"successful":[{"identifier":"53287bee-ae0d-42e7-8a90-e9d2a49e4bd7","index":0}]}"#;
        let answer = PublishAnswer::parse(success.as_bytes()).unwrap();
        assert_eq!(answer.successful[0].index, 0);
        assert!(answer.failed.is_empty());

        let failed = r#"{"failed":[{"code":"EventTooLargeException","identifier":"x","index":0,"message":"Transformed event is larger than 240KB"}],"successful":[]}"#;
        let answer = PublishAnswer::parse(failed.as_bytes()).unwrap();
        assert_eq!(answer.failed[0].code, "EventTooLargeException");

        let number = r#"{"failed":[{"code":401,"identifier":"x","index":2,"message":null}]}"#;
        let answer = PublishAnswer::parse(number.as_bytes()).unwrap();
        assert_eq!((answer.failed[0].code.as_str(), answer.failed[0].index), ("401", 2));

        let bare = br#"{"successful":[{"index":0}],"failed":[{"index":1,"identifier":null,"code":null,"errorCode":429,"message":{"a":1}}]}"#;
        let answer = PublishAnswer::parse(bare).unwrap();
        assert_eq!(answer.successful[0].index, 0);
        assert_eq!(
            (answer.failed[0].code.as_str(), answer.failed[0].message.as_str()),
            ("429", r#"{"a":1}"#)
        );

        let errors = r#"{"errors":[{"errorType":"UnauthorizedException","message":"You are not authorized to make this call."}]}"#;
        let answer = ErrorAnswer::parse(errors.as_bytes()).unwrap();
        assert_eq!(answer.errors[0].error_type.as_deref(), Some("UnauthorizedException"));
    }

    /// Half of a surrogate pair, a number without a bound, any depth, no UTF-8, a repeated member, a BOM.
    #[test]
    fn whatever_json_allows_beside_what_counts_is_read() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        for odd in [r#""\ud83d""#, "1e999", &deep, r#"{"\ud83d":"\ud83d"}"#] {
            let body = format!(
                r#"{{"\ud83d":1,"debug":{odd},"failed":[{{"index":1,"identifier":{odd},"code":"X","message":{odd},"message":"m"}}],"successful":[{{"index":0,"identifier":{odd}}}],"errors":{odd}}}"#
            );
            let answer = PublishAnswer::parse(body.as_bytes()).unwrap();
            assert_eq!((answer.successful[0].index, answer.failed[0].index), (0, 1), "{odd}");
            assert_eq!((&*answer.failed[0].code, &*answer.failed[0].message), ("X", "m"));
            assert!(ErrorAnswer::parse(body.as_bytes()).is_some(), "{odd}");
        }
        let bytes = b"\xef\xbb\xbf{\"failed\":[{\"index\":0,\"message\":\"\xe9\"}],\"errors\":[{\"message\":\"\xe9\"}]}";
        assert_eq!(PublishAnswer::parse(bytes).unwrap().failed[0].message, "\u{fffd}");
        let message = ErrorAnswer::parse(bytes).unwrap().errors.remove(0).message;
        assert_eq!(message.as_deref(), Some("\u{fffd}"));
        let half = br#"{"errors":[{"errorType":"X","message":"no \ud83d"}]}"#;
        let error = ErrorAnswer::parse(half).unwrap().errors.remove(0);
        assert_eq!(error.error_type.as_deref(), Some("X"));
        assert!(error.message.unwrap().starts_with("no \u{fffd}"));
    }

    #[test]
    fn an_index_is_a_whole_number_in_whatever_form() {
        for (index, expected) in [
            ("3", Some(3)),
            ("\"3\"", Some(3)),
            ("3.0", Some(3)),
            ("-1", None),
            ("-0.5", None),
            ("1.5", None),
            ("1e999", None),
            ("\"\"", None),
            ("\"inf\"", None),
            ("null", None),
            ("[0]", None),
        ] {
            let body = format!(r#"{{"successful":[{{"index":{index}}}]}}"#);
            let read = PublishAnswer::parse(body.as_bytes()).map(|it| it.successful[0].index);
            assert_eq!(read, expected, "{index}");
        }
    }

    #[test]
    fn what_names_nothing_by_name_or_two_things_by_one_is_no_answer() {
        for body in [
            "{}",
            "[]",
            "[[],[]]",
            "[null,[]]",
            "<html>",
            r#"{"failed":null,"successful":null}"#,
            r#"{"successful":[[0],[1]]}"#,
            r#"{"successful":[{}]}"#,
            r#"{"successful":{"index":0}}"#,
            r#"{"successful":[{"index":0,"index":1}]}"#,
            r#"{"successful":[{"index":0}],"successful":[]}"#,
            r#"{"failed":[{"index":0}],"failed":[],"successful":[]}"#,
            r#"{"successful":[]} {}"#,
        ] {
            assert_eq!(PublishAnswer::parse(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn an_error_is_one_in_whatever_form() {
        let errors = |errors: &str| {
            let answer = ErrorAnswer::parse(format!(r#"{{"errors":{errors}}}"#).as_bytes());
            answer.map(|answer| {
                answer.errors.into_iter().map(|e| (e.error_type, e.message)).collect()
            })
        };
        let some = |text: &'static str| Some(Cow::from(text));
        for (text, expected) in [
            (r#"[{"errorType":7}]"#, Some(vec![(some("7"), None)])),
            (r#"["a","b"]"#, Some(vec![(None, some("a")), (None, some("b"))])),
            (r#"{"message":"m"}"#, Some(vec![(None, some("m"))])),
            (r#""m""#, Some(vec![(None, some("m"))])),
            ("[null]", Some(vec![(None, None)])),
            ("[]", None),
            ("null", None),
        ] {
            assert_eq!(errors(text), expected, "{text}");
        }
        let twice = br#"{"errors":[],"errors":[{"message":"m"}]}"#;
        assert_eq!(ErrorAnswer::parse(twice).unwrap().errors.len(), 1);
        let aws = |body: &str| {
            ErrorItem::of_aws(body.as_bytes()).map(|error| (error.error_type, error.message))
        };
        let expired = aws(r#"{"__type":"com.amazon#ExpiredTokenException","message":"m"}"#);
        assert_eq!(expired, Some((some("ExpiredTokenException"), some("m"))));
        assert_eq!(aws(r#"{"Message":"Forbidden"}"#), Some((None, some("Forbidden"))));
        assert_eq!((aws("{}"), aws("<html>")), (None, None));
    }
}
