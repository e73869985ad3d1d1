//! Templates: a channel, or a free text, with placeholders.
//!
//! A channel template begins with a literal namespace, and a placeholder renders exactly one segment
//! (`{name..}` may render several): what a producer writes into a message can't leave the prefix the
//! operator wrote. A value that does not fit is a rejection, never cleaned up, because a cleaned-up
//! guess can be another tenant's channel.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use super::decode::Document;
use super::{Capture, Fault, Reason, Rejection};
use crate::event_api::{Channel, ChannelError, MAX_SEGMENT_CHARS, MAX_SEGMENTS, Segment};
use crate::message::Message;

/// A checked template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Value(Value),
}

/// Where a placeholder's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
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

impl Template {
    /// Parses a channel template that may use `captures`.
    pub fn channel(text: &str, captures: &[Capture]) -> Result<Self, Fault> {
        let inner = text.strip_prefix('/').unwrap_or(text);
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        let offset = usize::from(text.starts_with('/'));
        let mut pieces = Vec::new();
        for (count, (start, segment)) in split_segments(inner).enumerate() {
            let span = offset + start..offset + start + segment.len();
            if count == MAX_SEGMENTS {
                return Err(Fault::new(
                    span,
                    "a channel has at most five segments",
                    "join segments with `-`, or leave one out",
                ));
            }
            if count > 0 {
                push_literal(&mut pieces, "/");
            }
            let parsed = parse(segment, span.start, captures)?;
            check_segment(&parsed, count == 0, &span)?;
            for (piece, _) in parsed {
                match piece {
                    Piece::Literal(text) => push_literal(&mut pieces, &text),
                    Piece::Value(Value::Topic) if segment != "{topic..}" => {
                        return Err(Fault::new(
                            span,
                            "`{topic}` may have several levels",
                            "write `{topic..}`: each level becomes a segment",
                        ));
                    }
                    value @ Piece::Value(_) => pieces.push(value),
                }
            }
        }
        Ok(Self { text: text.to_owned(), pieces })
    }

    /// Parses a template of any text.
    pub fn free_text(text: &str, captures: &[Capture]) -> Result<Self, Fault> {
        let pieces = parse(text, 0, captures)?;
        let pieces = pieces.into_iter().map(|(piece, _)| piece).collect();
        Ok(Self { text: text.to_owned(), pieces })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The namespace of its channels, which is literal.
    pub fn namespace(&self) -> &str {
        self.text.trim_start_matches('/').split('/').next().unwrap_or_default()
    }

    /// Whether it needs the key of a message.
    pub fn names_key(&self) -> bool {
        self.pieces.contains(&Piece::Value(Value::Key))
    }

    /// Whether it renders the same for all messages.
    pub fn is_literal(&self) -> bool {
        self.pieces.iter().all(|piece| matches!(piece, Piece::Literal(_)))
    }

    /// The first segment of a channel that has several placeholders: `{a}-{b}` of `x-y` and `z` is that of `x` and `y-z`.
    pub fn shared_segment(&self) -> Option<Range<usize>> {
        let mut segments = split_segments(&self.text);
        let shared = segments.find(|(_, segment)| segment.matches('{').count() > 1);
        shared.map(|(at, segment)| at..at + segment.len())
    }

    /// Renders a channel.
    pub fn render_channel(&self, context: &Context<'_>) -> Result<Channel, Rejection> {
        // Room for most; with its slash it becomes the channel as it is.
        let mut text = String::with_capacity(64);
        text.push('/');
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Value(value) => value.render_segments(context, &mut text)?,
            }
        }
        Channel::parse(&text).map_err(|e| bad_segment(&text, &e))
    }

    /// Renders a free text.
    pub fn render_text(&self, context: &Context<'_>) -> Result<String, Rejection> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Value(value) => text.push_str(&value.lookup(context)?),
            }
        }
        Ok(text)
    }
}

impl Value {
    /// Appends one segment, or for captures of several levels a segment a level.
    fn render_segments(&self, context: &Context<'_>, text: &mut String) -> Result<(), Rejection> {
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

    fn lookup<'c>(&self, context: &Context<'c>) -> Result<Cow<'c, str>, Rejection> {
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

/// Splits at the slashes outside of placeholders, with the byte offset of each part.
fn split_segments(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut depth = 0_u32;
    let mut start = 0;
    text.split(move |c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == '/' && depth == 0
    })
    .map(move |part| {
        let at = start;
        start += part.len() + 1;
        (at, part)
    })
}

