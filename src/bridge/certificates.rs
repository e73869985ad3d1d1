//! The ends of the certificates in use: a metric, and a warning ahead of each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::warn;

use crate::config::{Config, Tls};
use crate::files::certificate::{self, AHEAD, Certificate, day};
use crate::files::regular;
use crate::metrics::Metrics;
use crate::outbound::tls::MAX_BYTES;
use crate::reload::Part;

/// How often the certificates are checked.
const LOOK_EVERY: Duration = Duration::from_hours(1);

/// How often a near end is logged.
const SAY_EVERY: Duration = Duration::from_hours(24);

/// The certificates that the parts were built with; a new one in the file is used after a reload.
pub(super) struct Certificates(Vec<Watched>);

struct Watched {
    owner: String,
    path: PathBuf,
    until: SystemTime,
    said: Option<SystemTime>,
}

impl Certificates {
    /// Those of `config`, as its files are now. Near ends were reported when it was loaded.
    pub(super) fn of(config: &Config, metrics: &Metrics, now: SystemTime) -> Self {
        metrics.forget_certificates();
        let watched = |(owner, key, path): (Part, &'static str, &Path)| {
            let found = read(path)?;
            let until = match key {
                "ca_file" => certificate::next_end(&found, now),
                "cert_file" => found.iter().map(|each| each.until).min(),
                _ => None,
            }?;
            let end = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let (label, name) = match &owner {
                Part::Api(name) => ("api", &**name),
                Part::Source(name) => ("source", &**name),
                _ => return None,
            };
            let gauge = metrics.certificate_expiry(label, name, key);
            gauge.set(i64::try_from(end).unwrap_or(i64::MAX));
            let said = is_near(until, now).then_some(now);
            Some(Watched { owner: owner.to_string(), path: path.to_owned(), until, said })
        };
        Self(files(config).filter_map(watched).collect())
    }

    /// Warns for ever.
    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = SystemTime::now();
            for Watched { owner, path, until, .. } in self.due(now) {
                let (file, end) = (path.display(), day(*until));
                let what = if *until < now { "has expired" } else { "expires soon" };
                warn!(%owner, %file, %end, "a certificate {what}; renew it, and reload the bridge");
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

fn read(path: &Path) -> Option<Vec<Certificate>> {
    let content = regular::read(path, MAX_BYTES).ok()?;
    certificate::of_pem(&content.bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_said_fourteen_days_ahead_and_every_day() {
        let hour = |hours: u64| UNIX_EPOCH + Duration::from_hours(hours);
        let until = hour(15 * 24);
        let watched =
            Watched { owner: "api main".into(), path: "ca.pem".into(), until, said: None };
        let mut certificates = Certificates(vec![watched]);
        let said: Vec<_> =
            (0..17 * 24).filter(|h| !certificates.due(hour(*h)).is_empty()).collect();
        let days: Vec<_> = (0..16).map(|day| 25 + day * 24).collect();
        assert_eq!(said, days);
    }
}
