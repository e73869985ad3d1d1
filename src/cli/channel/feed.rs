//! What is to be published, read ahead and put into batches.

use std::io::{BufRead, IsTerminal, Read};
use std::mem;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::cli::say;
use crate::event_api::wire::body_overhead;
use crate::event_api::{
    Channel, EscapedLen, Event, EventError, MAX_BODY_BYTES, MAX_EVENT_BYTES, MAX_EVENTS,
};

/// Most items read ahead.
const AHEAD: usize = 256;

/// A batch that is not full waits so long for the next item: what is read from a file comes sooner.
const LINGER: Duration = Duration::from_millis(5);

/// With a rate, a batch holds no more than what may be sent in this time.
const PORTION: f64 = 0.1;

/// So much time that was lost is made up for.
const CATCH_UP: Duration = Duration::from_millis(200);

/// The sign for standard input.
const STDIN: &str = "-";

/// An event, or what was to be one.
#[derive(Debug)]
pub(super) struct Item {
    /// Where it comes from: `argument 2`, `line 7`.
    pub(super) origin: String,
    /// Its text, or why it is none.
    pub(super) text: Result<Text, String>,
}

/// A checked text.
#[derive(Debug)]
pub(super) struct Text {
    bytes: Vec<u8>,
    escaped: EscapedLen,
}

impl Text {
    fn parse(bytes: Vec<u8>) -> Result<Self, String> {
        let escaped = match Event::parse(&bytes) {
            Ok(event) => event.escaped_len(),
            Err(why) => {
                return Err(format!(
                    "{why}; an event is a JSON text, and `--text` makes one of any text"
                ));
            }
        };
        Ok(Self { bytes, escaped })
    }

    /// As an event again.
    pub(super) fn event(&self) -> Event<'_> {
        Event::known(&self.bytes, self.escaped)
    }
}

impl Item {
    /// Reads the arguments on a thread of its own, in their order.
    pub(super) fn read(events: Vec<String>, as_text: bool) -> mpsc::Receiver<Self> {
        let (sender, items) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            for (index, event) in events.into_iter().enumerate() {
                let read = if event == STDIN {
                    read_lines(&sender, as_text)
                } else {
                    let origin = format!("argument {}", index + 1);
                    sender.blocking_send(Self::of(origin, event.into_bytes(), as_text)).is_ok()
                };
                if !read {
                    return;
                }
            }
        });
        items
    }

    fn of(origin: String, bytes: Vec<u8>, as_text: bool) -> Self {
        let text = if as_text { quoted(&bytes) } else { Ok(bytes) };
        Self { origin, text: text.and_then(Text::parse) }
    }
}

/// A text as a string of JSON.
fn quoted(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let text = str::from_utf8(bytes)
        .map_err(|e| EventError::InvalidUtf8 { offset: e.valid_up_to() }.to_string())?;
    Ok(serde_json::Value::from(text).to_string().into_bytes())
}

/// Sends a line of standard input each; false when nobody wants more.
fn read_lines(sender: &mpsc::Sender<Item>, as_text: bool) -> bool {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        say(&"an event a line, each a JSON text; Ctrl-D ends");
    }
    let mut input = stdin.lock();
    for number in 1_u64.. {
        let origin = format!("line {number}");
        let mut line = Vec::new();
        let most = MAX_EVENT_BYTES as u64 + 2;
        let item = match input.by_ref().take(most).read_until(b'\n', &mut line) {
            Ok(0) => return true,
            Ok(read) if read as u64 == most && !line.ends_with(b"\n") => {
                // The rest of it.
                let rest = input.skip_until(b'\n');
                let why =
                    format!("longer than {MAX_EVENT_BYTES} bytes, which is the most of an event");
                if rest.is_err() {
                    return true;
                }
                Item { origin, text: Err(why) }
            }
            Ok(_) => {
                // Editors put one at the beginning of a file.
                let bom = line.strip_prefix("\u{feff}".as_bytes()).filter(|_| number == 1);
                let text = bom.unwrap_or(&line);
                let text = text.strip_suffix(b"\n").unwrap_or(text);
                let text = text.strip_suffix(b"\r").unwrap_or(text);
                if text.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                Item::of(origin, text.to_vec(), as_text)
            }
            Err(error) => {
                let why = format!("standard input can't be read: {error}");
                let _ = sender.blocking_send(Item { origin, text: Err(why) });
                return true;
            }
        };
        if sender.blocking_send(item).is_err() {
            return false;
        }
    }
    true
}

/// Makes batches of items, no faster than allowed.
#[derive(Debug)]
pub(super) struct Feed {
    items: mpsc::Receiver<Item>,
    /// Did not fit into the last batch.
    over: Option<Item>,
    /// The batch that is put together. Here, so that it is counted if nobody waits for it any more.
    batch: Vec<Item>,
    /// Bytes of a body besides those of its events.
    overhead: usize,
    most: usize,
    /// The time of one event, with a rate.
    pause: Option<Duration>,
    next_at: Instant,
}

