//! Circles: sources that would read the dead-letter topics, subjects and queues with their own rejects.
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use crate::config::dead_letter::{DeadLetterName, Read};
use crate::config::reader::{Kind, Ledger, Problem, quoted};
use crate::config::source::{self, Unrouted};
use crate::message::SourceName;
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

/// Keeps dead letters out of what sources take without naming it: of the sources whose rejects go there, and of the
/// one whose connection they use.
pub(super) fn keep_out(
    dead_letters: &[(DeadLetterName, Read)],
    sources: &mut [source::Read],
    routes: &[Spec],
) {
    let known = numbered(sources);
    let rejecting = rejecting(&known, sources, routes);
    for (name, Read { config, .. }) in dead_letters {
        let Some(home) = config.home().and_then(|home| known.get(home)).copied() else { continue };
        let kind = sources[home].config.kind.clone();
        let from = rejecting.get(name).into_iter().flatten().copied();
        let own: BTreeSet<usize> = from.chain([home]).collect();
        for at in own {
            config.keep_out_of(&mut sources[at].config.kind, &kind);
        }
    }
}

/// Reports rejects that come back to their own source, directly or over others: they would circulate for
/// ever. What [`keep_out`] excludes doesn't.
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

/// So many times a dead letter is compared with a source whose rejects don't go there.
const MOST_LOOKS: usize = 1_000_000;

fn edges(
    dead_letters: &[(DeadLetterName, Read)],
    sources: &[source::Read],
    routes: &[Spec],
) -> Vec<Edge> {
    let known = numbered(sources);
    let rejecting = rejecting(&known, sources, routes);
    let mut looks = MOST_LOOKS;
    let mut edges = Vec::new();
    for (name, Read { config, place }) in dead_letters {
        let Some(from) = rejecting.get(name) else { continue };
        let home = config.home().and_then(|home| known.get(home));
        let home = home.map(|at| &sources[*at].config.kind);
        let reader = |at: usize| Some((at, config.read_by(&sources[at].config.kind, home)?));
        let edge = |from: usize, to: usize, number: usize| {
            let (place, read) = (place.clone(), sources[to].asked[number].clone());
            Edge { from, to, place, read }
        };
        let own = from.iter().filter_map(|at| reader(*at));
        edges.extend(own.map(|(at, number)| edge(at, at, number)));
        let room = MOST_WAYS.saturating_sub(edges.len());
        if room == 0 {
            continue;
        }
        let looked_at = sources.len().min(looks);
        looks -= looked_at;
        let others = (0..looked_at).filter_map(reader);
        let others =
            others.flat_map(|(to, number)| from.iter().map(move |from| (*from, to, number)));
        let others = others.filter(|(from, to, _)| from != to).take(room);
        edges.extend(others.map(|(from, to, number)| edge(from, to, number)));
    }
    edges
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
