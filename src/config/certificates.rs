//! Checks of the configured certificates: validity today, and match with their keys.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::reader::{Kind, Ledger, Located, Problem, quoted};
use crate::files::certificate::{self, Certificate, Renewal, Validity, day};
use crate::files::regular;

/// A file of certificates or a key holds no more.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Reports expired, not yet valid or soon expiring certificates in a file of CAs. One valid CA is enough.
pub(super) fn authorities(
    ledger: &Ledger<'_>,
    file: &Located<PathBuf>,
    renewal: Renewal,
) -> Option<()> {
    let all = read(ledger, file)?;
    let now = SystemTime::now();
    let good =
        |each: &Certificate| matches!(each.validity(now), Validity::Valid | Validity::Expiring);
    let some = all.iter().any(good);
    judge(ledger, &all, file, (now, renewal), some)
}

/// Reports errors in a client's chain and key.
pub(super) fn identity(
    ledger: &Ledger<'_>,
    chain: &Located<PathBuf>,
    key: &Located<PathBuf>,
) -> Option<()> {
    pair(ledger, chain, key, "client", Renewal::Reload)
}

/// Reports errors in a server's chain and key. One that is over is a warning: whoever looks at it is told, and
/// messages need it for nothing.
pub(super) fn of_server(
    ledger: &Ledger<'_>,
    chain: &Located<PathBuf>,
    key: &Located<PathBuf>,
) -> Option<()> {
    pair(ledger, chain, key, "server", Renewal::Followed)
}

fn pair(
    ledger: &Ledger<'_>,
    chain: &Located<PathBuf>,
    key: &Located<PathBuf>,
    whose: &str,
    renewal: Renewal,
) -> Option<()> {
    let all = read(ledger, chain)?;
    let lenient = renewal == Renewal::Followed;
    let usable = judge(ledger, &all, chain, (SystemTime::now(), renewal), lenient);
    if all.windows(2).any(|pair| !pair[0].names_as_issuer(&pair[1])) {
        let message = format!("the certificates of {} are not in order", shown(ledger, chain));
        let problem = Problem::new(Kind::Warning, Some(chain.span.clone()), message);
        let hint = format!("the {whose}'s own comes first, and each is followed by its issuer's");
        ledger.report(problem.help(hint));
    }
    belong_together(ledger, chain, key, whose)?;
    usable
}

/// Reports the certificates of a file that are not valid at `now`, or not for long.
fn judge(
    ledger: &Ledger<'_>,
    all: &[Certificate],
    file: &Located<PathBuf>,
    at: (SystemTime, Renewal),
    others: bool,
) -> Option<()> {
    let mut usable = true;
    for problem in all.iter().filter_map(|each| judged(ledger, each, file, at, others)) {
        usable &= problem.kind() == Kind::Warning;
        ledger.report(problem);
    }
    usable.then_some(())
}

/// The report on a certificate; where `others` are valid, an invalid one is a warning.
fn judged(
    ledger: &Ledger<'_>,
    certificate: &Certificate,
    file: &Located<PathBuf>,
    at: (SystemTime, Renewal),
    others: bool,
) -> Option<Problem> {
    let (now, renewal) = at;
    let validity = certificate.validity(now);
    let (what, hint) = match validity {
        Validity::Valid => return None,
        Validity::Expiring => ("expires on", renewal.remedy()),
        Validity::Expired => ("expired on", "renew it"),
        Validity::NotYet => {
            ("is not valid before", "wait for that day, or see whether the clock is right")
        }
    };
    let date = if validity == Validity::NotYet { certificate.from } else { certificate.until };
    let subject = quoted(&certificate.subject);
    let message =
        format!("the certificate of {subject} in {} {what} {}", shown(ledger, file), day(date));
    let warning = others || validity == Validity::Expiring;
    let kind = if warning { Kind::Warning } else { Kind::BadValue };
    Some(Problem::new(kind, Some(file.span.clone()), message).help(hint))
}

