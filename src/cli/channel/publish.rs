//! `publish`: events to a channel of an Event API, by hand or from another program.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;

use super::feed::{Feed, Item};
use super::sender::{Account, Sender};
use super::{Target, WHERE, begin};
use crate::cli::{exit, output, time};
use crate::event_api::Channel;
use crate::publish::Client;

fn examples() -> String {
    format!(
        "\
Examples:
  appsync-bridge publish /orders/7 '{{\"id\":7}}' '{{\"id\":8}}' -c bridge.toml
  appsync-bridge publish /demo/hello '{{\"n\":1}}' --endpoint http://127.0.0.1:8787/event --api-key da2-local
  tail -f events.jsonl | appsync-bridge publish /demo/hello - --rate 100
  echo hello | appsync-bridge publish /demo/hello --text

An event is a JSON text, on standard input one a line (`-`, or no EVENT). Up to five go in one request, in their
order; with --concurrency, in any order. What the API does not take for now (throttling, an outage, no answer) is
tried again for --retry-for, so an event may come twice. A refusal ends it all. Each event that failed is named with
its reason.

{WHERE}

SIGTERM and SIGINT end the reading and finish what is in flight; a second one aborts.
Exit codes: 0 everything that was read was accepted; 1 something was not; 2 usage; 77 permissions; 78 configuration;
130 aborted."
    )
}

/// Publish events to a channel of an Event API, real or emulated
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = examples())]
pub struct Args {
    /// The channel
    #[arg(value_name = "CHANNEL", value_parser = channel)]
    channel: Channel,

    /// Events, each a JSON text; `-` is standard input, an event a line
    #[arg(value_name = "EVENT", default_value = "-", hide_default_value = true)]
    events: Vec<String>,

    /// At most so many events a second
    #[arg(long, value_name = "EVENTS", value_parser = rate, allow_hyphen_values = true)]
    rate: Option<f64>,

    /// Requests at a time; with more than one, events may overtake one another
    #[arg(long, value_name = "REQUESTS", default_value_t = 1, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,

    /// Take each event as text, and publish it as a JSON string
    #[arg(long)]
    text: bool,

    /// How long something that the API does not take for now is tried again
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time, allow_hyphen_values = true)]
    retry_for: Duration,

    /// Print the account as one line of JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

/// Publishes; the account on stdout, all else on stderr.
pub async fn run(args: &Args) -> ExitCode {
    let begun = begin(&args.target, async |api| Client::build(&api).await).await;
    let (client, shutdown) = match begun {
        Ok(begun) => begun,
        Err(code) => return code,
    };
    let began = Instant::now();
    let items = Item::read(args.events.clone(), args.text);
    let feed = Feed::new(items, &args.channel, args.rate);
    let sender = Sender::new(client, args.channel.clone(), args.retry_for, shutdown.clone());
    let account = sender.run(feed, args.concurrency.into()).await;
    let took = began.elapsed();
    let line = if args.json {
        as_json(&account, &args.channel, took)
    } else {
        as_text(&account, &args.channel, took)
    };
    let code = if shutdown.is_aborting() && !account.stopped_by_refusal() {
        ExitCode::from(exit::ABORTED)
    } else if account.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::FAILED)
    };
    output::print_last(&line, code)
}

fn as_json(account: &Account, channel: &Channel, took: Duration) -> String {
    let failures: Vec<_> =
        account.failures.iter().map(|(event, why)| json!({ "event": event, "why": why })).collect();
    let value = json!({
        "channel": channel.as_str(),
        "published": account.published,
        "unconfirmed": account.unconfirmed,
        "failed": account.failed,
        "unsent": account.unsent,
        "requests": account.requests,
        "seconds": (took.as_secs_f64() * 1_000.0).round() / 1_000.0,
        "failures": failures,
        "stopped": account.stopped,
    });
    value.to_string()
}

#[allow(clippy::cast_precision_loss)] // a rate for people
fn as_text(account: &Account, channel: &Channel, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    let all = account.published + account.unconfirmed;
    let s = |count: u64| if count == 1 { "" } else { "s" };
    let mut text = format!(
        "{all} event{} published to {channel} in {} request{}, {seconds:.1} s",
        s(all),
        account.requests,
        s(account.requests)
    );
    if all > 100 && seconds > 0.1 {
        text = format!("{text} ({:.0} a second)", all as f64 / seconds);
    }
    for (count, what) in [
        (
            account.unconfirmed,
            "of them not confirmed: the answer does not name them, so a handler may have dropped them",
        ),
        (account.failed, "failed"),
        (account.unsent, "not sent"),
    ] {
        if count > 0 {
            text = format!("{text}\n{count} {what}");
        }
    }
    text
}

fn channel(text: &str) -> Result<Channel, String> {
    Channel::parse(text).map_err(|why| {
        let hint = if text.contains('*') {
            "events are published to one channel, not to a wildcard"
        } else {
            "a channel is `/namespace/…`, of one to five segments"
        };
        format!("{why}; {hint}")
    })
}

fn rate(text: &str) -> Result<f64, String> {
    let wrong = || "a rate is a number of events a second, such as `100` or `0.5`".to_owned();
    let rate: f64 = text.parse().map_err(|_| wrong())?;
    if rate.is_finite() && (0.001..=1_000_000.0).contains(&rate) { Ok(rate) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_says_what_was_done_and_what_was_not() {
        let channel = Channel::parse("/demo/a").unwrap();
        let mut account = Account { published: 1, requests: 1, ..Account::default() };
        let took = Duration::from_millis(40);
        let one = "1 event published to /demo/a in 1 request, 0.0 s";
        assert_eq!(as_text(&account, &channel, took), one);
        account.failed = 2;
        account.failures = vec![("line 2".to_owned(), "no".to_owned())];
        assert_eq!(as_text(&account, &channel, took), format!("{one}\n2 failed"));
        let json: serde_json::Value =
            serde_json::from_str(&as_json(&account, &channel, took)).unwrap();
        assert_eq!(json["failures"], json!([{ "event": "line 2", "why": "no" }]));
        assert!(!account.is_clean());
    }

    #[test]
    fn rates_and_channels_that_make_no_sense_are_refused() {
        for text in ["0", "-1", "inf", "nan", "x", "1e9"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert!((rate("0.5").unwrap() - 0.5).abs() < f64::EPSILON);
        assert!(channel("/demo/*").unwrap_err().contains("wildcard"));
        assert!(channel("/demo/a_b").unwrap_err().contains("letters, digits"));
    }
}
