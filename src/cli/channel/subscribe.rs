//! `subscribe`: follows channels of an Event API.

use std::collections::HashSet;
use std::io::{self, IsTerminal, Write as _};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{Target, WHERE, begin};
use crate::cli::{caution, complain, exit, output, say, time};
use crate::error_chain::printable;
use crate::event_api::{MAX_EVENT_BYTES, MAX_SOCKET_SUBSCRIPTIONS};
use crate::subscribe::{Pattern, SubscribeError, Subscriber, Told};

fn examples() -> String {
    format!(
        "\
Examples:
  appsync-bridge subscribe /orders/7 '/fleet/*' -c bridge.toml
  appsync-bridge subscribe /demo/hello --endpoint http://127.0.0.1:8787/event --api-key da2-local
  appsync-bridge subscribe '/orders/*' --endpoint https://….appsync-api.eu-west-1.amazonaws.com/event --iam | jq .total
  appsync-bridge subscribe /demo/hello --count 1 --timeout 10s     # did one come?

On a terminal a line has the time, the channel as subscribed to, and the event; on a pipe it is the event, JSON,
and nothing else. What is published while there is no connection is never seen: the API keeps nothing. A lost
connection is made again; a refusal at the start is an end.

{WHERE}

Exit codes: 0 ended by a signal, a closed pipe, or as many events as asked for; 1 refused, not reached, or not so
many in time; 2 usage; 77 permissions; 78 configuration."
    )
}

/// Follow channels of an Event API, real or emulated
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = examples())]
pub struct Args {
    /// Channels; `/*` at the end is everything below
    #[arg(value_name = "CHANNEL", required = true, value_parser = pattern)]
    channels: Vec<Pattern>,

    /// End after so many events, however long that takes, unless there is a `--timeout`
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = count, allow_hyphen_values = true)]
    count: Option<u64>,

    /// End after so long: a failure, if that is before the first subscription, or before `--count` events
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    timeout: Option<Duration>,

    /// A JSON object for each event: `received`, `channel` and `event`
    #[arg(long)]
    json: bool,

    /// The WebSocket endpoint, where it does not belong to the HTTP endpoint as it does on AWS
    #[arg(long, value_name = "URL", help_heading = "API")]
    realtime: Option<String>,

    #[command(flatten)]
    target: Target,
}

