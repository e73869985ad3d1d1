//! The files of `src`, and which of them takes what from which other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::{root, sources};

/// Directly in one folder, tests not counted. A room with more is given wings.
const MOST: usize = 13;

/// A module's path below the crate: `["publish", "lanes"]`.
type Module = Vec<String>;

/// What a `use` or a path in the code names, as its segments.
type Names = Vec<String>;

/// The code of every file but its tests, by module.
fn code() -> BTreeMap<Module, String> {
    let root = root();
    let of_code = |path: &&std::path::PathBuf| !is_test(path);
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        (module(path.strip_prefix(&root).unwrap()), without_tests_and_comments(&text))
    };
    sources(&root).iter().filter(of_code).map(read).collect()
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().unwrap().to_str().unwrap().ends_with("tests")
}

fn module(path: &Path) -> Module {
    let parts = path.with_extension("");
    let mut parts: Module = parts.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if ["mod", "lib"].contains(&parts.last().unwrap().as_str()) {
        parts.pop();
    }
    parts
}

pub(super) fn without_tests_and_comments(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = code.split("#[cfg(test)]\npub(super) mod tests {").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).fold(
        String::new(),
        |mut code, line| {
            writeln!(code, "{line}").unwrap();
            code
        },
    )
}

/// Every path that a file begins with `crate`, `super` or a child of its own; those of a `pub use` apart.
fn paths(module: &Module, code: &str, all: &BTreeSet<Module>) -> (Vec<Names>, Vec<Names>) {
    let (mut taken, mut shown) = (Vec::new(), Vec::new());
    let mut rest = code;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_') {
        let word: &str = word(&rest[at..]);
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        rest = after;
        if before.ends_with("::") || before.ends_with(['.', '"', '\'']) {
            continue;
        }
        let line = before_in_line(&code[..code.len() - after.len() - word.len()]);
        if word == "use" && (line.is_empty() || line.starts_with("pub")) {
            let (tree, after) = after.split_once(';').unwrap_or((after, ""));
            for names in leaves(tree) {
                let Some(names) = absolute(module, names, all) else { continue };
                if line.is_empty() { taken.push(names) } else { shown.push(names) }
            }
            rest = after;
        } else if after.starts_with("::") {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
            let path = format!("{word}{}", &after[..end.unwrap_or(after.len())]);
            let names = path.trim_end_matches(':').split("::").map(str::to_owned).collect();
            taken.extend(absolute(module, names, all));
        }
    }
    (taken, shown)
}