/// Reports a certificate and a key that don't match.
fn belong_together(
    ledger: &Ledger<'_>,
    certificate: &Located<PathBuf>,
    key: &Located<PathBuf>,
    whose: &str,
) -> Option<()> {
    let refuse = |at: &Range<usize>, message: String, hint: Option<String>| {
        let problem = Problem::new(Kind::BadValue, Some(at.clone()), message);
        ledger.refuse(problem.maybe_help(hint))
    };
    let Some(chain) = chain(&certificate.value) else { return unusable(ledger, certificate) };
    let private = || {
        let content = regular::read(&key.value, MAX_BYTES).ok()?;
        Some((PrivateKeyDer::from_pem_slice(&content.bytes).ok()?, content.is_open_to_others()))
    };
    let Some((private, open_to_others)) = private() else { return unusable(ledger, key) };
    if open_to_others {
        let file = shown(ledger, key);
        let message = format!("{file} holds a private key and others can read it");
        let problem = Problem::new(Kind::Warning, Some(key.span.clone()), message);
        ledger.report(problem.help(format!("chmod 600 {}", file.trim_matches('`'))));
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let fits = |chain: Vec<CertificateDer<'static>>| {
        CertifiedKey::from_der(chain, private.clone_key(), &provider)
    };
    match fits(chain.clone()) {
        Ok(_) => Some(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let later = chain.into_iter().skip(1).any(|other| fits(vec![other]).is_ok());
            let hint = format!("the {whose}'s own certificate has to be the first of `cert_file`");
            let message = "`cert_file` and `key_file` do not belong together".to_owned();
            refuse(&key.span, message, later.then_some(hint))
        }
        Err(error) => {
            let message = format!("the {whose}'s certificate can't be used: {error}");
            refuse(&certificate.span, message, None)
        }
    }
}

fn chain(path: &Path) -> Option<Vec<CertificateDer<'static>>> {
    let content = regular::read(path, MAX_BYTES).ok()?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content.bytes).collect();
    chain.ok().filter(|chain| !chain.is_empty())
}

fn read(ledger: &Ledger<'_>, file: &Located<PathBuf>) -> Option<Vec<Certificate>> {
    let content = regular::read(&file.value, MAX_BYTES).ok();
    let all = content.and_then(|content| certificate::of_pem(&content.bytes).ok());
    all.or_else(|| unusable(ledger, file))
}

fn unusable<T>(ledger: &Ledger<'_>, file: &Located<PathBuf>) -> Option<T> {
    let message = format!("{} can't be used: its PEM is broken", shown(ledger, file));
    ledger.refuse(Problem::new(Kind::BadValue, Some(file.span.clone()), message))
}

fn shown(ledger: &Ledger<'_>, file: &Located<PathBuf>) -> String {
    ledger.quoted(&file.span, &file.value.display().to_string())
}