/// Follows until a signal, the end of the reader, or the count.
pub async fn run(args: &Args) -> ExitCode {
    let url = match args.realtime.as_deref().map(|text| args.target.websocket(text)).transpose() {
        Ok(url) => url,
        Err(code) => return code,
    };
    let mut channels = args.channels.clone();
    let mut known = HashSet::new();
    channels.retain(|channel| known.insert(channel.clone()));
    if channels.len() > MAX_SOCKET_SUBSCRIPTIONS {
        let (count, most) = (channels.len(), MAX_SOCKET_SUBSCRIPTIONS);
        complain(&format_args!("{count} channels are too many: one connection has {most} at most"));
        return ExitCode::from(exit::USAGE);
    }
    let build = async |api| Subscriber::build(&api, url, channels).await;
    let (subscriber, shutdown) = match begin(&args.target, build).await {
        Ok(begun) => begun,
        Err(code) => return code,
    };
    let mut reader = Reader::new(args);
    let over = async {
        match args.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        biased;
        () = shutdown.drain() => Ok(()),
        ended = subscriber.run(|told| reader.take(&told)) => ended,
        () = over => {
            if !reader.live {
                let (url, time) = (subscriber.url(), args.timeout.unwrap_or_default());
                let time = humantime::format_duration(time);
                complain(&format_args!(
                    "not subscribed within {time} (`--timeout`): `{url}` did not answer; does an Event API run there?"
                ));
                return ExitCode::from(exit::FAILED);
            }
            Ok(())
        }
    };
    if let Err(why) = &ended {
        complain(&in_words(why, &subscriber));
        return ExitCode::from(exit::FAILED);
    }
    if let Some(why) = reader.closed {
        return output::end_of(why);
    }
    match args.count {
        Some(count) if reader.seen < count => {
            complain(&format_args!("{} of {count} events came", reader.seen));
            ExitCode::from(exit::FAILED)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn in_words(why: &SubscribeError, subscriber: &Subscriber) -> String {
    let (url, words) = (subscriber.url(), why.to_string());
    let refusal = words.trim_end_matches('.');
    match why {
        SubscribeError::Unreachable(said) => format!(
            "`{url}` can't be reached: {said}; does it run, is the address right, and does the network let us through?"
        ),
        SubscribeError::Untrusted(said) => {
            format!(
                "`{url}` is not trusted: {said}; a CA of your own is `--ca-file FILE`, or `ca_file` of the API"
            )
        }
        SubscribeError::Connection(_) | SubscribeError::Channel(..) => {
            format!("{refusal}; {}", subscriber.causes(why))
        }
    }
}

/// How an event is written.
#[derive(Clone, Copy)]
enum Form {
    /// Alone, for a pipe.
    Event,
    /// With time and channel, for a script.
    Json,
    /// With both, for people.
    Terminal { colour: bool },
}

/// Writes what comes.
struct Reader {
    form: Form,
    wanted: Option<u64>,
    channels: String,
    seen: u64,
    /// It was subscribed to, once at least.
    live: bool,
    /// Why no more can be written.
    closed: Option<io::Error>,
}

impl Reader {
    fn new(args: &Args) -> Self {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let form = match io::stdout().is_terminal() {
            _ if args.json => Form::Json,
            true => Form::Terminal { colour },
            false => Form::Event,
        };
        let channels: Vec<_> = args.channels.iter().map(|channel| format!("`{channel}`")).collect();
        let (wanted, channels) = (args.count, channels.join(", "));
        Self { form, wanted, channels, seen: 0, live: false, closed: None }
    }

    fn take(&mut self, told: &Told<'_>) -> ControlFlow<()> {
        self.live |= matches!(told, Told::Live { .. });
        match told {
            Told::Live { after: None } => say(&format_args!("subscribed to {}", self.channels)),
            Told::Live { after: Some(after) } => {
                let seconds = after.as_secs_f64();
                say(&format_args!(
                    "subscribed again after {seconds:.1} s; what was published meanwhile was not seen"
                ));
            }
            Told::Lost { why, wait } => {
                let seconds = wait.as_secs_f64();
                caution(&format_args!(
                    "the connection is lost: {why}; connecting again in {seconds:.1} s"
                ));
            }
            Told::Trouble(why) => caution(&format_args!("the API complains: {why}")),
            Told::Event { channel, event } => return self.write(channel, event),
        }
        ControlFlow::Continue(())
    }

    fn write(&mut self, channel: &Pattern, event: &str) -> ControlFlow<()> {
        self.seen += 1;
        let line = self.line(channel, event, SystemTime::now());
        // Not masked, unlike all else that is said: an event that holds something like a secret is asked for as it is.
        let mut out = io::stdout().lock();
        if let Err(why) = writeln!(out, "{line}").and_then(|()| out.flush()) {
            self.closed = Some(why);
            return ControlFlow::Break(());
        }
        if self.wanted.is_some_and(|wanted| self.seen >= wanted) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn line(&self, channel: &Pattern, event: &str, now: SystemTime) -> String {
        let time = humantime::format_rfc3339_millis(now).to_string();
        let hour = &time[11..23];
        match self.form {
            Form::Event => one_line(event),
            Form::Json => {
                // The event's own text: a number would lose digits, and an object a key that it has twice.
                let (channel, event) = (Value::from(channel.to_string()), one_line(event));
                format!(r#"{{"received":"{time}","channel":{channel},"event":{event}}}"#)
            }
            Form::Terminal { colour } => {
                let event = printable(event, MAX_EVENT_BYTES);
                let [dim, cyan, plain] =
                    if colour { ["\u{1b}[2m", "\u{1b}[36m", "\u{1b}[0m"] } else { [""; 3] };
                format!("{dim}{hour}{plain}  {cyan}{channel}{plain}  {event}")
            }
        }
    }
}

/// An event as one line of JSON: white space of JSON has no meaning, and its strings hold no line break.
fn one_line(event: &str) -> String {
    if serde_json::from_str::<serde::de::IgnoredAny>(event).is_err() {
        return Value::from(event).to_string();
    }
    event.replace(['\n', '\r'], " ")
}

fn count(text: &str) -> Result<u64, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "a number of events is `1` or more".to_owned())
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|why| {
        format!("{why}; a channel is `/namespace/…`, and `/*` at its end is everything below")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(form: Form) -> Reader {
        Reader { form, wanted: None, channels: String::new(), seen: 0, live: false, closed: None }
    }

    #[test]
    fn a_line_is_the_event_on_a_pipe_and_more_for_people_and_scripts() {
        let (channel, now) = (Pattern::parse("/demo/*").unwrap(), SystemTime::UNIX_EPOCH);
        let line = |form, event: &str| reader(form).line(&channel, event, now);
        let terminal = Form::Terminal { colour: false };
        assert_eq!(line(Form::Event, "{\"a\":\n 1}"), "{\"a\":  1}");
        assert_eq!(line(Form::Event, "no JSON"), "\"no JSON\"");
        assert_eq!(line(terminal, "{\"a\":1}"), "00:00:00.000  /demo/*  {\"a\":1}");
        assert_eq!(
            line(Form::Json, "{\"a\":1}"),
            r#"{"received":"1970-01-01T00:00:00.000Z","channel":"/demo/*","event":{"a":1}}"#
        );
        let exact = "{\"a\":12345678901234567890123,\n\"a\":1.10}";
        assert_eq!(
            line(Form::Json, exact),
            r#"{"received":"1970-01-01T00:00:00.000Z","channel":"/demo/*","event":{"a":12345678901234567890123, "a":1.10}}"#
        );
        assert!(line(Form::Json, "no JSON").ends_with(r#""event":"no JSON"}"#));
        let escape = line(terminal, "\u{1b}[2J");
        assert!(!escape.contains('\u{1b}'), "{escape}");
    }
}
