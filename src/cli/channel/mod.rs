//! `publish` and `subscribe`: what they have in common, which is the API that they speak to.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http::Uri;

use crate::cli::named_file::{self, Refused};
use crate::cli::{complain, exit, run, signals};
use crate::config::api::{Auth, Aws, Endpoint, OAuth2};
use crate::config::{self, ApiConfig, Secret, endpoint};
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Format};

mod feed;
mod publish;
mod sender;
mod subscribe;

pub use publish::{Args as Publish, run as publish};
pub use subscribe::{Args as Subscribe, run as subscribe};

/// The log's filter: faults and progress.
const LEVEL: &str = "warn,appsync_bridge::cli=info";

/// Where the API is, and who we are there, without flags.
const ENDPOINT: &str = "APPSYNC_ENDPOINT";
const API_KEY: &str = "APPSYNC_API_KEY";
const TOKEN: &str = "APPSYNC_TOKEN";
const CLIENT_SECRET: &str = "APPSYNC_CLIENT_SECRET";

/// How the API is named, for the help of both.
pub(super) const WHERE: &str = "\
The API is an [api.NAME] of a configuration (-c), or what the flags say. Without -c and --endpoint it is the one at
$APPSYNC_ENDPOINT, if that is set, with the key in $APPSYNC_API_KEY or the token in $APPSYNC_TOKEN. A key, token or
secret in the environment or in a file is seen by nobody; on the command line, by everybody on this machine.";

/// The flags of who we are that exclude those for `--iam`, and those for `--oauth2`. What they require is not enough:
/// clap takes it for given where something that excludes it is.
const NOT_IAM: [&str; 5] = ["api_key", "api_key_file", "token", "token_file", "oauth2"];
const NOT_OAUTH2: [&str; 5] = ["api_key", "api_key_file", "token", "token_file", "iam"];

/// The API to speak to.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "API")]
pub(super) struct Target {
    /// Take the API of this configuration; `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "endpoint")]
    config: Option<PathBuf>,

    /// Which [api.NAME] of the configuration, if it has several
    #[arg(long, value_name = "NAME", conflicts_with = "endpoint")]
    api: Option<String>,

    /// The HTTP endpoint, ending in `/event`; else `$APPSYNC_ENDPOINT`
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// An API key; else `$APPSYNC_API_KEY`
    #[arg(long, value_name = "KEY", group = "auth")]
    api_key: Option<String>,

    /// A file with an API key
    #[arg(long, value_name = "FILE", group = "auth")]
    api_key_file: Option<PathBuf>,

    /// A token of Cognito, OpenID Connect or a Lambda authorizer; else `$APPSYNC_TOKEN`
    #[arg(long, value_name = "TOKEN", group = "auth")]
    token: Option<String>,

    /// A file with a token
    #[arg(long, value_name = "FILE", group = "auth")]
    token_file: Option<PathBuf>,

    /// Sign with the AWS credentials of this machine: environment, profile, container, instance
    #[arg(long, group = "auth")]
    iam: bool,

    /// With --iam: the region; else from the endpoint, `$AWS_REGION` or the profile
    #[arg(long, value_name = "REGION", requires = "iam", conflicts_with_all = NOT_IAM)]
    region: Option<String>,

    /// With --iam: a profile of the shared configuration
    #[arg(long, value_name = "NAME", requires = "iam", conflicts_with_all = NOT_IAM)]
    profile: Option<String>,

    /// With --iam: a role to assume
    #[arg(long, value_name = "ARN", requires = "iam", conflicts_with_all = NOT_IAM)]
    role_arn: Option<String>,

    /// Fetch tokens there: OAuth 2.0 client credentials. The secret is in `$APPSYNC_CLIENT_SECRET` or a file
    #[arg(long, value_name = "TOKEN_URL", group = "auth", requires = "client_id")]
    oauth2: Option<String>,

    /// With --oauth2: the client
    #[arg(long, value_name = "ID", requires = "oauth2", conflicts_with_all = NOT_OAUTH2)]
    client_id: Option<String>,

    /// With --oauth2: a file with the client's secret
    #[arg(long, value_name = "FILE", requires = "oauth2", conflicts_with_all = NOT_OAUTH2)]
    client_secret_file: Option<PathBuf>,

    /// With --oauth2: the scopes, separated by spaces
    #[arg(long, value_name = "SCOPES", requires = "oauth2", conflicts_with_all = NOT_OAUTH2)]
    scope: Option<String>,

    /// A CA to trust beside the system's
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    ca_file: Option<PathBuf>,

    /// Allow plain `http` off loopback: an emulator in another container. With -c the configuration says so for its own
    /// endpoints
    #[arg(long)]
    dangerously_plaintext: bool,
}

/// Begins one of the two: the API, what `build` makes for it, and what a signal starts. What is wrong is printed; the
/// exit code.
pub(super) async fn begin<T, E: Display>(
    target: &Target,
    build: impl AsyncFnOnce(ApiConfig) -> Result<T, E>,
) -> Result<(T, Shutdown), ExitCode> {
    let built = build(target.load()?).await;
    let built = built.map_err(|why| {
        complain(&why);
        ExitCode::from(exit::CONFIGURATION)
    })?;
    let shutdown = Shutdown::new();
    signals::listen(shutdown.clone(), None);
    Ok((built, shutdown))
}

