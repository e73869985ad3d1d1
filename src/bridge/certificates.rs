//! The ends of the certificates in use: a metric, and a warning ahead of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::warn;

use crate::config::{Config, Tls};
use crate::files::certificate::{self, AHEAD, Renewal, day};
use crate::files::regular;
use crate::metrics::Metrics;
use crate::outbound::tls::MAX_BYTES;
use crate::reload::Part;

/// How often the certificates are checked.
const LOOK_EVERY: Duration = Duration::from_hours(1);

/// How often a near end is logged.
const SAY_EVERY: Duration = Duration::from_hours(24);

/// The certificates in use: a new one in the file of a part is used after a reload, one of `[admin]` by itself, and one
/// of `[otlp]` after a restart.
pub(super) struct Certificates(Vec<Watched>);

struct Watched {
    owner: Owner,
    key: &'static str,
    path: PathBuf,
    until: SystemTime,
    said: Option<SystemTime>,
}

/// Who uses a certificate.
#[derive(Debug)]
enum Owner {
    Part(Part),
    Admin,
    Otlp,
}

impl Certificates {
    /// Those of `config`, as its files are now. Near ends were reported when it was loaded.
    pub(super) async fn read(config: Arc<Config>) -> Self {
        let read = move || Self::of(&config, SystemTime::now());
        // Nobody aborts it, and a panic was logged.
        Self(tokio::task::spawn_blocking(read).await.unwrap_or_default())
    }

    fn of(config: &Config, now: SystemTime) -> Vec<Watched> {
        let parts = files(config).map(|(part, key, path)| (Owner::Part(part), key, path));
        let admin = config.admin.tls.iter().map(|(chain, _)| (Owner::Admin, "cert_file", &**chain));
        let otlp = config.otlp.iter().filter_map(|otlp| otlp.ca_file.as_deref());
        let otlp = otlp.map(|path| (Owner::Otlp, "ca_file", path));
        let watched = |(owner, key, path): (Owner, &'static str, &Path)| {
            let until = end(key, path, now)?;
            let said = is_near(until, now).then_some(now);
            Some(Watched { owner, key, path: path.to_owned(), until, said })
        };
        parts.chain(admin).chain(otlp).filter_map(watched).collect()
    }

    /// Shows their ends, and those of no others.
    pub(super) fn show(&self, metrics: &Metrics) {
        let ends = self.0.iter().filter_map(|Watched { owner, key, until, .. }| {
            let (label, name) = owner.label()?;
            let end = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            Some((label, name, *key, i64::try_from(end).unwrap_or(i64::MAX)))
        });
        metrics.certificates(&ends.collect::<Vec<_>>());
    }

    /// Warns for ever.
    pub(super) async fn run(mut self, metrics: Metrics) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let look = move || {
                self.follow(SystemTime::now());
                self
            };
            let Ok(looked) = tokio::task::spawn_blocking(look).await else { return };
            self = looked;
            self.show(&metrics);
            let now = SystemTime::now();
            for Watched { owner, path, until, .. } in self.due(now) {
                let (file, end) = (path.display(), day(*until));
                let what = if *until < now { "has expired" } else { "expires soon" };
                let remedy = owner.renewal().remedy();
                warn!(%owner, %file, %end, "a certificate {what}; {remedy}");
            }
        }
    }

    /// Reads those anew that are used as they are in their files.
    fn follow(&mut self, now: SystemTime) {
        for each in self.0.iter_mut().filter(|each| each.owner.renewal() == Renewal::Followed) {
            // One that can't be read now is not used either.
            let Some(until) = end(each.key, &each.path, now) else { continue };
            if until != each.until {
                (each.until, each.said) = (until, None);
            }
        }
    }

    /// The warnings that are due.
    fn due(&mut self, now: SystemTime) -> Vec<&Watched> {
        let due = |said: Option<SystemTime>| {
            said.is_none_or(|said| now.duration_since(said).is_ok_and(|since| since >= SAY_EVERY))
        };
        let near = self.0.iter_mut().filter(|each| is_near(each.until, now) && due(each.said));
        let mut all = Vec::new();
        for each in near {
            each.said = Some(now);
            all.push(&*each);
        }
        all
    }
}

impl Owner {
    /// As metrics name it.
    fn label(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Part(Part::Api(name)) => Some(("api", name)),
            Self::Part(Part::Source(name)) => Some(("source", name)),
            Self::Part(_) => None,
            Self::Admin => Some(("section", "admin")),
            Self::Otlp => Some(("section", "otlp")),
        }
    }

    fn renewal(&self) -> Renewal {
        match self {
            Self::Part(_) => Renewal::Reload,
            Self::Admin => Renewal::Followed,
            Self::Otlp => Renewal::Restart,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(part) => part.fmt(f),
            Self::Admin => f.write_str("[admin]"),
            Self::Otlp => f.write_str("[otlp]"),
        }
    }
}

/// What the files of certificates and keys hold, by the part that is built with them.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents(BTreeMap<Part, Vec<Option<Vec<u8>>>>);

impl Contents {
    /// As the files of `config` are now.
    pub(super) fn of(config: &Config) -> Self {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for (owner, _, path) in files(config) {
            let content = regular::read(path, MAX_BYTES).ok().map(|content| digest(&content.bytes));
            all.entry(owner).or_default().push(content);
        }
        Self(all)
    }

