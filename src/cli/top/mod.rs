//! `top`: the status page in a terminal. Asks `/status` once a second.

mod curve;
mod screen;
mod view;
mod words;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep};

use super::admin::{Admin, At};
use super::{complain, exit, output};
use screen::{Next, Screen};
use view::Look;

const EXAMPLES: &str = "\
Examples:
  appsync-bridge top
  appsync-bridge top --admin https://bridge.example:9464 --token-file token
  appsync-bridge top --once | less

Keys: q ends, the arrows, j and k, page up and down, home and end scroll, tab goes to the next section.
Exit codes: 0 done, 1 no answer (`--once`, `--json`) or no terminal, 2 usage, 77 permissions, 78 configuration, 130 ended by a signal.";

/// Between an answer and the next question.
const EVERY: Duration = Duration::from_secs(1);

/// How often the thread that reads keys looks whether it is still needed.
const KEY_WAIT: Duration = Duration::from_millis(250);

/// Columns of what is printed once to no terminal.
const COLUMNS: u16 = 100;

/// Show how a running bridge does, in a terminal
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    at: At,

    /// Print it once, as plain text
    #[arg(long)]
    once: bool,

    /// Print `/status` once, as it is
    #[arg(long)]
    json: bool,
}

/// Shows until it is told to end.
pub async fn run(args: &Args) -> ExitCode {
    let admin = match Admin::of(&args.at) {
        Ok(admin) => admin,
        Err(code) => return code,
    };
    let shown = if args.json || args.once {
        once(&admin, args.json).await
    } else if io::stdout().is_terminal() && io::stdin().is_terminal() {
        return follow(admin).await.unwrap_or_else(|why| failed(&why.to_string()));
    } else {
        Err("this is no terminal; `--once` prints it once, `--json` the document".to_owned())
    };
    shown.map_or_else(|why| failed(&why), |text| output::print_last(&text, ExitCode::SUCCESS))
}

fn failed(why: &str) -> ExitCode {
    complain(&why);
    ExitCode::from(exit::FAILED)
}

/// The document, and that as a text.
async fn ask(admin: &Admin) -> Result<(Value, String), String> {
    let text = admin.get("/status").await?.good()?;
    let status = serde_json::from_str(&text)
        .map_err(|_| "what answers there is no bridge, or an older one".to_owned())?;
    Ok((status, text))
}

/// The document, or what a screen would show of it.
async fn once(admin: &Admin, json: bool) -> Result<String, String> {
    let (status, text) = ask(admin).await?;
    if json {
        return Ok(text.trim_end().to_owned());
    }
    let columns = ratatui::crossterm::terminal::size().map_or(COLUMNS, |(columns, _)| columns);
    let columns = if io::stdout().is_terminal() { columns } else { COLUMNS };
    let look = Look { colour: false };
    let all = view::head(&status, admin.shown(), look).into_iter();
    let all = all.chain(view::body(&status, columns.into(), look));
    let lines: Vec<_> = all.map(|line| line.to_string().trim_end().to_owned()).collect();
    Ok(lines.join("\n"))
}

/// The terminal as it was before, whatever happens; a panic's own hook comes first.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn follow(admin: Admin) -> io::Result<ExitCode> {
    // Before the terminal is changed: an early signal must find it restored, too.
    let mut signals = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    );
    let mut terminal = ratatui::try_init()?;
    let _restored = Restored;
    let mut screen = Screen::new(admin.shown().to_owned(), Look::of_environment());
    let (mut answers, mut keys) = (answers(admin), keys());
    let mut clock = interval(EVERY);
    loop {
        terminal.draw(|frame| screen.draw(frame, Instant::now()))?;
        tokio::select! {
            Some(answer) = answers.recv() => screen.note(answer, Instant::now()),
            key = keys.recv() => match key {
                Some(key) if screen.press(&key) == Next::Go => {}
                _ => return Ok(ExitCode::SUCCESS),
            },
            _ = clock.tick() => {}
            _ = signals.0.recv() => break,
            _ = signals.1.recv() => break,
            _ = signals.2.recv() => break,
        }
    }
    Ok(ExitCode::from(exit::ABORTED))
}

fn answers(admin: Admin) -> mpsc::Receiver<Result<Value, String>> {
    let (answers, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let answer = ask(&admin).await.map(|(status, _)| status);
            if answers.send(answer).await.is_err() {
                return;
            }
            sleep(EVERY).await;
        }
    });
    receiver
}

/// What is typed. Reading blocks, so it has a thread of its own.
fn keys() -> mpsc::Receiver<Event> {
    let (keys, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !keys.is_closed() {
            match event::poll(KEY_WAIT) {
                Ok(false) => {}
                Ok(true) => {
                    let Ok(event) = event::read() else { return };
                    if keys.blocking_send(event).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    receiver
}