impl Target {
    /// The API, once the log is started. What is wrong is printed; the exit code.
    fn load(&self) -> Result<ApiConfig, ExitCode> {
        let endpoint = self.endpoint.clone().or_else(|| match self.config {
            Some(_) => None,
            None => variable(ENDPOINT),
        });
        let Some(endpoint) = endpoint else {
            let default = Path::new(config::DEFAULT_PATH);
            if self.config.is_none() && !default.exists() {
                telemetry::start(LEVEL, Format::Auto, std::iter::empty());
                return Err(usage(
                    "no API is named; write `--endpoint URL`, set `$APPSYNC_ENDPOINT`, or name a configuration with \
                     `-c FILE`",
                ));
            }
            return self.configured(self.config.as_deref().unwrap_or(default));
        };
        telemetry::start(LEVEL, Format::Auto, std::iter::empty());
        self.of_flags(&endpoint).map_err(|why| why.report())
    }

    fn configured(&self, path: &Path) -> Result<ApiConfig, ExitCode> {
        let mut config = run::load(path, Some(LEVEL))?.config;
        if self.has_auth() {
            return Err(usage("the configuration says who publishes; leave the other flags away"));
        }
        let known: Vec<_> = config.apis.keys().map(|name| format!("`{name}`")).collect();
        let known = known.join(", ");
        let found = match &self.api {
            Some(name) => config.apis.remove(name.as_str()).ok_or_else(|| {
                format!("there is no `[api.{}]`; there is {known}", name.escape_debug())
            }),
            None if config.apis.len() > 1 => {
                Err(format!("there are several APIs; choose one of {known} with `--api NAME`"))
            }
            None => {
                let first = config.apis.pop_first().map(|(_, api)| api);
                first.ok_or_else(|| "the configuration has no `[api.NAME]`".to_owned())
            }
        };
        found.map_err(|why| usage(&why))
    }

    /// The WebSocket that `--realtime` gives.
    fn websocket(&self, text: &str) -> Result<Uri, ExitCode> {
        endpoint::websocket(text, self.dangerously_plaintext)
            .map_err(|why| usage(&format!("`--realtime` {why}")))
    }

    fn has_auth(&self) -> bool {
        self.api_key.is_some()
            || self.api_key_file.is_some()
            || self.token.is_some()
            || self.token_file.is_some()
            || self.iam
            || self.oauth2.is_some()
    }

    fn of_flags(&self, text: &str) -> Result<ApiConfig, Refused> {
        let named = if self.endpoint.is_some() { "--endpoint" } else { "$APPSYNC_ENDPOINT" };
        let endpoint = Endpoint::of(text, self.dangerously_plaintext).map_err(|why| {
            format!(
                "`{named}` {}",
                why.replace("`dangerously_plaintext = true`", "`--dangerously-plaintext`")
            )
        })?;
        let ca_file = self.ca_file.clone();
        if let Some(path) = &ca_file {
            named_file::certificates("--ca-file", path)?;
        }
        Ok(ApiConfig { ca_file, ..ApiConfig::new("command line", endpoint, self.auth()?) })
    }

    fn auth(&self) -> Result<Auth, Refused> {
        if let Some(key) = &self.api_key {
            return Ok(Auth::ApiKey { key: Secret::new(key.as_str()) });
        }
        if let Some(path) = &self.api_key_file {
            return Ok(Auth::ApiKey { key: named_file::secret("--api-key-file", path)? });
        }
        if let Some(token) = &self.token {
            return Ok(Auth::Token { token: Secret::new(token.as_str()) });
        }
        if let Some(path) = &self.token_file {
            return Ok(Auth::Token { token: named_file::secret("--token-file", path)? });
        }
        if self.iam {
            let aws = Aws {
                region: self.region.clone(),
                profile: self.profile.clone(),
                role_arn: self.role_arn.clone(),
                external_id: None,
            };
            return Ok(Auth::Iam { aws });
        }
        if let Some(url) = &self.oauth2 {
            let client_secret = match &self.client_secret_file {
                Some(path) => named_file::secret("--client-secret-file", path)?,
                None => variable(CLIENT_SECRET).map(Secret::new).ok_or(
                    "the client's secret is missing; set `$APPSYNC_CLIENT_SECRET`, or name a file with \
                     `--client-secret-file`",
                )?,
            };
            let token_url = OAuth2::token_url(url).map_err(|why| format!("`--oauth2` {why}"))?;
            let client_id = self.client_id.clone().unwrap_or_default();
            let scope = self.scope.clone();
            return Ok(Auth::OAuth2(OAuth2 { token_url, client_id, client_secret, scope }));
        }
        if let Some(key) = variable(API_KEY) {
            return Ok(Auth::ApiKey { key: Secret::new(key) });
        }
        if let Some(token) = variable(TOKEN) {
            return Ok(Auth::Token { token: Secret::new(token) });
        }
        Err("nothing says who we are; set `$APPSYNC_API_KEY` or `$APPSYNC_TOKEN`, or write `--iam`, `--api-key-file \
             FILE`, `--token-file FILE` or `--oauth2 TOKEN_URL`"
            .into())
    }
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn usage(why: &str) -> ExitCode {
    complain(&why);
    ExitCode::from(exit::USAGE)
}
