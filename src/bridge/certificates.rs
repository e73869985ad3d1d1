//! The ends of the certificates in use: a metric, and a warning ahead of each.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::warn;

use crate::config::{Config, Tls};
use crate::files::certificate::{self, AHEAD, Certificate, day};
use crate::files::regular;
use crate::metrics::Metrics;
use crate::outbound::tls::MAX_BYTES;

/// How often the certificates are checked.
const LOOK_EVERY: Duration = Duration::from_hours(1);

/// How often a near end is logged.
const SAY_EVERY: Duration = Duration::from_hours(24);

/// The certificates that the parts were built with; a new one in the file is used after a restart.
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
        let mut all = Vec::new();
        let mut watch = |label: &'static str, name: &str, key: &'static str, path: &Path| {
            let Some(found) = read(path) else { return };
            let until = match key {
                "ca_file" => certificate::next_end(&found, now),
                _ => found.iter().map(|each| each.until).min(),
            };
            let Some(until) = until else { return };
            let end = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let gauge = metrics.certificate_expiry(label, name, key);
            gauge.set(i64::try_from(end).unwrap_or(i64::MAX));
            let said = is_near(until, now).then_some(now);
            all.push(Watched {
                owner: format!("{label} {name}"),
                path: path.to_owned(),
                until,
                said,
            });
        };
        for (name, api) in &config.apis {
            if let Some(path) = &api.ca_file {
                watch("api", name, "ca_file", path);
            }
        }
        for source in &config.sources {
            let Some(Tls { ca_file, identity }) = source.kind.settings().tls() else { continue };
            if let Some(path) = ca_file {
                watch("source", &source.name, "ca_file", path);
            }
            if let Some((path, _)) = identity {
                watch("source", &source.name, "cert_file", path);
            }
        }
        Self(all)
    }

    /// Warns for ever.
    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = SystemTime::now();
            for Watched { owner, path, until, .. } in self.due(now) {
                let (file, end) = (path.display(), day(*until));
                let what = if *until < now { "has expired" } else { "expires soon" };
                warn!(%owner, %file, %end, "a certificate {what}; renew it, and restart the bridge");
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
