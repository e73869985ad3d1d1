//! The URL of an SQS queue, and what stands in it: region, account, name, kind.

use std::ops::Range;

use crate::config::endpoint::{Purpose, SafeUrl, is_region};
use crate::config::reader::{Kind, Ledger, Located, Problem, Text};

/// A queue, by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// As SQS gives it.
    pub url: String,
    /// The region in the name of its host, where there is one.
    pub region: Option<String>,
    /// The account in its path; emulators make one up, or have none.
    pub account: Option<String>,
    /// The queue's name.
    pub name: String,
    /// Where its requests go unless an endpoint is set.
    pub origin: String,
}

/// What errors show of a queue's URL.
pub(crate) const FORM: &str = "`\"https://sqs.eu-west-1.amazonaws.com/111122223333/NAME\"`";

/// How the name of a FIFO queue ends.
const FIFO: &str = ".fifo";

/// AWS takes no longer name.
const LONGEST_NAME: usize = 80;

const QUEUE: Purpose = Purpose {
    form: "write the queue's URL, like `\"https://sqs.eu-west-1.amazonaws.com/111122223333/NAME\"`",
    user_info: "say who the bridge is with `aws`; a URL ends up in logs",
    plaintext: "write `https://`; for an emulator in another container, `dangerously_plaintext = true`",
};

const ENDPOINT: Purpose = Purpose {
    form: "write `\"https://HOST\"`",
    user_info: "say who the bridge is with `aws`; a URL ends up in logs",
    plaintext: QUEUE.plaintext,
};

impl Queue {
    /// Whether it keeps the order of its message groups.
    pub fn is_fifo(&self) -> bool {
        self.name.strip_suffix(FIFO).is_some()
    }

    /// Whether another URL is probably one of the same queue: a service has several hosts.
    pub fn may_be(&self, other: &Self) -> bool {
        let place = match (&self.region, &other.region) {
            (Some(one), Some(other)) => one == other,
            // Those that a name tells nothing of.
            (None, None) => self.origin == other.origin,
            _ => false,
        };
        place && (&self.account, &self.name) == (&other.account, &other.name)
    }

    /// Reads a `queue`; `http` off loopback only with `plaintext`, or where requests go elsewhere.
    pub(crate) fn read(ledger: &Ledger<'_>, text: &Located<Text>, plaintext: bool) -> Option<Self> {
        let Located { value: text, span } = text;
        if let Some((problem, hint)) = no_url(&text.value) {
            return refuse(ledger, text, span, &problem, &hint);
        }
        let located = Located { value: text.clone(), span: span.clone() };
        let url = SafeUrl::read_with(ledger, "queue", &located, plaintext, &QUEUE)?;
        let path: Vec<_> = url.uri.path().split('/').skip(1).collect();
        let more = text.value.contains(['?', '#']);
        let (account, name) = match path[..] {
            [name] if !more && !name.is_empty() => (None, name),
            // Some emulators have a fixed word in the place of the account.
            [account, name] if !more && !account.is_empty() => (Some(account), name),
            _ => {
                let hint = format!("a queue's URL ends in its account and its name: {FORM}");
                return refuse(ledger, text, span, "is not the URL of a queue", &hint);
            }
        };
        if !is_name(name) {
            let hint = "a queue's name has up to 80 letters, digits, `-` and `_`, and ends in `.fifo` if it is one";
            return refuse(ledger, text, span, "names a queue that there can't be", hint);
        }
        let region = region(&url.host);
        let origin = match &region {
            // The older names of the service.
            Some(region) if url.host.ends_with("queue.amazonaws.com") => {
                format!("https://sqs.{region}.amazonaws.com")
            }
            _ => origin(&url.uri),
        };
        Some(Self {
            url: text.value.clone(),
            region,
            account: account.map(str::to_owned),
            name: name.to_owned(),
            origin,
        })
    }
}

/// Reads an `endpoint`: where requests go in place of the queue's own host.
pub(crate) fn endpoint(
    ledger: &Ledger<'_>,
    text: &Located<Text>,
    plaintext: bool,
) -> Option<String> {
    let url = SafeUrl::read_with(ledger, "endpoint", text, plaintext, &ENDPOINT)?;
    if !matches!(url.uri.path(), "" | "/") || text.value.value.contains(['?', '#']) {
        let hint = format!("write `\"{}\"`; which queue, says `queue`", origin(&url.uri));
        let hint =
            if text.value.is_shown() { &hint } else { "write its scheme, host and port alone" };
        return refuse(ledger, &text.value, &text.span, "has more behind its host", hint);
    }
    Some(origin(&url.uri))
}

