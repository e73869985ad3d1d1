//! Where a service says no more than "unauthorized": the causes that fit, for people who look.

use super::Client;
use super::auth::Authorizer;

impl Client {
    /// What may be wrong where the API refuses a namespace in these words; `verb` is what was asked for, `Publish` or
    /// `Subscribe`. In one line, without a secret.
    pub fn causes(&self, namespace: Option<&str>, verb: &str, said: &str) -> String {
        let asked = verb.to_ascii_lowercase();
        let shown = namespace
            .map_or_else(|| "the namespace".to_owned(), |name| format!("the namespace `{name}`"));
        let of_namespace =
            |what: &str| format!("or {shown} does not exist, or takes no {what} to {asked}");
        match &self.authorizer {
            Authorizer::ApiKey(_) => format!(
                "one of: the key is wrong, of another API, or has expired (`aws appsync list-api-keys --api-id \
                 API_ID`), {}",
                of_namespace("API keys")
            ),
            Authorizer::Token(_) => format!(
                "one of: the token has expired or is of an issuer that the API does not trust, {}",
                of_namespace("such tokens")
            ),
            Authorizer::OAuth2(_) => format!(
                "one of: the API does not trust the token's issuer, client or audience, {}",
                of_namespace("such tokens")
            ),
            Authorizer::Iam(iam) if said.contains("ignature") => format!(
                "one of: the secret access key is not that of the access key id, a session has ended or lacks its \
                 token, this machine's clock is off, the API is not in `{}`",
                iam.region()
            ),
            Authorizer::Iam(iam) => {
                let (region, name) = (iam.region(), namespace.unwrap_or("NAME"));
                let connect = match verb {
                    "Subscribe" => "`appsync:EventConnect` on the API and ",
                    _ => "",
                };
                format!(
                    "one of: the credentials' policy does not allow {connect}`appsync:Event{verb}` on \
                     `arn:aws:appsync:{region}:ACCOUNT:apis/API_ID/channelNamespace/{name}`, the API is not in \
                     `{region}`, {}",
                    of_namespace("IAM")
                )
            }
        }
    }
}