/// The pieces of `text` with their spans; `offset` is the place of `text` in the operator's setting.
fn parse(
    text: &str,
    offset: usize,
    captures: &[Capture],
) -> Result<Vec<(Piece, Range<usize>)>, Fault> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let at = offset + text.len() - rest.len() + open;
        if rest.as_bytes()[open] == b'}' {
            return Err(Fault::new(at..at + 1, "`}` without a `{` before it", "write `{name}`"));
        }
        let Some(close) = rest[open..].find('}').map(|c| open + c) else {
            return Err(Fault::new(at..at + 1, "the placeholder is never closed", "add a `}`"));
        };
        if open > 0 {
            pieces.push((Piece::Literal(rest[..open].to_owned()), at - open..at));
        }
        let span = at..at + close + 1 - open;
        let value = parse_placeholder(&rest[open + 1..close], &span, captures)?;
        pieces.push((Piece::Value(value), span));
        rest = &rest[close + 1..];
    }
    if !rest.is_empty() {
        let end = offset + text.len();
        pieces.push((Piece::Literal(rest.to_owned()), end - rest.len()..end));
    }
    Ok(pieces)
}

fn parse_placeholder(
    inner: &str,
    span: &Range<usize>,
    captures: &[Capture],
) -> Result<Value, Fault> {
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
            return Ok(Value::Topic);
        }
        if captured.many != many {
            let problem = "the pattern captures this name in another form";
            let fault = Fault::new(span.clone(), problem, format!("write `{captured}`"));
            let hint = "write it as `topic` does: `{name}`, or `{name..}` for all remaining levels";
            return Err(fault.or_plain(problem, hint));
        }
        return Ok(Value::Capture { index, many });
    }
    if name == "topic" {
        return Ok(Value::Topic);
    }
    if name == "key" && !many {
        return Ok(Value::Key);
    }
    if let Some(header) = inner.strip_prefix("header.").filter(|h| !h.is_empty()) {
        return Ok(Value::Header(header.to_owned()));
    }
    if let Some(path) = inner.strip_prefix("json.") {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().all(|p| !p.is_empty()) {
            return Ok(Value::Json(path));
        }
        return Err(Fault::new(
            span.clone(),
            "a field name in the path is empty",
            "write `{json.path.to.field}`",
        ));
    }
    let mut known: Vec<String> = captures.iter().map(|capture| format!("`{capture}`")).collect();
    known.extend(["{topic..}", "{key}", "{header.NAME}", "{json.path}"].map(|w| format!("`{w}`")));
    let hint = format!("there are {}; a `topic` pattern can capture more", known.join(", "));
    let fault = Fault::new(span.clone(), format!("nothing is called `{inner}`"), hint);
    let hint =
        "there are `{topic..}`, `{key}`, `{header.NAME}`, `{json.path}`, and what `topic` captures";
    Err(fault.or_plain("a placeholder names nothing that there is", hint))
}

/// Checks a segment as far as possible without a message: literal text follows the grammar, and the
/// namespace is literal.
fn check_segment(
    pieces: &[(Piece, Range<usize>)],
    first: bool,
    span: &Range<usize>,
) -> Result<(), Fault> {
    if let [(Piece::Literal(text), _)] = pieces {
        return Segment::parse(text).map(|_| ()).map_err(|e| {
            Fault::new(
                span.clone(),
                e.to_string(),
                "see the channel grammar: `/namespace/segment`, five at most",
            )
        });
    }
    if pieces.is_empty() {
        return Err(Fault::new(span.clone(), "a segment is empty", "write `/namespace/segment`"));
    }
    for (number, (piece, at)) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(text)
                if (number == 0 && text.starts_with('-'))
                    || (number + 1 == pieces.len() && text.ends_with('-')) =>
            {
                return Err(Fault::new(
                    at.clone(),
                    ChannelError::BadEdge.to_string(),
                    "leave the `-` at the edge out, or put a letter there",
                ));
            }
            Piece::Value(_) if first => {
                return Err(Fault::new(
                    at.clone(),
                    "no literal namespace before the first placeholder",
                    "begin with a namespace of the API: `/orders/…`",
                ));
            }
            Piece::Value(Value::Topic | Value::Capture { many: true, .. }) if pieces.len() > 1 => {
                return Err(Fault::new(
                    at.clone(),
                    "a placeholder of several segments stands alone",
                    "put a `/` around it",
                ));
            }
            Piece::Literal(text)
                if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') =>
            {
                return Err(Fault::new(
                    at.clone(),
                    ChannelError::BadCharacter.to_string(),
                    "leave the other characters out",
                ));
            }
            _ => {}
        }
    }
    // Each value has a character at least.
    let least = |(piece, _): &(Piece, Range<usize>)| match piece {
        Piece::Literal(text) => text.len(),
        Piece::Value(_) => 1,
    };
    if pieces.iter().map(least).sum::<usize>() > MAX_SEGMENT_CHARS {
        return Err(Fault::new(span.clone(), ChannelError::TooLong.to_string(), "shorten it"));
    }
    Ok(())
}

fn push_literal(pieces: &mut Vec<Piece>, text: &str) {
    if let Some(Piece::Literal(last)) = pieces.last_mut() {
        last.push_str(text);
    } else {
        pieces.push(Piece::Literal(text.to_owned()));
    }
}

/// The value comes from a producer: escaped and cut, so that it can't forge a line of a log.
fn bad_segment(value: &str, error: &ChannelError) -> Rejection {
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

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
