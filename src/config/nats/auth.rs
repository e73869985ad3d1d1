//! `auth` of a source over NATS: who the bridge is to the server.

use crate::config::Secret;
use crate::config::reader::{Kind, Located, Problem, Table, Words, listed};

/// A checked `auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// A token, which the server sees.
    Token(Secret),
    /// A name and a password, which the server sees.
    Login {
        /// The user's name.
        user: String,
        /// And password.
        password: Secret,
    },
    /// The seed of an nkey, which signs and is not sent.
    Nkey(Secret),
    /// The content of a credentials file: a JWT, and the seed of its nkey.
    Credentials(Secret),
}

const WAYS: &str = "`{ token }`, `{ user, password }`, `{ nkey }` or `{ creds_file }`";

const KEYS: [&str; 5] = ["token", "user", "password", "nkey", "creds_file"];

/// What other products call its keys.
const WORDS: Words = &[&[
    ("token", "authtoken accesstoken bearer"),
    ("user", "username login name"),
    ("password", "pass passwd pwd secret"),
    ("nkey", "seed nkeyseed nkeyfile key"),
    ("creds_file", "creds credentials credentialsfile usercredentials credsfile jwt file"),
]];

/// Reads an `auth`.
pub(super) fn read(mut table: Table<'_>) -> Option<Auth> {
    table.knows(WORDS);
    let ledger = table.ledger;
    let token = table.secret("token").optional();
    let user = table.filled("user").optional();
    let password = table.secret("password").optional();
    let refuse = |span, message: &str, hint: &str| {
        ledger.refuse(Problem::new(Kind::BadValue, Some(span), message).help(hint))
    };
    let nkey = table.secret("nkey").then(|Located { value: seed, span }| {
        if is_seed(&seed.reveal()) {
            return Some(seed);
        }
        let hint = "it has 58 letters and digits and begins with `SU`: `nk -gen user` makes one; \
                    a credentials file is `creds_file`";
        refuse(span, "`nkey` is not the seed of a user", hint)
    });
    let nkey = nkey.optional();
    let credentials = table.secret_file("creds_file").then(|Located { value: file, span }| {
        if ["NATS USER JWT", "USER NKEY SEED"].iter().all(|part| file.reveal().contains(part)) {
            return Some(file);
        }
        let hint =
            "it has a `NATS USER JWT` and a `USER NKEY SEED`: `nsc generate creds` writes it";
        refuse(span, "`creds_file` holds no credentials of a user", hint)
    });
    let credentials = credentials.optional();
    let misspelt = KEYS.iter().any(|key| table.means(key));
    let span = table.span.clone();
    table.finish();
    let (token, user, password) = (token.ok()?, user.ok()?, password.ok()?);
    let (nkey, credentials) = (nkey.ok()?, credentials.ok()?);
    let there = [
        ("token", token.is_some()),
        ("user", user.is_some()),
        ("password", password.is_some()),
        ("nkey", nkey.is_some()),
        ("creds_file", credentials.is_some()),
    ];
    let written: Vec<_> = there.into_iter().filter(|(_, is)| *is).map(|(key, _)| key).collect();
    let (kind, message) = match (token, user, password, nkey, credentials) {
        (Some(token), None, None, None, None) => return Some(Auth::Token(token.value)),
        (None, Some(user), Some(password), None, None) => {
            return Some(Auth::Login { user: user.value.value, password: password.value });
        }
        (None, None, None, Some(seed), None) => return Some(Auth::Nkey(seed.value)),
        (None, None, None, None, Some(file)) => return Some(Auth::Credentials(file.value)),
        _ if misspelt => return None,
        (None, Some(_), None, None, None) => {
            (Kind::MissingKey, "`auth` has `user` but no `password`".to_owned())
        }
        (None, None, Some(_), None, None) => {
            (Kind::MissingKey, "`auth` has `password` but no `user`".to_owned())
        }
        _ if written.is_empty() => {
            (Kind::MissingKey, "`auth` does not say who the bridge is".to_owned())
        }
        _ => {
            let written = listed(&written, "and");
            (Kind::Impossible, format!("`auth` has {written}, which are not of one kind"))
        }
    };
    ledger.refuse(Problem::new(kind, Some(span), message).help(format!("it is {WAYS}")))
}

/// Whether a text has the form of a user's seed: a prefix, 32 bytes and a checksum in base 32.
fn is_seed(text: &str) -> bool {
    let base32 = |byte: u8| matches!(byte, b'A'..=b'Z' | b'2'..=b'7');
    text.len() == 58 && text.starts_with("SU") && text.bytes().all(base32)
}