#[cfg(feature = "emulator")]
#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};

    use crate::config::{Environment, parse};

    const OVER: (i32, i32) = (2020, 2021);
    const GOOD: (i32, i32) = (2020, 2999);
    const NOT_YET: (i32, i32) = (2998, 2999);

    /// A certificate and its key, in PEM.
    fn made((from, until): (i32, i32), issuer: Option<&Issuer<'_, KeyPair>>) -> (String, String) {
        let mut params = CertificateParams::new(["client".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let signed = match issuer {
            None => params.self_signed(&key),
            Some(issuer) => params.signed_by(&key, issuer),
        };
        (signed.unwrap().pem(), key.serialize_pem())
    }

    /// A file that nobody else can read.
    fn private(path: &Path, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// What is said, of an API with this CA or of a source with this chain and key.
    fn said(ca: Option<&str>, identity: Option<(&str, &str)>) -> String {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            private(&directory.path().join(name), text);
            format!("{name}_file = {:?}\n", directory.path().join(name).to_str().unwrap())
        };
        let ca = ca.map_or(String::new(), |ca| write("ca", ca));
        let tls = identity.map_or(String::new(), |(chain, key)| {
            let (chain, key) = (write("cert", chain), write("key", key));
            format!("tls = {{ {}, {} }}\n", chain.trim(), key.trim())
        });
        let text = format!(
            "[api.main]\nendpoint = \"http://localhost/event\"\nauth = {{ type = \"token\", token = {{ env = \"T\" }} }}\n{ca}\
             [source.plant]\ntype = \"mqtt\"\nurl = \"mqtts://b\"\nclient_id = \"b\"\nsubscriptions = \"#\"\n{tls}\
             [route.all]\nfrom = \"plant\"\nchannel = \"/all/x\"\n"
        );
        let environment = Environment::of([("HOME", "/h"), ("T", "t")]);
        match parse(&text, Path::new("t.toml"), &environment) {
            Ok(loaded) => loaded.warnings.to_string(),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn a_ca_that_is_over_is_an_error_and_one_of_several_a_warning() {
        let (good, over, not_yet) = (made(GOOD, None).0, made(OVER, None).0, made(NOT_YET, None).0);
        assert_eq!(said(Some(&good), None), "");
        let found = said(Some(&over), None);
        assert!(found.contains("expired on 2021-01-01") && found.contains("1 problem"), "{found}");
        let found = said(Some(&not_yet), None);
        assert!(found.contains("is not valid before 2998-01-01"), "{found}");
        let found = said(Some(&(over.clone() + &good)), None);
        assert!(found.contains("expired on 2021-01-01") && found.ends_with("1 warning"), "{found}");
        let found = said(Some(&(over.clone() + &not_yet)), None);
        assert!(found.ends_with("2 problems"), "{found}");
        let found = said(Some("-----BEGIN CERTIFICATE-----\n???\n"), None);
        assert!(found.contains("its PEM is broken"), "{found}");
    }

    #[test]
    fn a_clients_certificate_that_is_over_is_an_error() {
        for (dates, says) in
            [(OVER, "expired on 2021-01-01"), (NOT_YET, "is not valid before 2998-01-01")]
        {
            let (chain, key) = made(dates, None);
            let found = said(None, Some((&chain, &key)));
            assert!(found.contains(says) && found.ends_with("1 problem"), "{found}");
        }
        let now = std::time::SystemTime::now();
        let mut params = CertificateParams::new(["client".to_owned()]).unwrap();
        params.not_after = (now + std::time::Duration::from_hours(48)).into();
        let key = KeyPair::generate().unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        let found = said(None, Some((&chain, &key.serialize_pem())));
        assert!(found.contains("expires on 2") && found.ends_with("1 warning"), "{found}");
    }

    #[test]
    fn the_remedy_is_that_of_whose_certificate_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let mut params = CertificateParams::new(["x".to_owned()]).unwrap();
        params.not_after =
            (std::time::SystemTime::now() + std::time::Duration::from_hours(48)).into();
        let key = KeyPair::generate().unwrap();
        private(&file("key"), &key.serialize_pem());
        std::fs::write(file("cert"), params.self_signed(&key).unwrap().pem()).unwrap();
        for (api, rest, remedy) in [
            (
                format!("ca_file = {:?}", file("cert")),
                String::new(),
                "renew it, and reload the bridge",
            ),
            (
                String::new(),
                format!(
                    "[admin]\ntls = {{ cert_file = {:?}, key_file = {:?} }}",
                    file("cert"),
                    file("key")
                ),
                "renew it",
            ),
            (
                String::new(),
                format!("[otlp]\nendpoint = \"https://c\"\nca_file = {:?}", file("cert")),
                "renew it, and restart the bridge",
            ),
        ] {
            let text = format!(
                "[api.main]\nendpoint = \"http://localhost/event\"\nauth = {{ type = \"token\", token = {{ env = \"T\" }} }}\n{api}\n\
                 [source.plant]\ntype = \"mqtt\"\nurl = \"mqtt://b\"\nclient_id = \"b\"\nsubscriptions = \"#\"\n\
                 [route.all]\nfrom = \"plant\"\nchannel = \"/all/x\"\n{rest}\n"
            );
            let environment = Environment::of([("HOME", "/h"), ("T", "t")]);
            let loaded = parse(&text, Path::new("t.toml"), &environment);
            let warnings = loaded.unwrap_or_else(|problems| panic!("{problems}")).warnings;
            let helps: Vec<_> = warnings.log_lines().map(|line| line.help).collect();
            assert!(helps.iter().any(|help| *help == remedy), "{helps:?}");
        }
    }

    #[test]
    fn a_chain_is_in_order_and_its_first_belongs_to_the_key() {
        let authority = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&authority).unwrap().pem();
        let issuer = Issuer::new(params, authority);
        let (own, key) = made(GOOD, Some(&issuer));
        let stranger = made(GOOD, None).0;
        assert_eq!(said(None, Some((&(own.clone() + &ca), &key))), "");
        let found = said(None, Some((&(own.clone() + &stranger), &key)));
        assert!(found.contains("are not in order") && found.ends_with("1 warning"), "{found}");
        let found = said(None, Some((&(ca + &own), &key)));
        assert!(found.contains("do not belong together"), "{found}");
        assert!(found.contains("has to be the first of `cert_file`"), "{found}");
    }
}
