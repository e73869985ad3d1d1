//! `auth`: the authorization of requests to an API; and `aws`, the same table everywhere.

use std::ops::Range;

use http::Uri;

use crate::config::Secret;
use crate::config::endpoint::{Endpoint, Purpose, SafeUrl, is_region};
use crate::config::reader::{Field, Kind, Ledger, Located, Problem, Table, Text, quoted};

/// The authorization of requests to an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `x-api-key`.
    ApiKey {
        /// `da2-…`
        key: Secret,
    },
    /// `authorization`, as configured: a token of Cognito, OpenID Connect or a Lambda authorizer.
    Token {
        /// The whole value of the header.
        token: Secret,
    },
    /// `authorization` with a token that the bridge fetches: OAuth 2.0 client credentials.
    OAuth2(OAuth2),
    /// Signature Version 4 with the AWS default credential chain.
    Iam {
        /// Where credentials and region come from.
        aws: Aws,
    },
}

/// `{ type = "oauth2", token_url, client_id, client_secret, scope }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth2 {
    /// The token endpoint: `https`, or `http` on loopback.
    pub token_url: Uri,
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Secret,
    /// The scopes, separated by spaces.
    pub scope: Option<String>,
}

impl OAuth2 {
    /// Reads a `token_url` that a command line gives. An error is a clause and a hint.
    pub fn token_url(text: &str) -> Result<Uri, String> {
        SafeUrl::of(text, &TOKEN_URL)
    }
}

/// `aws = { region, profile, role_arn, external_id }`, the same everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aws {
    /// The region; else from the endpoint, else `AWS_REGION` or the profile.
    pub region: Option<String>,
    /// A profile of the shared configuration files.
    pub profile: Option<String>,
    /// A role to assume with the chain's credentials.
    pub role_arn: Option<String>,
    /// The external id that the role's trust policy requires; only with a role.
    pub external_id: Option<String>,
}

#[derive(Clone, Copy)]
enum Type {
    ApiKey,
    Token,
    OAuth2,
    Iam,
}

const TYPES: [(&str, Type); 4] = [
    ("iam", Type::Iam),
    ("api-key", Type::ApiKey),
    ("token", Type::Token),
    ("oauth2", Type::OAuth2),
];

/// What can be written for `auth`.
pub(crate) const AUTHS: &str = "`{ type = \"iam\" }`, `{ type = \"api-key\", key = { env = \"NAME\" } }`, or of type `token` or `oauth2`";

/// Reads an `auth`.
pub(crate) fn read(mut table: Table<'_>, endpoint: Option<&Located<Endpoint>>) -> Option<Auth> {
    let kind = table.choice("type", &TYPES, &[]);
    let kind = table.require("type", kind, format!("`auth` is {AUTHS}"));
    let Some(kind) = kind else {
        // Its other keys mean nothing without its type, but for those that no type has.
        for key in ["key", "aws", "token", "token_url", "client_id", "client_secret", "scope"] {
            let _ = table.take(key);
        }
        table.finish();
        return None;
    };
    match kind.value {
        Type::Iam => {
            let told = endpoint.and_then(|endpoint| {
                let (region, span) = (endpoint.value.region.as_ref()?, endpoint.span.clone());
                Some(Told { by: "endpoint", region, span })
            });
            let aws = table.table("aws", "aws");
            let aws = aws.then(|table| self::aws(table.value, told.as_ref())).optional();
            let ledger = table.ledger;
            table.finish();
            let aws = aws.ok()?.map(|aws| aws.value).unwrap_or_default();
            if endpoint.is_some_and(|endpoint| endpoint.value.region.is_none()) {
                needs_region(ledger, &aws, "endpoint", kind.span);
            }
            Some(Auth::Iam { aws })
        }
        Type::ApiKey => {
            let form = "a key is `da2-` and letters and digits; look for a line break";
            let key = sent(&mut table, "key", form);
            let key = table.require("key", key, "the API's key: `key = { env = \"NAME\" }`");
            table.finish();
            Some(Auth::ApiKey { key: key?.value })
        }
        Type::Token => {
            let form = "a token is one line, sent as it is; look for a line break";
            let token = sent(&mut table, "token", form);
            let hint = "the value of `authorization`: `token = { file = \"/path\" }`";
            let token = table.require("token", token, hint);
            table.finish();
            Some(Auth::Token { token: token?.value })
        }
        Type::OAuth2 => oauth2(table).map(Auth::OAuth2),
    }
}

/// Warns if nothing here names the region that a signature is for, and `key` does not. A profile or the instance
/// may.
pub(crate) fn needs_region(ledger: &Ledger<'_>, aws: &Aws, key: &str, place: Range<usize>) {
    let set = |name| ledger.environment.text(name).is_ok_and(|region| !region.is_empty());
    let named = aws.region.is_some() || aws.profile.is_some();
    if named || set("AWS_REGION") || set("AWS_DEFAULT_REGION") {
        return;
    }
    let message = format!("no region is named here, and `{key}` tells none");
    let problem = Problem::new(Kind::Warning, Some(place), message);
    ledger.report(problem.help(
        "set `AWS_REGION`, or write `aws = { region = \"eu-west-1\" }`, unless the machine's AWS profile has one",
    ));
}

