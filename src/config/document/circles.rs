//! Circles: sources that would read the dead-letter topics, subjects and queues with their own rejects.
//!
//! A JetStream source without `subjects` takes a whole stream, and which subjects that has only its server knows: such a
//! circle is found when the dead letter is written.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use crate::config::broker::SourceKind;
use crate::config::dead_letter::{DeadLetterConfig, DeadLetterName, Read, SqsRejects};
use crate::config::kafka::KafkaConfig;
use crate::config::nats;
use crate::config::reader::{Kind, Ledger, Problem, quoted};
use crate::config::source::{self, Unrouted};
use crate::message::SourceName;
use crate::route::meeting::is_regex;
use crate::route::{RejectTo, Spec};

/// An edge: the rejects of one source reach another, or itself, over a dead-letter topic or queue.
struct Edge {
    from: usize,
    to: usize,
    /// Where that is named in the dead letter.
    place: Range<usize>,
    /// Where the source says that it reads it.
    read: Range<usize>,
}

/// Keeps dead-letter topics out of regular expressions: of the sources whose rejects go there, and of the one
/// whose connection they use.
pub(super) fn keep_out(
    dead_letters: &[(DeadLetterName, Read)],
    sources: &mut [source::Read],
    routes: &[Spec],
) {
    let mut never = Vec::new();
    let known = numbered(sources);
    let rejecting = rejecting(&known, sources, routes);
    for (name, Read { config, .. }) in dead_letters {
        let DeadLetterConfig::Kafka { source: home, topic } = config else { continue };
        let Some(home) = known.get(home).copied() else { continue };
        let Some(cluster) = sources[home].config.kind.kafka() else { continue };
        let from = rejecting.get(name).into_iter().flatten().copied();
        let own: BTreeSet<usize> = from.chain([home]).collect();
        for at in own {
            if let Some(kafka) = sources[at].config.kind.kafka()
                && has_pattern(kafka)
                && kafka.may_meet(cluster)
            {
                never.push((at, topic.clone()));
            }
        }
    }
    for (at, topic) in never {
        if let SourceKind::Kafka(kafka) = &mut sources[at].config.kind {
            kafka.never.push(topic);
        }
    }
}

/// Reports rejects that come back to their own source, directly or over others: they would circulate for
/// ever. Topics that [`keep_out`] excludes from a regular expression don't.
pub(super) fn in_circles(
    ledger: &Ledger<'_>,
    dead_letters: &[(DeadLetterName, Read)],
    sources: &[source::Read],
    routes: &[Spec],
) {
    let name = |at: usize| quoted(&sources[at].config.name);
    let edges = edges(dead_letters, sources, routes);
    let mut onward = HashMap::<_, Vec<_>>::new();
    for edge in &edges {
        onward.entry(edge.from).or_default().push(edge);
    }
    let mut told = BTreeSet::new();
    for first in &edges {
        let Some(circle) = circle(first, &onward) else { continue };
        let mut members: Vec<_> = circle.iter().map(|edge| edge.from).collect();
        members.sort_unstable();
        // Of a longer one every edge is a first.
        if members.len() > 1 && !told.insert(members) {
            continue;
        }
        let over: Vec<_> = circle.iter().skip(1).map(|edge| name(edge.from)).collect();
        let mut message = format!("{} would read its own dead letters again", name(first.from));
        if !over.is_empty() {
            message = format!("{message}, over those of {}", over.join(", then "));
        }
        let mut problem = Problem::new(Kind::Impossible, Some(first.place.clone()), message);
        for (at, edge) in circle.iter().enumerate() {
            if at > 0 {
                problem =
                    problem.also(edge.place.clone(), format!("rejects of {}", name(edge.from)));
            }
            let reader =
                if over.is_empty() { String::new() } else { format!(" by {}", name(edge.to)) };
            problem = problem.also(edge.read.clone(), format!("read here{reader}"));
        }
        let hint = if over.is_empty() {
            "name one that it does not read"
        } else {
            "give one of them a dead letter that none of them reads"
        };
        ledger.report(problem.help(hint));
    }
}

/// Edges from one source to another that are looked at; more are in no file that was meant. Those from a source
/// to itself are all found.
const MOST_WAYS: usize = 1000;

/// Sources with regular expressions that are looked at: each is tried on each topic.
const MOST_PATTERNED: usize = 200;