/// What is written in the place of a URL, with a remedy.
fn no_url(text: &str) -> Option<(String, String)> {
    if let Some(arn) = text.strip_prefix("arn:") {
        let parts: Vec<_> = arn.split(':').collect();
        let hint = match parts[..] {
            [_, "sqs", region, account, name] if is_region(region) && is_name(name) => {
                format!("its URL is `https://sqs.{region}.amazonaws.com/{account}/{name}`")
            }
            _ => format!("write its URL: {FORM}"),
        };
        return Some(("is an ARN, which names the queue and not its address".to_owned(), hint));
    }
    (!text.contains("://") && is_name(text)).then(|| {
        let hint = format!(
            "write its URL: `aws sqs get-queue-url --queue-name {text} --query QueueUrl` tells it"
        );
        ("is the name of a queue, not its URL".to_owned(), hint)
    })
}

fn refuse<T>(
    ledger: &Ledger<'_>,
    text: &Text,
    span: &Range<usize>,
    problem: &str,
    hint: &str,
) -> Option<T> {
    let message = format!("{} {problem}", text.shown());
    let hint = if text.is_shown() { hint } else { QUEUE.form };
    ledger.refuse(Problem::new(Kind::BadValue, Some(span.clone()), message).help(hint))
}

fn is_name(text: &str) -> bool {
    let stem = text.strip_suffix(FIFO).unwrap_or(text);
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    !stem.is_empty() && text.len() <= LONGEST_NAME && stem.bytes().all(known)
}

fn origin(uri: &http::Uri) -> String {
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    format!("{}://{authority}", uri.scheme_str().unwrap_or("https"))
}

/// The region in the name of a host of the service: `sqs.REGION.amazonaws.com`, its FIPS, dual-stack and VPC
/// endpoints, and the older `REGION.queue.amazonaws.com`.
fn region(host: &str) -> Option<String> {
    if host == "queue.amazonaws.com" {
        return Some("us-east-1".to_owned());
    }
    let domains =
        [".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".api.amazonwebservices.com.cn"];
    let before = domains.iter().find_map(|domain| host.strip_suffix(domain))?;
    if let Some(region) = before.strip_suffix(".queue").filter(|region| is_region(region)) {
        return Some(region.to_owned());
    }
    let before = before.strip_suffix(".vpce").unwrap_or(before);
    let (service, region) = before.rsplit_once('.')?;
    let service = service.rsplit('.').next()?;
    (matches!(service, "sqs" | "sqs-fips") && is_region(region)).then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_name_of_the_host() {
        for (host, expected) in [
            ("sqs.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("sqs-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("sqs.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("sqs.eu-west-1.api.aws", Some("eu-west-1")),
            ("eu-west-1.queue.amazonaws.com", Some("eu-west-1")),
            ("queue.amazonaws.com", Some("us-east-1")),
            ("vpce-0a-1b.sqs.eu-west-1.vpce.amazonaws.com", Some("eu-west-1")),
            ("s3.eu-west-1.amazonaws.com", None),
            ("sqs.eu-west-1.localhost.localstack.cloud", None),
            ("sqs.eu-west-1.amazonaws.com.example.com", None),
            ("localhost", None),
        ] {
            assert_eq!(region(host).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn a_queue_is_the_same_by_any_of_its_hosts() {
        let queue = |url: &str| {
            let (host, path) = url.split_once('/').unwrap();
            let (account, name) = path.split_once('/').unwrap();
            Queue {
                url: format!("https://{url}"),
                region: region(host),
                account: Some(account.to_owned()),
                name: name.to_owned(),
                origin: format!("https://{host}"),
            }
        };
        let one = queue("sqs.eu-west-1.amazonaws.com/111122223333/orders");
        for (other, same) in [
            ("eu-west-1.queue.amazonaws.com/111122223333/orders", true),
            ("vpce-0a-1b.sqs.eu-west-1.vpce.amazonaws.com/111122223333/orders", true),
            ("sqs.eu-west-2.amazonaws.com/111122223333/orders", false),
            ("sqs.eu-west-1.amazonaws.com/444455556666/orders", false),
            ("sqs.eu-west-1.amazonaws.com/111122223333/orders.fifo", false),
            ("localhost:9324/111122223333/orders", false),
        ] {
            assert_eq!(one.may_be(&queue(other)), same, "{other}");
            assert_eq!(queue(other).may_be(&one), same, "{other}");
        }
        let local = queue("localhost:9324/000000000000/orders");
        assert!(local.may_be(&local) && !local.may_be(&queue("localhost:1/000000000000/orders")));
    }

    #[test]
    fn names_are_those_of_aws() {
        for good in ["a", "orders.fifo", "a_b-C9"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(81);
        for bad in ["", ".fifo", "a.b", "a.fifo.fifo", "a/b", "é", &long] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
