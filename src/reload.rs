//! What changed between two configurations, part by part. Pure: how running parts take it is the bridge's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::config::broker::SourceKind;
use crate::config::{
    ApiConfig, ApiName, Config, DeadLetterConfig, DeadLetterName, SourceConfig, StreamTaker,
};
use crate::message::SourceName;
use crate::route::{RouteName, Spec};

/// A part of a configuration, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `[source.NAME]`.
    Source(SourceName),
    /// `[route.NAME]`.
    Route(RouteName),
    /// `[api.NAME]`.
    Api(ApiName),
    /// `[dead_letter.NAME]`.
    DeadLetter(DeadLetterName),
    /// `[shutdown]`.
    Shutdown,
}

/// What is different in a new configuration. Every part of both is in one of the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Parts that there are only now.
    pub added: BTreeSet<Part>,
    /// Parts that there are no more.
    pub removed: BTreeSet<Part>,
    /// Parts that are other ones now.
    pub changed: BTreeSet<Part>,
    /// Parts that are as they were.
    pub untouched: BTreeSet<Part>,
    /// Those of the changed ones whose files have new content: they have to be made anew.
    pub renewed: BTreeSet<Part>,
    /// Sections that are other ones and can't be while running: what they said at the start stays in force.
    pub needs_restart: Vec<&'static str>,
}

impl Difference {
    /// From `old` to `new`. A part that is in `renewed` is another one though it is written the same: files that it
    /// was made with have new content. So is a dead letter that is made with the files of its source.
    pub fn between(old: &Config, new: &Config, renewed: &BTreeSet<Part>) -> Self {
        // A section that comes new to `Config` has to be decided on here.
        let Config { apis, sources, routes, dead_letters, admin, log, grace, cost, otlp } = new;
        let mut found = Self::default();
        let by_name = |sources: &[SourceConfig]| -> BTreeMap<_, _> {
            sources.iter().map(|s| (s.name.clone(), s.clone())).collect()
        };
        found.compare(&by_name(&old.sources), &by_name(sources), Part::Source, |_, old, new| {
            old == new
        });
        let by_name = |routes: &[Spec]| -> BTreeMap<_, _> {
            routes.iter().map(|r| (r.name.clone(), r.clone())).collect()
        };
        found.compare(&by_name(&old.routes), &by_name(routes), Part::Route, |_, old, new| {
            old == new
        });
        found.compare(&old.apis, apis, Part::Api, |_, old, new| old == new);
        found.compare(&old.dead_letters, dead_letters, Part::DeadLetter, |name, this, that| {
            this == that && company(old, name, this) == company(new, name, that)
        });
        let grace = if *grace == old.grace { &mut found.untouched } else { &mut found.changed };
        grace.insert(Part::Shutdown);
        let of_source = |dead_letter: &DeadLetterConfig| {
            dead_letter.home().is_some_and(|name| renewed.contains(&Part::Source(name.clone())))
        };
        let dead_letters = dead_letters.iter().filter(|(_, dead_letter)| of_source(dead_letter));
        let dead_letters = dead_letters.map(|(name, _)| Part::DeadLetter(name.clone()));
        for part in renewed.iter().cloned().chain(dead_letters) {
            found.changed.extend(found.untouched.take(&part));
            if found.changed.contains(&part) {
                found.renewed.insert(part);
            }
        }
        let sections = [
            ("[admin]", *admin == old.admin),
            ("[log]", *log == old.log),
            ("[cost]", *cost == old.cost),
            ("[otlp]", *otlp == old.otlp),
        ];
        found.needs_restart =
            sections.into_iter().filter_map(|(name, same)| (!same).then_some(name)).collect();
        found
    }

    /// From nothing to `config`.
    pub fn of_start(config: &Config) -> Self {
        let nothing = Config {
            apis: BTreeMap::new(),
            sources: Vec::new(),
            routes: Vec::new(),
            dead_letters: BTreeMap::new(),
            ..config.clone()
        };
        Self::between(&nothing, config, &BTreeSet::new())
    }