fn edges(
    dead_letters: &[(DeadLetterName, Read)],
    sources: &[source::Read],
    routes: &[Spec],
) -> Vec<Edge> {
    let kafka = |at: usize| sources[at].config.kind.kafka();
    let known = numbered(sources);
    let rejecting = rejecting(&known, sources, routes);
    let mut readers = HashMap::<_, BTreeMap<usize, usize>>::new();
    for at in 0..sources.len() {
        for (number, topic) in kafka(at).iter().flat_map(|kafka| &kafka.topics).enumerate() {
            readers.entry(topic).or_default().entry(at).or_insert(number);
        }
    }
    let patterned: Vec<_> = (0..sources.len())
        .filter_map(|at| Some((at, kafka(at).filter(|kafka| has_pattern(kafka))?.selection())))
        .take(MOST_PATTERNED)
        .collect();
    let mut edges = Vec::new();
    for (name, Read { config, place }) in dead_letters {
        let Some(from) = rejecting.get(name) else { continue };
        let readers = match config {
            DeadLetterConfig::File { .. } => continue,
            DeadLetterConfig::Kafka { source: home, topic } => {
                let Some(home) = known.get(home).and_then(|at| kafka(*at)) else { continue };
                let mut readers = readers.get(topic).cloned().unwrap_or_default();
                for (at, selection) in &patterned {
                    let taking = selection.taking(topic).next();
                    let mut topics = kafka(*at).into_iter().flat_map(|kafka| &kafka.topics);
                    let by = taking.and_then(|by| topics.position(|topic| topic == by));
                    if let Some(number) = by {
                        readers.entry(*at).or_insert(number);
                    }
                }
                let meets = |at: usize| kafka(at).is_some_and(|kafka| kafka.may_meet(home));
                readers.retain(|at, _| meets(*at));
                readers
            }
            DeadLetterConfig::JetStream { source: home, subject } => {
                subject_readers(sources, known.get(home).copied(), subject)
            }
            DeadLetterConfig::Sqs(SqsRejects { queue, endpoint, .. }) => {
                let reads = |at: usize| match &sources[at].config.kind {
                    SourceKind::Sqs(sqs) => sqs.reads(queue, endpoint),
                    _ => false,
                };
                (0..sources.len()).filter(|at| reads(*at)).map(|at| (at, 0)).collect()
            }
        };
        let edge = |from: usize, to: usize, number: usize| {
            let (place, read) = (place.clone(), sources[to].asked[number].clone());
            Edge { from, to, place, read }
        };
        let own = from.iter().filter_map(|at| readers.get(at).map(|number| (*at, *number)));
        edges.extend(own.map(|(at, number)| edge(at, at, number)));
        let room = MOST_WAYS.saturating_sub(edges.len());
        let others = readers.iter().filter(|_| room > 0);
        let others =
            others.flat_map(|(to, number)| from.iter().map(move |from| (*from, *to, *number)));
        let others = others.filter(|(from, to, _)| from != to).take(room);
        edges.extend(others.map(|(from, to, number)| edge(from, to, number)));
    }
    edges
}

/// The sources that read a subject at the server of another, each by the first of its subjects that takes it.
fn subject_readers(
    sources: &[source::Read],
    home: Option<usize>,
    subject: &str,
) -> BTreeMap<usize, usize> {
    let Some((home, _)) = home.and_then(|at| sources[at].config.kind.nats()) else {
        return BTreeMap::new();
    };
    let reader = |(at, source): (usize, &source::Read)| {
        let (connection, subjects) = source.config.kind.nats()?;
        let takes = subjects.iter().position(|wildcards| nats::takes(wildcards, subject))?;
        connection.may_meet(home).then_some((at, takes))
    };
    sources.iter().enumerate().filter_map(reader).collect()
}

/// The shortest circle that begins with this edge, if there is one; `edges` are by their beginnings.
fn circle<'a>(first: &'a Edge, edges: &HashMap<usize, Vec<&'a Edge>>) -> Option<Vec<&'a Edge>> {
    let mut reached = BTreeSet::from([first.to]);
    let mut open = VecDeque::from([vec![first]]);
    while let Some(path) = open.pop_front() {
        let end = path.last()?.to;
        if end == first.from {
            return Some(path);
        }
        for edge in edges.get(&end).into_iter().flatten() {
            if reached.insert(edge.to) {
                open.push_back([path.as_slice(), &[*edge]].concat());
            }
        }
    }
    None
}

fn has_pattern(kafka: &KafkaConfig) -> bool {
    kafka.topics.iter().any(|topic| is_regex(topic))
}

fn numbered(sources: &[source::Read]) -> HashMap<SourceName, usize> {
    sources.iter().enumerate().map(|(at, source)| (source.config.name.clone(), at)).collect()
}

/// The sources whose rejects go to a dead letter.
fn rejecting(
    known: &HashMap<SourceName, usize>,
    sources: &[source::Read],
    routes: &[Spec],
) -> HashMap<DeadLetterName, BTreeSet<usize>> {
    let mut rejecting = HashMap::<_, BTreeSet<usize>>::new();
    for route in routes {
        if let RejectTo::DeadLetter(to) = &route.dead_letter {
            let from = route.from.iter().filter_map(|name| known.get(name));
            rejecting.entry(to.clone()).or_default().extend(from);
        }
    }
    for (at, source) in sources.iter().enumerate() {
        if let Unrouted::DeadLetter(to) = &source.config.unrouted {
            rejecting.entry(to.clone()).or_default().insert(at);
        }
    }
    rejecting
}
