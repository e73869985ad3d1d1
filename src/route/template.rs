//! Templates: a channel, or a free text, with placeholders.
//!
//! A channel template begins with a literal namespace, and a placeholder renders exactly one segment
//! (`{name..}` may render several): what a producer writes into a message can't leave the prefix the
//! operator wrote. A value that does not fit is a rejection, never cleaned up, because a cleaned-up
//! guess can be another tenant's channel.

use std::ops::Range;

use super::placeholder::{Context, Value, bad_segment};
use super::{Capture, Fault, Rejection};
use crate::event_api::{Channel, ChannelError, MAX_SEGMENT_CHARS, MAX_SEGMENTS, Segment};

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
        let value = Value::parse(&rest[open + 1..close], &span, captures)?;
        pieces.push((Piece::Value(value), span));
        rest = &rest[close + 1..];
    }
    if !rest.is_empty() {
        let end = offset + text.len();
        pieces.push((Piece::Literal(rest.to_owned()), end - rest.len()..end));
    }
    Ok(pieces)
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

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
