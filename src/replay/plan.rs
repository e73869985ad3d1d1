//! The decisions of the present routes on a record.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::config::broker::SourceKind;
use crate::dead_letter::record::Kept;
use crate::message::{Message, SourceName};
use crate::route::{Decision, Reason, RouteName, RouteTable};
use crate::source;

/// The `reason` of records whose route no longer exists.
const UNKNOWN_ROUTE: &str = "unknown_route";

/// The routes, all together and each alone.
#[derive(Debug)]
pub(super) struct Routes {
    whole: RouteTable,
    alone: HashMap<RouteName, RouteTable>,
    sources: HashMap<SourceName, SourceKind>,
}

/// Why no route decides on a record.
#[derive(Debug)]
pub(super) struct Undecided {
    /// The route of the record, if the configuration has none of that name.
    pub(super) unknown_route: Option<RouteName>,
    /// The kind of reason.
    pub(super) reason: &'static str,
    /// The reason in words.
    pub(super) detail: String,
}

impl Routes {
    pub(super) fn new(config: &Config) -> Self {
        let alone = |route: &crate::route::Spec| {
            (Arc::clone(&route.name), RouteTable::new([route.clone()]))
        };
        Self {
            whole: RouteTable::new(config.routes.iter().cloned()),
            alone: config.routes.iter().map(alone).collect(),
            sources: config.sources.iter().map(|s| (s.name.clone(), s.kind.clone())).collect(),
        }
    }

    /// The messages of a record. One that its source could not read then is read as the source would now: no route
    /// gets to see it as it came. None where there is nothing to publish.
    pub(super) fn messages(&self, kept: &Kept) -> Result<Vec<Message>, Undecided> {
        let message = &kept.message;
        if kept.reason != Reason::BadEnvelope.word() {
            return Ok(vec![message.clone()]);
        }
        let Some(kind) = self.sources.get(&message.source) else {
            return Err(Undecided::unopened(&message.source));
        };
        source::unwrap(kind, message).map_err(Undecided::unreadable)
    }

    /// The decision of the route that `kept` failed on, or those of the whole table if no route matched then, on
    /// one of its [messages](Self::messages).
    /// One at least. A record that names one of the channels goes to that channel only: the API has accepted
    /// the others.
    pub(super) fn plan<'r>(
        &'r self,
        message: &Message,
        kept: &Kept,
    ) -> Result<Vec<Decision<'r>>, Undecided> {
        let table = match &kept.route {
            None => &self.whole,
            Some(name) => self.alone.get(name).ok_or_else(|| Undecided::unknown(name))?,
        };
        let mut decisions: Vec<_> = table.decide(message, usize::MAX).collect();
        if decisions.is_empty() {
            return Err(Undecided::unrouted(kept.route.as_deref()));
        }
        if let (Some(_), Some(failed)) = (&kept.route, &kept.channel) {
            for rendered in decisions.iter_mut().filter_map(|d| d.outcome.as_mut().ok()) {
                if rendered.channels.iter().any(|c| c.to_string() == *failed) {
                    rendered.channels.retain(|c| c.to_string() == *failed);
                }
            }
        }
        Ok(decisions)
    }
}

impl Undecided {
    fn unknown(route: &RouteName) -> Self {
        let detail = format!("the configuration has no route `{}`", route.escape_debug());
        Self { unknown_route: Some(Arc::clone(route)), reason: UNKNOWN_ROUTE, detail }
    }

    fn unreadable(detail: String) -> Self {
        Self { unknown_route: None, reason: Reason::BadEnvelope.word(), detail }
    }

    /// It is still in its envelope, and only its source knows in which.
    fn unopened(source: &str) -> Self {
        let source = source.escape_debug();
        Self::unreadable(format!(
            "the configuration has no source `{source}`, which opens its envelope"
        ))
    }

    fn unrouted(route: Option<&str>) -> Self {
        let detail = match route {
            Some(route) => format!("route `{route}` does not take this source and topic any more"),
            None => "no route takes this topic".to_owned(),
        };
        Self { unknown_route: None, reason: Reason::Unrouted.word(), detail }
    }
}

/// The level separator of a source's topics.
pub(super) fn separators(config: &Config) -> impl Fn(&str) -> char + Send + 'static {
    let known: HashMap<_, _> =
        config.sources.iter().map(|s| (s.name.clone(), s.kind.broker().separator)).collect();
    // No route reads from a source that is not configured, so its separator does not matter.
    move |source| known.get(source).copied().unwrap_or('/')
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::message::tests::message;

    #[test]
    fn what_nobody_can_open_stays_in_its_envelope() {
        let routes =
            Routes { whole: RouteTable::new([]), alone: HashMap::new(), sources: HashMap::new() };
        let mut kept = Kept {
            message: message("{}"),
            route: None,
            channel: None,
            reason: "bad_envelope".into(),
            detail: "no SNS notification".into(),
            at: SystemTime::now(),
            first: None,
        };
        let why = routes.messages(&kept).unwrap_err();
        assert_eq!((why.reason, why.unknown_route), ("bad_envelope", None));
        assert!(why.detail.contains("no source `s`"), "{}", why.detail);
        kept.reason = "unrouted".into();
        assert_eq!(routes.messages(&kept).unwrap(), [message("{}")]);
    }
}