impl Feed {
    pub(super) fn new(items: mpsc::Receiver<Item>, channel: &Channel, rate: Option<f64>) -> Self {
        Self {
            items,
            over: None,
            batch: Vec::new(),
            overhead: body_overhead(channel, MAX_EVENTS),
            most: rate.map_or(MAX_EVENTS, portion),
            pause: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            next_at: Instant::now(),
        }
    }

    /// The next batch; `None` after the last. Items that are no events count like the others.
    pub(super) async fn next(&mut self) -> Option<Vec<Item>> {
        if self.pause.is_some() {
            sleep_until(self.next_at).await;
        }
        let first = match self.over.take() {
            Some(item) => item,
            None => self.items.recv().await?,
        };
        let mut bytes = self.overhead + size(&first);
        self.batch.push(first);
        while self.batch.len() < self.most {
            let Ok(Some(item)) = timeout(LINGER, self.items.recv()).await else { break };
            bytes += size(&item);
            if bytes > MAX_BODY_BYTES {
                self.over = Some(item);
                break;
            }
            self.batch.push(item);
        }
        let batch = mem::take(&mut self.batch);
        if let Some(pause) = self.pause {
            let events = u32::try_from(batch.len()).unwrap_or(1);
            // What was late is made up for, so that the rate is that on average.
            let now = Instant::now();
            let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
            self.next_at = self.next_at.max(earliest) + pause * events;
        }
        Some(batch)
    }

    /// How many items were read and are in no batch; none is read any more.
    pub(super) fn rest(&mut self) -> u64 {
        self.items.close();
        let mut rest = self.batch.len() as u64 + u64::from(self.over.is_some());
        while self.items.try_recv().is_ok() {
            rest += 1;
        }
        rest
    }
}

/// So many events are a batch at this rate.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // 1 to 5
fn portion(rate: f64) -> usize {
    (rate * PORTION).ceil().clamp(1.0, MAX_EVENTS as f64) as usize
}

fn size(item: &Item) -> usize {
    item.text.as_ref().map_or(0, |text| text.escaped.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of them are read already.
    fn feed(events: &[&str], rate: Option<f64>) -> Feed {
        let (sender, items) = mpsc::channel(AHEAD);
        for (index, event) in events.iter().enumerate() {
            let origin = format!("argument {}", index + 1);
            sender.try_send(Item::of(origin, event.as_bytes().to_vec(), false)).unwrap();
        }
        Feed::new(items, &Channel::parse("/demo/a").unwrap(), rate)
    }

    #[tokio::test]
    async fn batches_are_full_and_keep_the_order() {
        let mut feed = feed(&["1", "2", "nothing", "4", "5", "6"], None);
        let batch = feed.next().await.unwrap();
        let origins: Vec<_> = batch.iter().map(|item| item.origin.as_str()).collect();
        let expected = [1, 2, 3, 4, 5].map(|number| format!("argument {number}"));
        assert_eq!(origins, expected);
        let why = batch[2].text.as_ref().unwrap_err();
        assert!(why.contains("not a JSON value") && why.contains("--text"), "{why}");
        assert_eq!(feed.next().await.unwrap().len(), 1);
        assert!(feed.next().await.is_none());
    }

    #[tokio::test]
    async fn a_batch_is_no_larger_than_a_request() {
        // As large as an event may be, and larger when escaped.
        let large = format!("\"{}\"", "\\\"".repeat(119_000));
        let mut feed = feed(&[&large, &large, &large, &large, "1"], None);
        let mut sizes = Vec::new();
        while let Some(batch) = feed.next().await {
            let bytes: usize = batch.iter().map(size).sum();
            assert!(bytes + feed.overhead <= MAX_BODY_BYTES);
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [2, 3]);
    }

    #[test]
    fn at_a_low_rate_events_go_alone() {
        for (rate, events) in [(0.5, 1), (10.0, 1), (20.0, 2), (49.0, 5), (1e6, 5)] {
            assert_eq!(portion(rate), events, "{rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept() {
        let began = Instant::now();
        let mut feed = feed(&["1"; 30], Some(20.0));
        let mut count = 0;
        while let Some(batch) = feed.next().await {
            count += batch.len();
        }
        let took = began.elapsed().as_secs_f64();
        assert!(count == 30 && (1.4..1.7).contains(&took), "{count} in {took} s");
    }

    #[test]
    fn any_text_is_made_an_event_and_nothing_else() {
        let item = Item::of("line 1".to_owned(), b"say \"hi\"".to_vec(), true);
        assert_eq!(item.text.unwrap().event().text(), br#""say \"hi\"""#);
        let item = Item::of("line 2".to_owned(), b"caf\xe9 noir".to_vec(), true);
        assert_eq!(item.text.unwrap_err(), "not UTF-8 at byte 3");
    }
}
