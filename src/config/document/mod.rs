//! The file as a whole: its sections, and the rules between them.

mod circles;
mod coverage;

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::DeTable;

use super::daemon::Side;
use super::dead_letter::DeadLetterConfig;
use super::home::Homes;
use super::reader::{
    Kind, Ledger, Masked, Names, Note, Outline, Problem, Repaired, Table, listed, names, quoted,
};
use super::{
    AdminConfig, Client, Config, Environment, LogFormat, api, broker, daemon, dead_letter, otlp,
    route, source,
};
use crate::route::{RejectTo, Spec};

/// Reads a text, of which only what is left in `masked` may be shown: the configuration if there could
/// be one, everything found, and how log lines are to look as far as the text says so.
pub(super) fn read(
    text: &str,
    masked: &Masked,
    environment: &Environment,
) -> (Option<Config>, Vec<Problem>, Option<LogFormat>) {
    let mut repaired = Repaired::new(text, masked);
    let (found, broken) =
        (std::mem::take(&mut repaired.problems), std::mem::take(&mut repaired.broken));
    let tree = repaired.tree();
    let ledger = Ledger::new(text, masked, environment, found, broken);
    let config = sections(Table::new(&ledger, "", "the file".to_owned(), 0..0, &tree));
    let log_format = ledger.log_format.get();
    (config, ledger.close(), log_format)
}

/// Reads `[admin]` alone, for who asks the bridge there: `None` if it can't be known, with everything found.
pub(super) fn read_admin(
    text: &str,
    masked: &Masked,
    environment: &Environment,
) -> (Option<AdminConfig>, Vec<Problem>) {
    let mut repaired = Repaired::new(text, masked);
    let (syntax, broken) =
        (std::mem::take(&mut repaired.problems), std::mem::take(&mut repaired.broken));
    let tree = repaired.tree();
    let ledger = Ledger::new(text, masked, environment, Vec::new(), broken);
    let mut root = Table::new(&ledger, "", "the file".to_owned(), 0..0, &tree);
    let lost = !root.has("admin") && ledger.lost_anywhere("admin");
    let table = names::table(&mut root, "admin").ok().filter(|_| !lost);
    let admin = table.and_then(|table| daemon::admin(table, Side::Client));
    let mut found = ledger.close();
    if admin.is_none() {
        found.splice(..0, syntax);
    }
    (admin, found)
}