    /// The parts whose files hold something else in `other`.
    pub(super) fn renewed(&self, other: &Self) -> BTreeSet<Part> {
        let same = |(owner, contents): &(&Part, &Vec<_>)| self.0.get(*owner) == Some(*contents);
        let renewed = other.0.iter().filter(|each| !same(each));
        renewed.map(|(owner, _)| owner.clone()).collect()
    }
}

/// A key is not kept.
fn digest(content: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content).as_ref().to_vec()
}

/// The files that parts are built with, which are not read again: whose, their key, and their path.
fn files(config: &Config) -> impl Iterator<Item = (Part, &'static str, &Path)> {
    let of_apis = config.apis.iter().filter_map(|(name, api)| {
        Some((Part::Api(Arc::clone(name)), "ca_file", api.ca_file.as_deref()?))
    });
    let of_sources = config.sources.iter().flat_map(|source| {
        let tls = source.kind.settings().tls();
        let ca = tls.and_then(|Tls { ca_file, .. }| Some(("ca_file", ca_file.as_deref()?)));
        let identity = tls.and_then(|Tls { identity, .. }| identity.as_ref());
        let identity = identity.map(|(certificate, key)| {
            [("cert_file", certificate.as_path()), ("key_file", key.as_path())]
        });
        let files = ca.into_iter().chain(identity.into_iter().flatten());
        files.map(|(key, path)| (Part::Source(source.name.clone()), key, path))
    });
    of_apis.chain(of_sources)
}

fn is_near(until: SystemTime, now: SystemTime) -> bool {
    until.duration_since(now).map_or(true, |left| left < AHEAD)
}

/// The end that counts of what the file of `key` holds; a key has none.
fn end(key: &str, path: &Path, now: SystemTime) -> Option<SystemTime> {
    let found = || certificate::of_pem(&regular::read(path, MAX_BYTES).ok()?.bytes).ok();
    match key {
        "ca_file" => certificate::next_end(&found()?, now),
        "cert_file" => found()?.iter().map(|each| each.until).min(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_said_fourteen_days_ahead_and_every_day() {
        let hour = |hours: u64| UNIX_EPOCH + Duration::from_hours(hours);
        let until = hour(15 * 24);
        let (owner, path) = (Owner::Admin, "ca.pem".into());
        let watched = Watched { owner, key: "ca_file", path, until, said: None };
        let mut certificates = Certificates(vec![watched]);
        let said: Vec<_> =
            (0..17 * 24).filter(|h| !certificates.due(hour(*h)).is_empty()).collect();
        let days: Vec<_> = (0..16).map(|day| 25 + day * 24).collect();
        assert_eq!(said, days);
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn those_of_sections_are_shown_and_that_of_the_admin_port_as_its_file_is() {
        use rcgen::{CertificateParams, KeyPair, date_time_ymd};

        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let key = KeyPair::generate().unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        let write = |name: &str, year: i32| {
            let mut params = CertificateParams::new(["a".to_owned()]).unwrap();
            params.not_after = date_time_ymd(year, 1, 1);
            std::fs::write(file(name), params.self_signed(&key).unwrap().pem()).unwrap();
        };
        write("chain", 2900);
        write("ca", 2901);
        let text = format!(
            "[api.main]\nendpoint = \"http://localhost/event\"\nauth = {{ type = \"api-key\", key = \"k\" }}\n\
             [source.s]\ntype = \"mqtt\"\nurl = \"mqtt://b\"\nclient_id = \"b\"\nsubscriptions = \"#\"\n\
             [route.all]\nfrom = \"s\"\nchannel = \"/all/x\"\ndead_letter = \"discard\"\n\
             [admin]\ntls = {{ cert_file = {:?}, key_file = {:?} }}\n\
             [otlp]\nendpoint = \"https://localhost:4318\"\nca_file = {:?}\n",
            file("chain"),
            file("key"),
            file("ca")
        );
        let environment = crate::config::Environment::of([("HOME", "/h")]);
        let loaded = crate::config::parse(&text, Path::new("b.toml"), &environment);
        let config = loaded.unwrap_or_else(|problems| panic!("{problems}")).config;
        let (metrics, now) = (Metrics::new(), SystemTime::now());
        let mut certificates = Certificates(Certificates::of(&config, now));
        let shown = |certificates: &Certificates| {
            certificates.show(&metrics);
            ["admin", "otlp"].map(|section| {
                let text = metrics.encode();
                let mut lines =
                    text.lines().filter(|line| line.contains(&format!("section=\"{section}\"")));
                let line = lines.next().unwrap_or_else(|| panic!("no {section} in\n{text}"));
                line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
            })
        };
        let before = shown(&certificates);
        assert!(before[0] < before[1] && certificates.due(now).is_empty());
        for name in ["chain", "ca"] {
            write(name, 2020);
        }
        certificates.follow(now);
        let after = shown(&certificates);
        assert!(after[0] < before[0] && after[1] == before[1], "{before:?}, {after:?}");
        let due = certificates.due(now);
        assert!(due.len() == 1 && due[0].owner.to_string() == "[admin]");
        assert_eq!(due[0].owner.renewal().remedy(), "renew it");
    }
}
