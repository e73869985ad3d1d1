//! The decisions of the present routes on a record.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::dead_letter::record::Kept;
use crate::route::{Decision, RouteName, RouteTable};

/// The routes, all together and each alone.
#[derive(Debug)]
pub(super) struct Routes {
    whole: RouteTable,
    alone: HashMap<RouteName, RouteTable>,
}

/// The configuration has no such route.
#[derive(Debug)]
pub(super) struct Unknown(pub(super) Arc<str>);

impl Routes {
    pub(super) fn new(config: &Config) -> Self {
        let alone = |route: &crate::route::Spec| {
            (Arc::clone(&route.name), RouteTable::new([route.clone()]))
        };
        Self {
            whole: RouteTable::new(config.routes.iter().cloned()),
            alone: config.routes.iter().map(alone).collect(),
        }
    }

    /// The decision of the route that `kept` failed on, or those of the whole table if no route matched then.
    /// None at all: no route matches now. A record that names one of the channels goes to that channel only:
    /// the API has accepted the others.
    pub(super) fn plan(&self, kept: &Kept) -> Result<Vec<Decision<'_>>, Unknown> {
        let table = match &kept.route {
            None => &self.whole,
            Some(name) => self.alone.get(name).ok_or_else(|| Unknown(Arc::clone(name)))?,
        };
        let mut decisions: Vec<_> = table.decide(&kept.message, usize::MAX).collect();
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

/// The level separator of a source's topics.
pub(super) fn separators(config: &Config) -> impl Fn(&str) -> char + Send + 'static {
    let known: HashMap<_, _> =
        config.sources.iter().map(|s| (s.name.clone(), s.kind.broker().separator)).collect();
    // No route reads from a source that is not configured, so its separator does not matter.
    move |source| known.get(source).copied().unwrap_or('/')
}
