//! What can go wrong between us and a queue, in words, with a remedy, and whether waiting helps.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

use crate::config::sqs::Queue as Address;
use crate::error_chain::{in_one_line, printable};
use crate::probe::{Complaint, Step};

/// What can be asked of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Its attributes.
    Attributes,
    /// Messages.
    Receive,
    /// That they are gone.
    Delete,
    /// For how long they are ours.
    Visibility,
    /// To take messages.
    Send,
}

impl Call {
    /// As policies name it.
    pub fn action(self) -> &'static str {
        match self {
            Self::Attributes => "sqs:GetQueueAttributes",
            Self::Receive => "sqs:ReceiveMessage",
            Self::Delete => "sqs:DeleteMessage",
            Self::Visibility => "sqs:ChangeMessageVisibility",
            Self::Send => "sqs:SendMessage",
        }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// By what helps.
    pub kind: Kind,
    /// A clause.
    pub what: String,
}

/// The kinds of trouble, by what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SQS wants us slower.
    Throttled,
    /// As many messages are in flight as a queue may have.
    OverLimit,
    /// No answer came.
    Unreachable,
    /// None came in time.
    Silent,
    /// SQS has a fault of its own.
    Service,
    /// There is no such queue here.
    NoQueue,
    /// The policy does not allow the call.
    Denied,
    /// The key of the queue's encryption can't be used.
    Key,
    /// The credentials are missing, or refused.
    Credentials,
    /// The signature is for another region.
    Region,
    /// Anything else that SQS says of the call.
    Refused,
}

/// Of what others write, so much is shown.
const SHOWN: usize = 400;

impl Kind {
    /// Whether only a person can help: it is tried again slowly.
    pub fn needs_somebody(self) -> bool {
        let waits = self.is_throttle();
        !waits && !matches!(self, Self::Unreachable | Self::Silent | Self::Service)
    }

    /// Whether nothing was heard at all: what works for another works for this.
    pub fn is_unheard(self) -> bool {
        matches!(self, Self::Unreachable | Self::Silent)
    }

    /// Whether SQS does it, but not so much of it.
    pub fn is_throttle(self) -> bool {
        matches!(self, Self::Throttled | Self::OverLimit)
    }
}

impl Trouble {
    /// No answer within a time of ours.
    pub fn silent() -> Self {
        Self { kind: Kind::Silent, what: "no answer".to_owned() }
    }

    /// Of an error of AWS's library.
    pub fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let words = || printable(&in_one_line(error), SHOWN);
        match error {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                let meta = service.err().meta();
                let code = plain(meta.code().unwrap_or_default());
                let message = meta.message().unwrap_or_default();
                let kind = kind(code, message, status);
                let code = if code.is_empty() { status.to_string() } else { code.to_owned() };
                let what = if message.is_empty() { code } else { format!("{code}: {message}") };
                Self { kind, what: printable(&what, SHOWN) }
            }
            SdkError::ResponseError(_) => Self { kind: Kind::Service, what: words() },
            SdkError::TimeoutError(_) => Self::silent(),
            _ if lacks_credentials(error) => Self { kind: Kind::Credentials, what: words() },
            _ => Self { kind: Kind::Unreachable, what: words() },
        }
    }

    /// What to do about it, for a call to a queue that is signed for `region`.
    pub fn hint(&self, call: Call, queue: &Address, region: &str) -> String {
        let name = &queue.name;
        let account = queue.account.as_deref().unwrap_or("ACCOUNT");
        match self.kind {
            Kind::Throttled => "fewer `receivers`, or a higher quota of the account".to_owned(),
            Kind::OverLimit => {
                "at most 120,000 messages of a queue can be in flight: other consumers hold them"
                    .to_owned()
            }
            Kind::Unreachable | Kind::Silent | Kind::Service => String::new(),
            Kind::NoQueue => format!(
                "check `queue`: whether `{name}` is in the region `{region}` and in the account `{account}`"
            ),
            Kind::Denied => format!(
                "allow `{}` on `arn:aws:sqs:{region}:{account}:{name}` in the policy of the credentials, and \
                 in that of the queue where it is another account's",
                call.action()
            ),
            Kind::Key => {
                let more = if call == Call::Send { " and `kms:GenerateDataKey`" } else { "" };
                format!(
                    "allow `kms:Decrypt`{more} on the key that encrypts `{name}`, and see that the key is enabled"
                )
            }
            Kind::Credentials => {
                "check the credentials: environment, profile, role; and the clock of this machine"
                    .to_owned()
            }
            Kind::Region => format!(
                "requests are signed for `{region}`: write the region of the queue in `aws`, or its URL in `queue`"
            ),
            Kind::Refused => "see the queue's settings".to_owned(),
        }
    }

    /// As what a look ends with.
    pub fn complaint(&self, call: Call, queue: &Address, region: &str) -> Complaint {
        let step = match self.kind {
            Kind::NoQueue => Step::Exists,
            Kind::Credentials | Kind::Region => Step::Login,
            Kind::Denied | Kind::Key | Kind::OverLimit | Kind::Refused => Step::Allowed,
            // Attributes are asked for first: what fails behind them had an answer before.
            Kind::Throttled | Kind::Unreachable | Kind::Silent | Kind::Service => match call {
                Call::Attributes | Call::Receive => Step::Reach,
                Call::Delete | Call::Visibility => Step::Allowed,
                Call::Send => Step::Write,
            },
        };
        let what = &self.what;
        let doing = match self.kind {
            Kind::NoQueue => format!("there is no queue `{}`", queue.name),
            Kind::Denied | Kind::Key => format!("`{}` is denied", call.action()),
            Kind::Region => "wrong region".to_owned(),
            Kind::Credentials => "no good credentials".to_owned(),
            _ => format!("`{}` failed", call.action()),
        };
        Complaint::new(step, format!("{doing} ({what})"), self.hint(call, queue, region))
    }

    /// What, and what to do, in one line.
    pub fn with_hint(&self, call: Call, queue: &Address, region: &str) -> String {
        self.complaint(call, queue, region).to_string()
    }
}

