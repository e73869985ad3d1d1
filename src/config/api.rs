//! `[api.NAME]`: an Event API and how to speak to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Secret;

/// The name of an `[api.NAME]`.
pub type ApiName = Arc<str>;

/// A checked `[api.NAME]`.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Its name.
    pub name: ApiName,
    /// Where to post.
    pub endpoint: Endpoint,
    /// How to sign.
    pub auth: Auth,
    /// One publish attempt; 10 s unless set.
    pub timeout: Duration,
    /// Requests in flight at most; 64 unless set.
    pub max_concurrency: usize,
    /// A CA that is trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// An HTTP endpoint that passed the checks: `https`, or `http` where that was allowed; a path of
/// `/event`; no user info; not link-local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The whole URL, ending in `/event`.
    pub uri: http::Uri,
    /// The region in the name of a standard domain.
    pub region: Option<String>,
}

/// How requests to an API prove who sends them.
#[derive(Clone, Debug)]
pub enum Auth {
    /// `x-api-key`.
    ApiKey {
        /// `da2-…`
        key: Secret,
    },
    /// Signature Version 4 with the AWS default credential chain.
    Iam {
        /// Where credentials and region come from.
        aws: Aws,
    },
}

/// `aws = { region, profile, role_arn, external_id }`, the same everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aws {
    /// The region; else from the endpoint, else `AWS_REGION` or the profile.
    pub region: Option<String>,
    /// A profile of the shared configuration files.
    pub profile: Option<String>,
}

impl Endpoint {
    /// The host with its port if the URL names one, as the `host` header carries it.
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", http::uri::Authority::as_str)
    }
}
