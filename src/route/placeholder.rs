//! Placeholders of templates: `{name}`, `{topic..}`, `{key}`, `{header.NAME}`, `{json.path}`, and the values that they stand for.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use super::decode::Document;
use super::{Capture, Fault, Reason, Rejection};
use crate::event_api::{ChannelError, Segment};
use crate::message::Message;

/// Where a placeholder's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `{name}` or `{name..}`: the n-th capture of the route's pattern.
    Capture { index: usize, many: bool },
    /// `{topic..}`, in a free text also `{topic}`.
    Topic,
    /// `{key}`
    Key,
    /// `{header.NAME}`
    Header(String),
    /// `{json.path.to.field}`
    Json(Vec<String>),
}

/// The input of a template.
pub struct Context<'a> {
    /// The message.
    pub message: &'a Message,
    /// The values of the pattern's captures, in order.
    pub captures: &'a [&'a str],
    /// The decoded payload.
    pub document: &'a Document<'a>,
}

impl Value {
    /// What stands in the braces at `span`.
    pub(super) fn parse(
        inner: &str,
        span: &Range<usize>,
        captures: &[Capture],
    ) -> Result<Self, Fault> {
        if inner.contains('|') {
            return Err(Fault::new(
                span.clone(),
                "filters such as `|slug` are not in this version",
                "take a value that fits as it is",
            ));
        }
        let (name, many) = match inner.strip_suffix("..") {
            Some(name) => (name, true),
            None => (inner, false),
        };
        if let Some(index) = captures.iter().position(|c| c.name == name) {
            let captured = &captures[index];
            if name == "topic" && captured.many {
                return Err(Fault::new(
                    span.clone(),
                    "`{topic..}` is the whole topic, and the pattern captures a part of it by this name",
                    "give the capture another name: `{rest..}`",
                ));
            }
            if name == "topic" && many {
                return Ok(Self::Topic);
            }
            if captured.many != many {
                let problem = "the pattern captures this name in another form";
                let fault = Fault::new(span.clone(), problem, format!("write `{captured}`"));
                let hint =
                    "write it as `topic` does: `{name}`, or `{name..}` for all remaining levels";
                return Err(fault.or_plain(problem, hint));
            }
            return Ok(Self::Capture { index, many });
        }
        if name == "topic" {
            return Ok(Self::Topic);
        }
        if name == "key" && !many {
            return Ok(Self::Key);
        }
        if let Some(header) = inner.strip_prefix("header.").filter(|h| !h.is_empty()) {
            return Ok(Self::Header(header.to_owned()));
        }
        if let Some(path) = inner.strip_prefix("json.") {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            if path.iter().all(|p| !p.is_empty()) {
                return Ok(Self::Json(path));
            }
            return Err(Fault::new(
                span.clone(),
                "a field name in the path is empty",
                "write `{json.path.to.field}`",
            ));
        }
        let mut known: Vec<String> =
            captures.iter().map(|capture| format!("`{capture}`")).collect();
        known.extend(
            ["{topic..}", "{key}", "{header.NAME}", "{json.path}"].map(|w| format!("`{w}`")),
        );
        let hint = format!("there are {}; a `topic` pattern can capture more", known.join(", "));
        let fault = Fault::new(span.clone(), format!("nothing is called `{inner}`"), hint);
        let hint = "there are `{topic..}`, `{key}`, `{header.NAME}`, `{json.path}`, and what `topic` captures";
        Err(fault.or_plain("a placeholder names nothing that there is", hint))
    }

    /// Appends one segment, or for captures of several levels a segment a level.
    pub(super) fn render_segments(
        &self,
        context: &Context<'_>,
        text: &mut String,
    ) -> Result<(), Rejection> {
        let value = self.lookup(context)?;
        let separator = match self {
            Self::Topic | Self::Capture { many: true, .. } => context.message.topic.separator(),
            // No separator: a value with a `/` in it is one bad segment, not two good ones.
            _ => {
                Segment::parse(&value).map_err(|e| bad_segment(&value, &e))?;
                text.push_str(&value);
                return Ok(());
            }
        };
        for (index, level) in value.split(separator).enumerate() {
            Segment::parse(level).map_err(|e| bad_segment(level, &e))?;
            if index > 0 {
                text.push('/');
            }
            text.push_str(level);
        }
        Ok(())
    }

    pub(super) fn lookup<'c>(&self, context: &Context<'c>) -> Result<Cow<'c, str>, Rejection> {
        let missing =
            |what: &str| Rejection::new(Reason::NoRouteValue, format!("the message has no {what}"));
        match self {
            Self::Capture { index, .. } => context
                .captures
                .get(*index)
                .map(|v| Cow::Borrowed(*v))
                .ok_or_else(|| missing("capture")),
            Self::Topic => Ok(Cow::Borrowed(context.message.topic.as_str())),
            Self::Key => {
                let key = context.message.key.as_deref().ok_or_else(|| missing("key"))?;
                text(key, || "key".to_owned())
            }
            Self::Header(name) => {
                let mut headers = context.message.headers.iter().filter(|(n, _)| n == name);
                match (headers.next(), headers.next()) {
                    (Some((_, value)), None) => text(value, || format!("header `{name}`")),
                    (None, _) => Err(missing(&format!("header `{name}`"))),
                    (Some(_), Some(_)) => Err(Rejection::new(
                        Reason::DuplicateKey,
                        format!("the header `{name}` comes twice"),
                    )),
                }
            }
            Self::Json(path) => context.document.field(path),
        }
    }
}

fn text(bytes: &[u8], what: impl FnOnce() -> String) -> Result<Cow<'_, str>, Rejection> {
    let no_text = |error: std::str::Utf8Error| {
        let detail = format!("the {} is not UTF-8 at byte {}", what(), error.valid_up_to());
        Rejection::new(Reason::NoRouteValue, detail)
    };
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(no_text)
}

/// The value comes from a producer: escaped and cut, so that it can't forge a line of a log.
pub(super) fn bad_segment(value: &str, error: &ChannelError) -> Rejection {
    let mut shown = String::new();
    for c in value.chars() {
        if shown.len() >= 64 {
            shown.push('…');
            break;
        }
        if c.is_ascii_graphic() || c == ' ' {
            shown.push(c);
        } else {
            let _ = write!(shown, "{}", c.escape_unicode());
        }
    }
    Rejection::new(Reason::BadChannelSegment, format!("`{shown}` does not fit: {error}"))
}
