//! Settings that all kinds of sources share: in-flight limits and TLS; and what all settings can be asked.

use std::ops::Range;
use std::path::PathBuf;

use super::api::{ca_file, pem_file};
use super::certificates;
use super::reader::{Field, Form, Kind, Ledger, Located, Problem, Reported, Setting, Table};
use crate::files::certificate::Renewal;

/// `tls = { ca_file, cert_file, key_file }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A CA that is trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and key, both PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What the settings of every kind of source tell.
pub trait Settings {
    /// A larger payload is dead-lettered unread. Bytes.
    fn max_payload(&self) -> usize;
    /// How to secure the connection, if at all.
    fn tls(&self) -> Option<&Tls>;
    /// What the broker is asked for, as written: topics, filters.
    fn asked(&self) -> Vec<&str>;
    /// What is lost of a source whose broker keeps nothing for it, and what to do about that.
    fn at_most_once(&self) -> Option<&'static str> {
        None
    }
    /// A route leaves rejects to the broker.
    fn leave_rejects(&mut self) {}
    /// Whether its messages can have a key.
    fn has_keys(&self) -> bool {
        false
    }
    /// Whose connection no other may have: two of them would push one another out for ever.
    fn client(&self) -> Option<Client>;
    /// By what the broker keeps what it has not given to this source, in words; `None` where it keeps nothing. A source
    /// that comes to have another one leaves that behind.
    fn kept_by(&self) -> Option<String>;
}

/// A name that a broker lets one connection have.
#[derive(Debug)]
pub struct Client {
    /// The servers of the broker that are named.
    pub at: Vec<String>,
    /// Where it counts there: the group, the stream.
    pub of: String,
    /// The name.
    pub name: String,
    /// The key that gives it.
    pub key: &'static str,
}

impl Client {
    /// Whether both are one: they name a server in common, though one may name more.
    pub fn is(&self, other: &Self) -> bool {
        let at = |server: &String| other.at.iter().any(|that| that.eq_ignore_ascii_case(server));
        (self.key, &self.of, &self.name) == (other.key, &other.of, &other.name)
            && self.at.iter().any(at)
    }
}

/// Settings, and where in the file those are that others are checked against.
pub(super) struct Own<C> {
    pub(super) config: C,
    /// What tells this client from others at the broker.
    pub(super) client: Option<Range<usize>>,
    /// What the broker is asked for, one each.
    pub(super) asked: Vec<Range<usize>>,
}

impl<C> Own<C> {
    /// With the settings of one kind made those of any.
    pub(super) fn map<T>(self, of: impl FnOnce(C) -> T) -> Own<T> {
        Own { config: of(self.config), client: self.client, asked: self.asked }
    }
}

/// The shared settings, as far as they could be read.
pub(super) struct Common {
    pub(super) messages: Option<Setting<u32>>,
    pub(super) bytes: Option<Setting<u64>>,
    pub(super) tls: Field<TlsChoice>,
    pub(super) plaintext: Option<Setting<bool>>,
}

/// `tls`.
pub(super) enum TlsChoice {
    /// `false`.
    Off,
    /// `true` or a table.
    On(Tls),
}

const IN_FLIGHT_BYTES: u64 = 64 << 20;

/// The largest payload of a broker without a limit of its own here: an event has at most 240 KB.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;

/// Reads the shared settings; `in_flight` is the default number of messages, `most` the largest.
pub(super) fn common(table: &mut Table<'_>, in_flight: u32, most: u32) -> Common {
    let ledger = table.ledger;
    let bytes = table.size("max_in_flight_bytes").then(|bytes| {
        if bytes.value == 0 {
            let message = "`max_in_flight_bytes` is 0, so nothing could ever be taken";
            return ledger.refuse(Problem::new(Kind::Impossible, Some(bytes.span), message));
        }
        Some(bytes.value)
    });
    Common {
        messages: table.integer("max_in_flight", 1..=most).or(in_flight),
        bytes: bytes.or(IN_FLIGHT_BYTES),
        tls: tls(table),
        plaintext: table.boolean("dangerously_plaintext").or(false),
    }
}

/// The TLS of a broker, where its address may ask for it: the key that does, the scheme, and where. An error where
/// the two contradict one another or could not be read.
pub(super) fn secured(
    ledger: &Ledger<'_>,
    choice: &Field<TlsChoice>,
    asks: Option<(&str, &str, Range<usize>)>,
) -> Result<Option<Tls>, Reported> {
    match choice {
        Field::Bad => Err(Reported),
        Field::Absent(_) => Ok(asks.map(|_| Tls::default())),
        Field::Good(Located { value: TlsChoice::On(tls), .. }) => Ok(Some(tls.clone())),
        Field::Good(Located { value: TlsChoice::Off, span }) => {
            let Some((key, scheme, place)) = asks else { return Ok(None) };
            let message = format!("`tls` is false, but `{key}` is `{scheme}`");
            let problem = Problem::new(Kind::Impossible, Some(span.clone()), message)
                .also(place, "encrypted")
                .help("leave `tls` away: the URL says it");
            ledger.report(problem);
            Err(Reported)
        }
    }
}

fn tls(table: &mut Table<'_>) -> Field<TlsChoice> {
    table.field("tls", Form::BooleanOrTable, |ledger, entry| match entry.value.get_ref() {
        toml::de::DeValue::Boolean(false) => Some(TlsChoice::Off),
        toml::de::DeValue::Boolean(true) => Some(TlsChoice::On(Tls::default())),
        toml::de::DeValue::Table(table) => {
            let span = entry.value.span();
            let mut table = Table::new(ledger, "tls", "`tls`".to_owned(), span.clone(), table);
            let ca_file = ca_file(&mut table, Renewal::Reload);
            let certificate = pem_file(&mut table, "cert_file", "CERTIFICATE").optional();
            let key = pem_file(&mut table, "key_file", "PRIVATE KEY").optional();
            table.finish();
            let identity = match (certificate.ok()?, key.ok()?) {
                (Some(certificate), Some(key)) => {
                    certificates::identity(ledger, &certificate, &key)?;
                    Some((certificate.value, key.value))
                }
                (None, None) => None,
                (certificate, _) => {
                    let (has, lacks) = match certificate {
                        Some(_) => ("cert_file", "key_file"),
                        None => ("key_file", "cert_file"),
                    };
                    let message = format!("`tls` has `{has}` but no `{lacks}`");
                    let problem = Problem::new(Kind::MissingKey, Some(span), message);
                    return ledger
                        .refuse(problem.help("a client shows a certificate and holds its key"));
                }
            };
            Some(TlsChoice::On(Tls { ca_file: ca_file.ok()?, identity }))
        }
        other => {
            let wanted = "`true`, `false` or a table";
            ledger.wrong_type("tls", entry.value.span(), wanted, other)
        }
    })
}
