//! `sasl` of a Kafka source: who the bridge is to the broker.

use crate::config::Secret;
use crate::config::api::{Aws, OAuth2, auth};
use crate::config::reader::{Table, Words};

/// A checked `sasl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sasl {
    /// A name and a password, which the broker sees.
    Plain(Login),
    /// A name and a password, which the broker does not see.
    Scram(Scram, Login),
    /// A token of OAuth 2.0 client credentials.
    OAuthBearer(OAuth2),
    /// A token signed with AWS credentials, for Amazon MSK.
    AwsMskIam {
        /// Where credentials and region come from.
        aws: Aws,
    },
}

/// A name and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub username: String,
    /// And password.
    pub password: Secret,
}

/// The hash of SCRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scram {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

#[derive(Clone, Copy)]
enum Mechanism {
    Plain,
    Scram(Scram),
    OAuthBearer,
    AwsMskIam,
}

const MECHANISMS: [(&str, Mechanism); 5] = [
    ("plain", Mechanism::Plain),
    ("scram-sha-256", Mechanism::Scram(Scram::Sha256)),
    ("scram-sha-512", Mechanism::Scram(Scram::Sha512)),
    ("oauthbearer", Mechanism::OAuthBearer),
    ("aws-msk-iam", Mechanism::AwsMskIam),
];

const KEYS: [&str; 7] =
    ["username", "password", "aws", "token_url", "client_id", "client_secret", "scope"];

/// What other products call its keys.
const WORDS: Words = &[&[
    ("mechanism", "type mechanisms saslmechanism method"),
    ("username", "user login name"),
    ("password", "pass passwd pwd secret"),
    ("aws", "region profile rolearn role"),
]];

/// Reads a `sasl`.
pub(super) fn read(mut table: Table<'_>) -> Option<Sasl> {
    table.knows(WORDS);
    let kind = table.choice("mechanism", &MECHANISMS, &[]);
    let hint = "`mechanism = \"scram-sha-512\"`, or `plain`, `scram-sha-256`, `oauthbearer`, `aws-msk-iam`";
    let kind = table.require("mechanism", kind, hint);
    let Some(kind) = kind else {
        // What else is in it means nothing without its mechanism, but for what no mechanism has.
        for key in KEYS {
            let _ = table.take(key);
        }
        table.finish();
        return None;
    };
    match kind.value {
        Mechanism::Plain => Some(Sasl::Plain(login(table)?)),
        Mechanism::Scram(hash) => Some(Sasl::Scram(hash, login(table)?)),
        Mechanism::OAuthBearer => {
            table.becomes("auth");
            Some(Sasl::OAuthBearer(auth::oauth2(table)?))
        }
        Mechanism::AwsMskIam => {
            let aws =
                table.table("aws", "aws").then(|table| auth::aws(table.value, None)).optional();
            table.finish();
            Some(Sasl::AwsMskIam { aws: aws.ok()?.map(|aws| aws.value).unwrap_or_default() })
        }
    }
}

fn login(mut table: Table<'_>) -> Option<Login> {
    let username = table.filled("username");
    let username = table.require("username", username, "the user: `username = \"bridge\"`");
    let password = table.secret("password");
    let hint = "its password: `password = { env = \"KAFKA_PASSWORD\" }`";
    let password = table.require("password", password, hint);
    table.finish();
    Some(Login { username: username?.value.value, password: password?.value })
}