fn before_in_line(text: &str) -> &str {
    text.rsplit('\n').next().unwrap().trim()
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The paths of the tree of a `use`.
fn leaves(tree: &str) -> Vec<Names> {
    let tree = tree.trim();
    let Some((prefix, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap().trim();
        return vec![path.split("::").map(|name| name.trim().to_owned()).collect()];
    };
    let inner = &inner[..inner.rfind('}').unwrap()];
    let prefix: Names =
        prefix.split("::").map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect();
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts
        .flat_map(leaves)
        .map(|names| prefix.iter().cloned().chain(names).filter(|name| name != "self").collect())
        .collect()
}

fn absolute(module: &Module, names: Names, all: &BTreeSet<Module>) -> Option<Names> {
    let (mut from, mut at) = (module.clone(), 0);
    match names[0].as_str() {
        "crate" => (from, at) = (Vec::new(), 1),
        "self" => at = 1,
        "super" => {
            while names.get(at).is_some_and(|name| name == "super") {
                from.pop()?;
                at += 1;
            }
        }
        child => {
            let child: Module = from.iter().cloned().chain([child.to_owned()]).collect();
            all.contains(&child).then_some(())?;
        }
    }
    from.extend(names.into_iter().skip(at));
    Some(from)
}

/// The files, and what leads from one to another.
struct House {
    all: BTreeSet<Module>,
    /// Where a door shows something of a file behind it: the names that lead there.
    doors: BTreeMap<Names, Names>,
    /// From whom, and the path taken.
    taken: Vec<(Module, Names)>,
}

impl House {
    fn of(code: &BTreeMap<Module, String>) -> Self {
        let all: BTreeSet<Module> = code.keys().cloned().collect();
        let (mut doors, mut taken) = (BTreeMap::new(), Vec::new());
        for (module, code) in code {
            let (uses, shows) = paths(module, code, &all);
            for names in shows {
                let shown = module.iter().cloned().chain(names.last().cloned()).collect();
                doors.insert(shown, names);
            }
            taken.extend(uses.into_iter().map(|names| (module.clone(), names)));
        }
        Self { all, doors, taken }
    }

    /// The file that has what `names` lead to.
    fn home(&self, names: &[String]) -> Module {
        let mut names = names.to_vec();
        // A door may show what another door does.
        for _ in 0..5 {
            let shown = (1..=names.len()).rev().find(|n| self.doors.contains_key(&names[..*n]));
            let Some(n) = shown.filter(|n| !self.all.contains(&names[..*n])) else { break };
            let behind = self.doors[&names[..n]].clone();
            names = behind.into_iter().chain(names[n..].iter().cloned()).collect();
        }
        let deepest = (0..=names.len()).rev().find(|n| self.all.contains(&names[..*n]));
        names[..deepest.unwrap_or(0)].to_vec()
    }

    /// Who needs whom. A part may use what the module it belongs to defines: the two are one.
    fn needs(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let mut needs: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
        for (from, names) in &self.taken {
            let to = self.home(names);
            if !from.starts_with(&to) {
                needs.entry(from).or_default().insert(to);
            }
        }
        needs
    }

    /// Files that need each other, over whatever others.
    fn circles(&self) -> Vec<String> {
        let needs = self.needs();
        let mut circles = Vec::new();
        for start in needs.keys() {
            let (mut seen, mut next) = (BTreeSet::new(), vec![(*start).clone()]);
            while let Some(module) = next.pop() {
                for to in needs.get(&module).into_iter().flatten() {
                    if to == *start {
                        circles.push(format!("{} ⇄ {}", shown(start), shown(&module)));
                    }
                    if seen.insert(to.clone()) {
                        next.push(to.clone());
                    }
                }
            }
        }
        circles
    }

    /// Paths that lead past the door of a wing: a folder in a room.
    fn past_doors(&self) -> Vec<String> {
        let has_files = |wing: &[String]| {
            self.all.iter().any(|module| module.len() > wing.len() && module.starts_with(wing))
        };
        let mut past = Vec::new();
        for (from, names) in &self.taken {
            for depth in 2..names.len().saturating_sub(1) {
                let wing = &names[..depth];
                let enters = !from.starts_with(wing) && has_files(wing);
                if enters && self.all.contains(&names[..=depth]) {
                    past.push(format!("{}: {}", shown(from), names.join("::")));
                }
            }
        }
        past
    }
}

fn shown(module: &[String]) -> String {
    if module.is_empty() { "lib".to_owned() } else { module.join("::") }
}

#[test]
fn no_files_need_each_other() {
    let house = House::of(&code());
    let edges: usize = house.needs().values().map(BTreeSet::len).sum();
    assert!(house.all.len() > 100 && edges > 300, "the sources were not read");
    assert_eq!(house.circles(), Vec::<String>::new());
}

#[test]
fn nobody_enters_a_wing_past_its_door() {
    assert_eq!(House::of(&code()).past_doors(), Vec::<String>::new());
}

#[test]
fn no_folder_is_too_full() {
    let mut folders: BTreeMap<_, usize> = BTreeMap::new();
    for path in sources(&root()).iter().filter(|path| !is_test(path)) {
        *folders.entry(path.parent().unwrap().to_owned()).or_default() += 1;
    }
    folders.retain(|_, files| *files > MOST);
    assert!(folders.is_empty(), "more than {MOST} files: {folders:?}");
}

/// What the tests above would find.
#[test]
fn a_circle_and_a_way_past_a_door_are_found() {
    let house = |files: &[(&str, &str)]| {
        let module = |path: &str| path.split("::").map(str::to_owned).collect();
        House::of(&files.iter().map(|(path, code)| (module(path), (*code).to_owned())).collect())
    };
    let apart = house(&[
        ("room", "use wing::Leaf;\npub struct Own;"),
        ("room::wing", "pub use leaf::{Leaf, Other};"),
        ("room::wing::leaf", "use crate::room::Own;\npub struct Leaf;\npub struct Other;"),
        ("room::text", "fn f() { g(\"of no use { to\") }"),
        ("room::next", "use super::{Own, wing::{self, Other}};\nfn f() { wing::Leaf::new() }"),
    ]);
    assert_eq!(apart.circles(), Vec::<String>::new());
    assert_eq!(apart.past_doors(), Vec::<String>::new());
    let tied = house(&[
        ("room::a", "fn f() { super::b::g() }"),
        ("room::b", "use crate::room::wing::Leaf;"),
        ("room::wing", "pub(super) use leaf::Leaf;"),
        ("room::wing::leaf", "use crate::room::a::f;"),
        ("other", "use crate::room::wing::leaf::Leaf;"),
    ]);
    assert_eq!(tied.circles().len(), 3, "{:?}", tied.circles());
    assert_eq!(tied.past_doors(), ["other: room::wing::leaf::Leaf"]);
}