/// A secret that a header can carry.
fn sent(table: &mut Table<'_>, key: &'static str, form: &str) -> Field<Secret> {
    let ledger = table.ledger;
    table.secret(key).then(|secret| {
        if http::HeaderValue::from_str(&secret.value.reveal()).is_ok() {
            return Some(secret.value);
        }
        let message = format!("`{key}` holds a character that a request can't carry");
        ledger.refuse(Problem::new(Kind::BadValue, Some(secret.span), message).help(form))
    })
}

/// Reads the keys of OAuth 2.0 client credentials, the last ones of their table.
pub(crate) fn oauth2(mut table: Table<'_>) -> Option<OAuth2> {
    let ledger = table.ledger;
    let url = table
        .filled("token_url")
        .then(|text| Some(SafeUrl::read(ledger, "token_url", &text, &TOKEN_URL)?.uri));
    let hint = "where tokens are issued: `token_url = \"https://….auth.REGION.amazoncognito.com/oauth2/token\"`";
    let token_url = table.require("token_url", url, hint);
    let client_id = table.filled("client_id");
    let client_id = table.require("client_id", client_id, "the id of the bridge at the issuer");
    let secret = table.secret("client_secret");
    let hint = "the secret of the bridge at the issuer: `client_secret = { env = \"NAME\" }`";
    let client_secret = table.require("client_secret", secret, hint);
    let scope = table.filled("scope").optional();
    table.finish();
    Some(OAuth2 {
        token_url: token_url?.value,
        client_id: client_id?.value.value,
        client_secret: client_secret?.value,
        scope: scope.ok()?.map(|scope| scope.value.value),
    })
}

const TOKEN_URL: Purpose = Purpose {
    form: "write `\"https://…\"`",
    user_info: "write `client_id` and `client_secret`; a URL ends up in logs",
    plaintext: "write `https://`: the client's secret is sent there",
};

/// A region that the name of a host tells.
pub(crate) struct Told<'a> {
    /// The key that names the host.
    pub(crate) by: &'static str,
    pub(crate) region: &'a str,
    pub(crate) span: Range<usize>,
}

/// Reads an `aws`.
pub(crate) fn aws(mut table: Table<'_>, told: Option<&Told<'_>>) -> Option<Aws> {
    let ledger = table.ledger;
    let region = table.filled("region").then(|text| region(ledger, text, told));
    let profile = table.filled("profile");
    let role_arn = table.filled("role_arn").then(|text| {
        let parts: Vec<&str> = text.value.value.splitn(6, ':').collect();
        if matches!(parts[..], ["arn", _, "iam", "", _, role] if role.starts_with("role/")) {
            return Some(text.value);
        }
        let message = format!("{} is not the ARN of a role", text.value.shown());
        let problem = Problem::new(Kind::BadValue, Some(text.span), message);
        ledger.refuse(problem.help("a role is written `arn:aws:iam::111122223333:role/NAME`"))
    });
    let external_id = table.filled("external_id");
    if let (Field::Absent(_), Field::Good(id)) = (&role_arn, &external_id) {
        let message = "`external_id` means nothing without `role_arn`";
        let problem = Problem::new(Kind::Impossible, Some(id.span.clone()), message);
        ledger.report(problem.help("it is sent when a role is assumed: add `role_arn`"));
    }
    let (region, profile) = (region.optional(), profile.optional());
    let (role_arn, external_id) = (role_arn.optional(), external_id.optional());
    table.finish();
    Some(Aws {
        region: region.ok()?.map(|region| region.value),
        profile: profile.ok()?.map(|profile| profile.value.value),
        role_arn: role_arn.ok()?.map(|role| role.value.value),
        external_id: external_id.ok()?.map(|id| id.value.value),
    })
}

fn region(ledger: &Ledger<'_>, text: Located<Text>, told: Option<&Told<'_>>) -> Option<String> {
    let Located { value: text, span } = text;
    if !is_region(&text.value) {
        let message = format!("{} is not a region", text.shown());
        let problem = Problem::new(Kind::BadValue, Some(span), message);
        return ledger.refuse(problem.help("a region is written like `eu-west-1`"));
    }
    if let Some(told) = told
        && told.region != text.value
    {
        let (by, other) = (told.by, told.region);
        let message = format!("`region` is {}, but the {by} is in {}", text.shown(), quoted(other));
        let problem = Problem::new(Kind::Impossible, Some(span), message);
        let problem = problem.also(told.span.clone(), format!("is in `{other}`"));
        return ledger
            .refuse(problem.help(format!("leave `region` away: a standard {by} tells it")));
    }
    Some(text.value)
}
