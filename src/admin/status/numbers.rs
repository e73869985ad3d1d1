//! The numbers of the parts that are shown, with what the configuration says of each.

use std::time::Instant;

use super::history::{OfRoute, OfSource, Places, Reading};
use crate::admin::facts::{ApiFacts, DeadLetterFacts, Facts, RouteFacts, SourceFacts};
use crate::metrics::{ApiMetrics, DeadLetterMetrics, Metrics, RouteMetrics, SourceMetrics};

/// Handles of the counters and gauges; nothing is copied before it is read.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) metrics: Metrics,
    pub(super) sources: Vec<(SourceFacts, SourceMetrics)>,
    pub(super) routes: Vec<(RouteFacts, RouteMetrics)>,
    pub(super) apis: Vec<(ApiFacts, ApiMetrics)>,
    pub(super) dead_letters: Vec<(DeadLetterFacts, DeadLetterMetrics)>,
}

impl Numbers {
    /// Of the parts in `facts`, as far as they are built by now: the others count nothing.
    pub(super) fn of(facts: Facts, metrics: &Metrics) -> Self {
        let Facts { sources, routes, apis, dead_letters } = facts;
        let source = |facts: SourceFacts| (facts.clone(), metrics.source(&facts.name));
        let route = |facts: RouteFacts| Some((facts.clone(), metrics.made_route(&facts.name)?));
        let api = |facts: ApiFacts| Some((facts.clone(), metrics.made_api(&facts.name)?));
        let dead_letter =
            |facts: DeadLetterFacts| Some((facts.clone(), metrics.made_dead_letter(&facts.name)?));
        Self {
            metrics: metrics.clone(),
            sources: sources.into_iter().map(source).collect(),
            routes: routes.into_iter().filter_map(route).collect(),
            apis: apis.into_iter().filter_map(api).collect(),
            dead_letters: dead_letters.into_iter().filter_map(dead_letter).collect(),
        }
    }

    /// Where each part stands in `before`.
    pub(super) fn places_in(&self, before: &Self) -> Places {
        fn places<T, N>(
            now: &[(T, N)],
            before: &[(T, N)],
            name: impl Fn(&T) -> &str,
        ) -> Vec<Option<usize>> {
            let place = |(facts, _): &(T, N)| {
                before.iter().position(|(other, _)| name(other) == name(facts))
            };
            now.iter().map(place).collect()
        }
        Places {
            sources: places(&self.sources, &before.sources, |facts| &facts.name),
            routes: places(&self.routes, &before.routes, |facts| &facts.name),
            apis: places(&self.apis, &before.apis, |facts| &facts.name),
        }
    }

    /// What they are now.
    pub(super) fn read(&self, at: Instant) -> Reading {
        let source = |(_, source): &(SourceFacts, SourceMetrics)| OfSource {
            received: source.received.get(),
            in_flight: source.in_flight.get(),
            delivery: source.delivery.counts(),
        };
        let route = |(_, route): &(RouteFacts, RouteMetrics)| OfRoute {
            matched: route.matched.get(),
            rejected: route.rejected().map(|(_, count)| count).sum(),
        };
        let letters = self.dead_letters.iter().flat_map(|(_, letters)| letters.written());
        Reading {
            at,
            sources: self.sources.iter().map(source).collect(),
            routes: self.routes.iter().map(route).collect(),
            apis: self.apis.iter().map(|(_, api)| api.accepted.get()).collect(),
            dead_letters: letters.map(|(_, count)| count).sum(),
        }
    }
}