/// A code without what parts of AWS put before it.
fn plain(code: &str) -> &str {
    let code = code.rsplit('#').next().unwrap_or(code);
    code.rsplit("SimpleQueueService.").next().unwrap_or(code)
}

/// By the code (API reference of SQS, "Common Error Types", and the errors of each action).
fn kind(code: &str, message: &str, status: u16) -> Kind {
    match code {
        "NonExistentQueue" | "QueueDoesNotExist" | "QueueDeletedRecently" => Kind::NoQueue,
        "OverLimit" => Kind::OverLimit,
        "RequestThrottled"
        | "ThrottlingException"
        | "Throttling"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "KmsThrottled"
        | "KMS.ThrottlingException"
        | "SlowDown" => Kind::Throttled,
        "SignatureDoesNotMatch" | "InvalidSignatureException" | "AuthorizationHeaderMalformed"
            if message.contains("scoped to") || message.contains("region") =>
        {
            Kind::Region
        }
        "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "AuthorizationHeaderMalformed"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "UnrecognizedClientException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "InvalidSecurity"
        | "InvalidToken"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => Kind::Credentials,
        code if code.starts_with("Kms") || code.starts_with("KMS.") => Kind::Key,
        code if code.starts_with("AccessDenied") || code == "OptInRequired" => Kind::Denied,
        _ if status == 403 => Kind::Denied,
        _ if status == 401 => Kind::Credentials,
        _ if status == 429 => Kind::Throttled,
        "InternalError" | "InternalFailure" | "ServiceUnavailable" => Kind::Service,
        _ if status >= 500 => Kind::Service,
        _ => Kind::Refused,
    }
}

/// Whether the library had nothing to sign with.
fn lacks_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<CredentialsError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_kind() {
        for (code, message, status, expected) in [
            ("AWS.SimpleQueueService.NonExistentQueue", "", 400, Kind::NoQueue),
            ("com.amazonaws.sqs#QueueDoesNotExist", "", 400, Kind::NoQueue),
            ("com.amazonaws.sqs#OverLimit", "", 403, Kind::OverLimit),
            ("RequestThrottled", "", 400, Kind::Throttled),
            ("", "", 429, Kind::Throttled),
            ("AccessDenied", "not authorized to perform: sqs:receivemessage", 403, Kind::Denied),
            ("AccessDeniedException", "", 400, Kind::Denied),
            ("KmsAccessDenied", "", 400, Kind::Key),
            ("KMS.DisabledException", "", 400, Kind::Key),
            ("KmsThrottled", "", 400, Kind::Throttled),
            ("ExpiredToken", "", 403, Kind::Credentials),
            ("InvalidClientTokenId", "", 403, Kind::Credentials),
            ("SignatureDoesNotMatch", "Signature expired", 403, Kind::Credentials),
            (
                "SignatureDoesNotMatch",
                "Credential should be scoped to a valid region",
                403,
                Kind::Region,
            ),
            ("InternalFailure", "", 500, Kind::Service),
            ("", "", 503, Kind::Service),
            ("InvalidAttributeValue", "", 400, Kind::Refused),
        ] {
            assert_eq!(kind(plain(code), message, status), expected, "{code} {status}");
        }
        assert!(!Kind::Throttled.needs_somebody() && Kind::Denied.needs_somebody());
    }
}