/// What the readers ask for in a text, with the tables that they ask: `take` is given both.
pub(super) fn outline<T>(
    text: &str,
    environment: &Environment,
    take: impl FnOnce(&DeTable<'_>, Vec<Note>) -> T,
) -> T {
    let masked = Masked::new(text);
    let repaired = Repaired::new(text, &masked);
    let tree = repaired.tree();
    let mut ledger = Ledger::new(text, &masked, environment, Vec::new(), Vec::new());
    ledger.outline = Outline::wanted();
    let _ = sections(Table::new(&ledger, "", "the file".to_owned(), 0..0, &tree));
    take(&tree, ledger.outline.close())
}

fn sections(mut root: Table<'_>) -> Option<Config> {
    let ledger = root.ledger;
    let apis = names::tables(&mut root, "api");
    let sources = names::tables(&mut root, "source");
    let routes = names::tables(&mut root, "route");
    let dead_letters = names::tables(&mut root, "dead_letter");
    for (section, none, hint) in [
        ("api", apis.is_none(), "the Event API that events go to"),
        ("source", sources.is_none(), "the broker that messages come from"),
        ("route", routes.is_none(), "which messages go to which channel"),
    ] {
        if none && !root.means(section) && !ledger.lost_anywhere(section) {
            let message = format!("there is no `[{section}.NAME]`");
            ledger.report(Problem::new(Kind::MissingKey, None, message).help(hint));
        }
    }
    let (apis, sources, routes) =
        (apis.unwrap_or_default(), sources.unwrap_or_default(), routes.unwrap_or_default());
    let dead_letters = dead_letters.unwrap_or_default();
    let api_names = Names::new("api", &apis, None);
    let source_names = Names::new("source", &sources, None);
    let dead_letter_names = Names::new("dead_letter", &dead_letters, Some(dead_letter::DEFAULT));
    let admin = names::table(&mut root, "admin").ok();
    let admin = admin.and_then(|table| daemon::admin(table, Side::Server));
    let log = names::table(&mut root, "log").ok().and_then(daemon::log);
    let otlp = names::table(&mut root, "otlp").ok().and_then(otlp::read);
    let grace = names::table(&mut root, "shutdown").ok().and_then(daemon::grace);
    let cost = names::table(&mut root, "cost").ok().and_then(daemon::cost);

    let apis: Vec<_> =
        apis.into_iter().map(|(name, table)| api::read(name, table, grace.as_ref())).collect();
    // With invalid ones, too: an error in a source is no error in its routes.
    let kind = |table: &Table<'_>| broker::of_word(table.type_word()?);
    let kinds = sources.iter().filter_map(|(name, table)| Some((*name, kind(table)?)));
    let homes = Homes { names: &source_names, kinds: kinds.collect() };
    let dead_letters = read_dead_letters(ledger, dead_letters, &homes);
    let sources: Vec<_> = sources
        .into_iter()
        .map(|(name, table)| source::read(name, table, &dead_letter_names, grace.as_ref()))
        .collect();
    let keyless = sources.iter().flatten().filter(|read| !read.config.kind.settings().has_keys());
    let keyless = keyless.map(|read| read.config.name.clone()).collect();
    let known = route::Known {
        sources: &homes,
        keyless: &keyless,
        apis: &api_names,
        dead_letters: &dead_letter_names,
    };
    let routes: Vec<_> =
        routes.into_iter().map(|(name, table)| route::read(name, table, &known)).collect();
    let before = ledger.errors();
    root.finish();
    // A table that could not be read, or that has another name, may be the one that is missing.
    let complete = ledger.broken.is_empty() && ledger.errors() == before && !routes.is_empty();

    let readable: Vec<_> = sources.iter().flatten().collect();
    same_clients(ledger, &readable);
    let routes: Option<Vec<_>> = routes.into_iter().collect();
    let routes = routes?;
    if complete {
        coverage::check(ledger, &readable, &routes);
    }
    let routes: Vec<_> = routes.into_iter().map(|route| route.spec).collect();
    let sources: Option<Vec<_>> = sources.into_iter().collect();
    let mut sources = sources?;
    leave_rejects(&mut sources, &routes);
    if let Some(dead_letters) = &dead_letters {
        circles::keep_out(dead_letters, &mut sources, &routes);
        circles::in_circles(ledger, dead_letters, &sources, &routes);
    }
    let apis: Option<BTreeMap<_, _>> =
        apis.into_iter().map(|api| api.map(|api| (api.name.clone(), api))).collect();
    Some(Config {
        apis: apis?,
        sources: sources.into_iter().map(|source| source.config).collect(),
        routes,
        dead_letters: dead_letters?.into_iter().map(|(name, read)| (name, read.config)).collect(),
        admin: admin?,
        log: log?,
        otlp: otlp?,
        grace: grace?.value,
        cost: cost?,
    })
}

fn read_dead_letters(
    ledger: &Ledger<'_>,
    tables: Vec<(&str, Table<'_>)>,
    homes: &Homes<'_>,
) -> Option<Vec<(Arc<str>, dead_letter::Read)>> {
    if tables.is_empty() {
        let Some(default) = dead_letter::default(ledger.environment) else {
            let message = "rejected events have nowhere to go";
            let problem = Problem::new(Kind::MissingKey, None, message).help(
                "none of `$STATE_DIRECTORY`, `$XDG_STATE_HOME` and `$HOME` is set: \
                 add `[dead_letter.rejects]` with `type = \"file\"` and a `path`",
            );
            return ledger.refuse(problem);
        };
        return Some(vec![(dead_letter::DEFAULT.into(), default)]);
    }
    let mut all: Vec<(Arc<str>, dead_letter::Read)> = Vec::new();
    let mut files: Vec<(&str, DeadLetterConfig)> = Vec::new();
    let mut complete = true;
    for (name, table) in tables {
        let span = table.span.clone();
        let Some(read) = dead_letter::read(name, table, homes) else {
            complete = false;
            continue;
        };
        // Of a topic there may be several writers.
        if let DeadLetterConfig::File { path, .. } = &read.config {
            let own = quoted(name);
            for (other, file) in &files {
                let other = quoted(other);
                let (message, help) = if file.writes_to(path) {
                    let help = "one table is enough: several routes can name it";
                    (format!("{own} and {other} write to the same file"), help)
                } else if file.takes_name_of(path) {
                    let message = format!("{own} writes to a file that {other} sets aside");
                    (message, "give it a name without a number at its end, or another directory")
                } else if file.path().is_some_and(|path| read.config.takes_name_of(path)) {
                    let message = format!("{own} sets its file aside as the one of {other}");
                    (message, "give it another name, or another directory")
                } else {
                    continue;
                };
                let problem = Problem::new(Kind::BadValue, Some(span.clone()), message);
                ledger.report(problem.help(help));
            }
            files.push((name, read.config.clone()));
        }
        all.push((name.into(), read));
    }
    complete.then_some(all)
}

/// Tells the sources that a route leaves rejects to.
fn leave_rejects(sources: &mut [source::Read], routes: &[Spec]) {
    for source::Read { config, .. } in sources {
        let left = |route: &Spec| {
            route.dead_letter == RejectTo::Source && route.from.contains(&config.name)
        };
        if routes.iter().any(left) {
            config.kind.settings_mut().leave_rejects();
        }
    }
}

/// A broker lets one connection have a client id: two would push one another out for ever.
fn same_clients(ledger: &Ledger<'_>, sources: &[&source::Read]) {
    let mut known: Vec<(Client, &source::Read)> = Vec::new();
    for source in sources {
        let Some(client) = source.config.kind.settings().client() else { continue };
        let own = client.key;
        let Some((_, other)) = known.iter().find(|(other, _)| other.is(&client)) else {
            known.push((client, source));
            continue;
        };
        let names = [&other.config.name, &source.config.name];
        let message = format!("{} are the same client of one broker", listed(&names, "and"));
        let problem = Problem::new(Kind::Impossible, Some(source.client.clone()), message)
            .also(other.client.clone(), "the same here")
            .help(format!(
                "the broker would give its messages now to one and now to the other: \
                 give each source its own `{own}`"
            ));
        ledger.report(problem);
    }
}
