//! The facts in a certificate: subject, issuer and validity.
//!
//! Not here: whether it is trusted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{Error, PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;

/// How long ahead of a certificate's expiry a warning is due.
pub const AHEAD: Duration = Duration::from_hours(14 * 24);

/// The facts of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its subject: `CN=bridge, O=Example`.
    pub subject: String,
    /// The first second of its validity.
    pub from: SystemTime,
    /// The last second of its validity.
    pub until: SystemTime,
    /// Subject and issuer, in DER.
    names: (Vec<u8>, Vec<u8>),
}

/// The validity of a certificate at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Not valid yet.
    NotYet,
    /// Valid for [`AHEAD`] or longer.
    Valid,
    /// Valid for less than [`AHEAD`].
    Expiring,
    /// Expired.
    Expired,
}

/// How a new certificate in a file comes into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// By itself: the file is looked at.
    Followed,
    /// With a reload.
    Reload,
    /// With the next start.
    Restart,
}

impl Renewal {
    /// What somebody has to do when the one in use ends.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Followed => "renew it",
            Self::Reload => "renew it, and reload the bridge",
            Self::Restart => "renew it, and restart the bridge",
        }
    }
}

/// The certificates of a PEM text, in its order. Those that are no X.509 are left out: their user reports them.
pub fn of_pem(text: &[u8]) -> Result<Vec<Certificate>, Error> {
    let ders: Vec<_> = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>()?;
    Ok(ders.iter().filter_map(|der| Certificate::of_der(der)).collect())
}

/// The relevant expiry of a file of CAs: the next one, or else the last past one.
pub fn next_end(certificates: &[Certificate], now: SystemTime) -> Option<SystemTime> {
    let ends = || certificates.iter().map(|certificate| certificate.until);
    ends().filter(|end| *end >= now).min().or_else(|| ends().max())
}

impl Certificate {
    /// Of its DER; `None` if it is no X.509.
    pub fn of_der(der: &[u8]) -> Option<Self> {
        let (_, read) = X509Certificate::from_der(der).ok()?;
        let names = (read.subject().as_raw().to_vec(), read.issuer().as_raw().to_vec());
        let validity = read.validity();
        let (from, until) = (time(validity.not_before), time(validity.not_after));
        Some(Self { subject: read.subject().to_string(), from, until, names })
    }

    /// Its validity at `now`.
    pub fn validity(&self, now: SystemTime) -> Validity {
        if now < self.from {
            Validity::NotYet
        } else if now > self.until {
            Validity::Expired
        } else if self.until.duration_since(now).is_ok_and(|left| left < AHEAD) {
            Validity::Expiring
        } else {
            Validity::Valid
        }
    }

    /// Whether `other`'s subject is this one's issuer.
    pub fn names_as_issuer(&self, other: &Self) -> bool {
        self.names.1 == other.names.0
    }
}

/// The day of a time, in UTC: `2027-03-01`.
pub fn day(time: SystemTime) -> String {
    let mut text = humantime::format_rfc3339_seconds(time).to_string();
    text.truncate("2027-03-01".len());
    text
}

/// Clamped to 1970 and to years of four digits.
fn time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

#[cfg(feature = "emulator")]
#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn made(from: (i32, u8, u8), until: (i32, u8, u8)) -> String {
        let mut params = rcgen::CertificateParams::new(["client".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn is_good_from_its_first_day_to_its_last() {
        let text = made((2026, 1, 1), (2026, 3, 1)) + &made((2027, 1, 1), (9999, 12, 31));
        let all = of_pem(text.as_bytes()).unwrap();
        let one = &all[0];
        assert_eq!((day(one.from), day(one.until)), ("2026-01-01".into(), "2026-03-01".into()));
        assert!(one.subject.starts_with("CN="), "{}", one.subject);
        let (start, end) = (1_767_225_600, 1_772_323_200);
        for (now, validity) in [
            (start - 1, Validity::NotYet),
            (start, Validity::Valid),
            (end - AHEAD.as_secs(), Validity::Valid),
            (end - AHEAD.as_secs() + 1, Validity::Expiring),
            (end, Validity::Expiring),
            (end + 1, Validity::Expired),
        ] {
            assert_eq!(one.validity(at(now)), validity, "{now}");
        }
        assert_eq!(day(all[1].until), "9999-12-31");
        assert_eq!(next_end(&all, at(end)), Some(one.until));
        assert_eq!(next_end(&all, at(end + 1)), Some(all[1].until));
        assert_eq!(next_end(&all[..1], at(end + 1)), Some(one.until));
        assert!(one.names_as_issuer(one));
    }
}