    /// Whether no part is another one.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    fn compare<K: Ord + Clone, V>(
        &mut self,
        old: &BTreeMap<K, V>,
        new: &BTreeMap<K, V>,
        part: impl Fn(K) -> Part,
        same: impl Fn(&K, &V, &V) -> bool,
    ) {
        for (name, new) in new {
            let list = match old.get(name) {
                None => &mut self.added,
                Some(old) if same(name, old, new) => &mut self.untouched,
                Some(_) => &mut self.changed,
            };
            list.insert(part(name.clone()));
        }
        let gone = old.keys().filter(|name| !new.contains_key(name));
        self.removed.extend(gone.cloned().map(part));
    }
}

/// By what brokers keep messages for sources of `old` and for none of `new`, with the source that took them.
pub fn left_behind(old: &Config, new: &Config) -> Vec<(SourceName, String)> {
    let kept = |config: &Config| -> Vec<_> {
        let kept =
            |source: &SourceConfig| Some((source.name.clone(), source.kind.settings().kept_by()?));
        config.sources.iter().filter_map(kept).collect()
    };
    let (old, new) = (kept(old), kept(new));
    let stays = |by: &String| new.iter().any(|(_, other)| other == by);
    old.into_iter().filter(|(_, by)| !stays(by)).collect()
}

/// Whether a source has to leave its broker to become the other: all but what the pipeline does for it.
pub fn reconnects(old: &SourceConfig, new: &SourceConfig) -> bool {
    let SourceConfig { name, limits, unrouted: _, kind } = new;
    old.name != *name || old.limits != *limits || old.kind != *kind
}

/// Whether an API needs another client to become the other: new connections, other credentials.
pub fn another_client(old: &ApiConfig, new: &ApiConfig) -> bool {
    let limits = (new.max_concurrency, new.max_rate);
    let same_limits = ApiConfig { max_concurrency: limits.0, max_rate: limits.1, ..old.clone() };
    same_limits != *new
}

/// The parts as a list, for people.
pub fn listed<'a>(parts: impl IntoIterator<Item = &'a Part>) -> String {
    parts.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(name) => write!(f, "source {name}"),
            Self::Route(name) => write!(f, "route {name}"),
            Self::Api(name) => write!(f, "api {name}"),
            Self::DeadLetter(name) => write!(f, "dead_letter {name}"),
            Self::Shutdown => f.write_str("[shutdown]"),
        }
    }
}

/// What a dead letter takes from sources.
#[derive(PartialEq)]
struct Company<'c> {
    /// The settings of the one whose broker it is at.
    home: Option<&'c SourceKind>,
    /// Those that may read there what it has written.
    meeting: Vec<&'c SourceName>,
    /// Those whose rejects are written there, of a stream that they take whole.
    whole: Vec<StreamTaker>,
}

