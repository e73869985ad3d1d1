//! Whose credentials are: a question that STS answers whoever asks.

use std::time::Duration;

use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::SharedCredentialsProvider;
use tokio::time::timeout;

use super::Source;
use crate::error_chain;

/// For the answer: without a way to STS nothing is lost but this.
const PATIENCE: Duration = Duration::from_secs(4);

impl Source {
    /// The ARN that `keys` are of. An error is why that is not known.
    pub async fn whose(&self, keys: Keys) -> Result<String, String> {
        let config = self.load().await.map_err(|error| error.to_string())?;
        let keys = SharedCredentialsProvider::new(keys);
        let config = config.into_builder().credentials_provider(keys).build();
        let asked = aws_sdk_sts::Client::new(&config).get_caller_identity().send();
        let answer = timeout(PATIENCE, asked).await;
        let answer = answer.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
        let answer = answer.map_err(|error| error_chain::in_one_line(&error))?;
        answer.arn().map(str::to_owned).ok_or_else(|| "the answer has no ARN".to_owned())
    }
}
