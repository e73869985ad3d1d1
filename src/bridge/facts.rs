//! What the admin port is told of a configuration.

use crate::admin::{ApiFacts, DeadLetterFacts, Facts, RouteFacts, SourceFacts};
use crate::config::{ApiConfig, Config, DeadLetterConfig, SourceConfig};
use crate::route::{RejectTo, Spec};

/// The parts of a bridge of `config`, in the order of its file or by name.
pub(super) fn of(config: &Config) -> Facts {
    Facts {
        sources: config.sources.iter().map(source).collect(),
        routes: config.routes.iter().map(route).collect(),
        apis: config.apis.values().map(api).collect(),
        dead_letters: config.dead_letters.iter().map(|(name, to)| dead_letter(name, to)).collect(),
    }
}

fn source(source: &SourceConfig) -> SourceFacts {
    let takes = source.kind.settings().asked();
    SourceFacts {
        name: source.name.to_string(),
        kind: source.kind.broker().word,
        takes: takes.into_iter().map(str::to_owned).collect(),
        max_in_flight: source.limits.messages,
        max_in_flight_bytes: source.limits.bytes,
    }
}

fn route(route: &Spec) -> RouteFacts {
    RouteFacts {
        name: route.name.to_string(),
        from: route.from.iter().map(ToString::to_string).collect(),
        topic: route.topic.as_ref().map(|topic| topic.text().to_owned()),
        channels: route.channels.iter().map(|channel| channel.text().to_owned()).collect(),
        api: route.api.to_string(),
        dead_letter: match &route.dead_letter {
            RejectTo::DeadLetter(name) => name.to_string(),
            RejectTo::Discard => "discard".to_owned(),
            RejectTo::Source => "source".to_owned(),
        },
    }
}

fn api(api: &ApiConfig) -> ApiFacts {
    let host = api.endpoint.uri.authority().map(ToString::to_string);
    ApiFacts {
        name: api.name.to_string(),
        host: host.unwrap_or_default(),
        max_concurrency: api.max_concurrency,
        max_rate: api.max_rate,
    }
}

fn dead_letter(name: &str, to: &DeadLetterConfig) -> DeadLetterFacts {
    DeadLetterFacts { name: name.to_owned(), kind: to.word(), place: to.place() }
}