fn company<'c>(config: &'c Config, name: &'c str, dead_letter: &DeadLetterConfig) -> Company<'c> {
    let of = |name: &SourceName| config.sources.iter().find(|source| source.name == *name);
    let Some(home) = dead_letter.home().and_then(of).map(|home| &home.kind) else {
        return Company { home: None, meeting: Vec::new(), whole: Vec::new() };
    };
    let meets = |source: &&SourceConfig| source.kind.may_meet(home);
    let meeting = config.sources.iter().filter(meets).map(|source| &source.name).collect();
    Company { home: Some(home), meeting, whole: config.takers_of_streams(name) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Environment};

    const FILE: &str = r#"
[api.main]
endpoint = "http://localhost/event"
auth = { type = "api-key", key = "da2-one" }
[source.plant]
type = "mqtt"
url = "mqtt://localhost"
client_id = "b"
subscriptions = ["plant/#"]
[source.shop]
type = "kafka"
brokers = "localhost"
group = "g"
topics = "orders"
[route.data]
from = "plant"
topic = "plant/{device}"
channel = "/plant/{device}"
[route.orders]
from = "shop"
channel = "/shop/all"
[dead_letter.rejects]
type = "file"
path = "/rejects"
[dead_letter.topic]
type = "kafka"
source = "shop"
topic = "rejects"
"#;

    fn config(text: &str) -> Config {
        // Two dead letters: each route has to choose.
        let text = text.replace("channel = ", "dead_letter = \"rejects\"\nchannel = ");
        let loaded = config::parse(&text, Path::new("b.toml"), &Environment::of([("HOME", "/h")]));
        loaded.unwrap_or_else(|problems| panic!("{problems}")).config
    }

    /// What is added, removed, changed, and needs a restart, when each of these is put in the place of another.
    fn found(replaced: &[(&str, &str)]) -> [String; 4] {
        let mut text = FILE.to_owned();
        for (old, new) in replaced {
            assert_eq!(text.matches(old).count(), 1, "{old}");
            text = text.replace(old, new);
        }
        let (old, new) = (config(FILE), config(&text));
        let found = Difference::between(&old, &new, &BTreeSet::new());
        let all = found.added.len() + found.changed.len() + found.untouched.len();
        let parts = new.sources.len() + new.routes.len() + new.apis.len() + new.dead_letters.len();
        assert_eq!(all, parts + 1, "{found:?}");
        let Difference { added, removed, changed, needs_restart, .. } = &found;
        [listed(added), listed(removed), listed(changed), needs_restart.join(", ")]
    }

    #[test]
    fn a_dead_letter_knows_who_takes_its_stream_whole() {
        let source = |name: &str, more: &str| {
            format!(
                "[source.{name}]\ntype = \"jetstream\"\nservers = \"localhost\"\nstream = \"{name}\"\n\
                 durable = \"d\"\n{more}\n[route.{name}]\nfrom = \"{name}\"\nchannel = \"/{name}\"\n\
                 dead_letter = \"subject\"\n"
            )
        };
        let read = |more: &str| {
            let text = format!(
                "[api.main]\nendpoint = \"http://localhost/event\"\nauth = {{ type = \"api-key\", key = \"k\" }}\n{}{}\
                 [dead_letter.subject]\ntype = \"jetstream\"\nsource = \"one\"\nsubject = \"rejects\"\n",
                source("one", "subjects = \"a\"\nunrouted = \"ignore\""),
                source("two", more)
            );
            let environment = Environment::of([("HOME", "/h")]);
            let loaded = config::parse(&text, Path::new("b.toml"), &environment);
            loaded.unwrap_or_else(|problems| panic!("{problems}")).config
        };
        let (whole, parts) = (read(""), read("subjects = \"b\""));
        assert_eq!(whole.takers_of_streams("subject").len(), 1);
        assert!(parts.takers_of_streams("subject").is_empty());
        let found = Difference::between(&whole, &parts, &BTreeSet::new());
        assert_eq!(listed(&found.changed), "source two, dead_letter subject");
    }

    #[test]
    fn a_grace_of_its_own_makes_no_source_another_one() {
        let read = |grace: &str| {
            let text = format!(
                "[api.main]\nendpoint = \"http://localhost/event\"\nauth = {{ type = \"api-key\", key = \"k\" }}\n\
                 [source.queue]\ntype = \"sqs\"\nqueue = \"https://sqs.eu-west-1.amazonaws.com/111122223333/q\"\n\
                 [route.data]\nfrom = \"queue\"\nchannel = \"/a\"\ndead_letter = \"discard\"\n\
                 [shutdown]\ngrace = \"{grace}\"\n"
            );
            let environment = Environment::of([("HOME", "/h")]);
            let loaded = config::parse(&text, Path::new("b.toml"), &environment);
            loaded.unwrap_or_else(|problems| panic!("{problems}")).config
        };
        let found = Difference::between(&read("25s"), &read("40s"), &BTreeSet::new());
        assert_eq!(listed(&found.changed), "[shutdown]");
    }

    #[test]
    fn what_is_written_the_same_is_untouched() {
        assert_eq!(found(&[]), ["", "", "", ""]);
        // Another order, and other words for the same.
        let words = [
            ("url = \"mqtt://localhost\"\n", ""),
            ("client_id = \"b\"", "client_id = \"b\"\nurl = \"mqtt://localhost:1883\""),
            ("[\"plant/#\"]", "\"plant/#\" # all"),
        ];
        assert_eq!(found(&words), ["", "", "", ""]);
        let old = config(FILE);
        let nothing = Difference::between(&old, &old, &BTreeSet::new());
        assert!(nothing.is_empty() && nothing.untouched.len() == 8, "{nothing:?}");
    }

    #[test]
    fn what_brokers_keep_for_nobody_any_more_is_told_with_its_source() {
        let left = |replaced: &[(&str, &str)]| {
            let text = replaced.iter().fold(FILE.to_owned(), |text, (a, b)| text.replace(a, b));
            let left = left_behind(&config(FILE), &config(&text));
            left.into_iter().map(|(source, by)| format!("{source}: {by}")).collect::<Vec<_>>()
        };
        assert_eq!(
            left(&[("client_id = \"b\"", "client_id = \"c\"")]),
            ["plant: the session of `b` at localhost:1883"]
        );
        assert_eq!(left(&[("group = \"g\"", "group = \"h\"")]), ["shop: the consumer group `g`"]);
        // Another source may go on with it, and other keys leave it as it is.
        let renamed = [("source.shop", "source.mall"), ("\"shop\"", "\"mall\"")];
        assert_eq!(left(&renamed), [""; 0]);
        assert_eq!(left(&[("[\"plant/#\"]", "[\"plant/+\"]")]), [""; 0]);
    }

    #[test]
    fn each_part_is_told_by_its_name() {
        for (replaced, expected) in [
            (("/plant/{device}\"", "/all/{device}\""), ["", "", "route data", ""]),
            (("route.data", "route.other"), ["route other", "route data", "", ""]),
            (("client_id = \"b\"", "client_id = \"c\""), ["", "", "source plant", ""]),
            (("da2-one", "da2-two"), ["", "", "api main", ""]),
            (("\"/rejects\"", "\"/others\""), ["", "", "dead_letter rejects", ""]),
            (("[api.main]", "[shutdown]\ngrace = \"30s\"\n[api.main]"), ["", "", "[shutdown]", ""]),
            (("[api.main]", "[log]\nlevel = \"debug\"\n[api.main]"), ["", "", "", "[log]"]),
            (
                ("[api.main]", "[admin]\nlisten = \"127.0.0.1:1\"\n[api.main]"),
                ["", "", "", "[admin]"],
            ),
        ] {
            assert_eq!(found(&[replaced]), expected, "{replaced:?}");
        }
    }

    #[test]
    fn a_dead_letter_is_another_one_with_its_broker() {
        let expected = ["", "", "source shop, dead_letter topic", ""];
        assert_eq!(found(&[("group = \"g\"", "group = \"h\"")]), expected);
        let reader = "[source.more]\ntype = \"kafka\"\nbrokers = \"LOCALHOST:9092\"\ngroup = \"m\"\ntopics = \"m\"\nunrouted = \"ignore\"\n[route.data]";
        assert_eq!(
            found(&[("[route.data]", reader)]),
            ["source more", "", "dead_letter topic", ""]
        );
        let stranger = reader.replace("LOCALHOST", "elsewhere");
        assert_eq!(found(&[("[route.data]", &stranger)]), ["source more", "", "", ""]);
    }

    #[test]
    fn a_part_whose_files_are_new_is_another_one() {
        let old = config(FILE);
        let renewed = BTreeSet::from([Part::Api("main".into()), Part::Api("no such".into())]);
        let found = Difference::between(&old, &old, &renewed);
        assert_eq!(
            (listed(&found.changed), &found.renewed),
            ("api main".to_owned(), &found.changed)
        );
        assert!(!found.untouched.contains(&Part::Api("main".into())));
        let source = BTreeSet::from([Part::Source("shop".into())]);
        let found = Difference::between(&old, &old, &source);
        assert_eq!(listed(&found.renewed), "source shop, dead_letter topic");
        // What is new is made anyway.
        let mut before = old.clone();
        before.sources.pop();
        before.routes.pop();
        let found = Difference::between(&before, &old, &source);
        assert_eq!(listed(&found.renewed), "dead_letter topic");
    }

    #[test]
    fn at_the_start_everything_is_added() {
        let found = Difference::of_start(&config(FILE));
        assert_eq!((found.added.len(), found.removed.len(), found.changed.len()), (7, 0, 0));
    }

    #[test]
    fn only_what_a_broker_or_an_endpoint_sees_makes_new_connections() {
        let old = config(FILE);
        let source = |text: &str, to: &str| {
            let new = config(&FILE.replace(text, to));
            reconnects(&old.sources[0], &new.sources[0])
        };
        assert!(!source("subscriptions", "unrouted = \"ignore\"\nsubscriptions"));
        assert!(source("client_id", "max_in_flight = 7\nclient_id"));
        assert!(source("plant/#", "plant/#\", \"plant/+"));
        let api = |lines: &str| {
            let new = config(&FILE.replace("auth =", &format!("{lines}\nauth =")));
            another_client(&old.apis["main"], &new.apis["main"])
        };
        assert!(!api("max_rate = 7\nmax_concurrency = 3"));
        assert!(api("timeout = \"3s\""));
    }
}
