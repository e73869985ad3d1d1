//! What is on the screen: the last answer, how old it is, and which part of it is seen.

use ratatui::Frame;
use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, MouseEventKind};
use ratatui::layout::{Constraint, Layout};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use serde_json::Value;
use tokio::time::Instant;

use super::view::{self, Look, Tone};
use super::words::{lasting, wrapped};
use crate::error_chain::printable;

const KEYS: &str = "q end  ↑↓ scroll  tab section";

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To go on.
    Go,
    /// To end.
    End,
}

/// The screen.
#[derive(Debug)]
pub(super) struct Screen {
    address: String,
    look: Look,
    status: Option<Value>,
    heard: Option<Instant>,
    /// Why there is no answer now.
    why: Option<String>,
    /// Lines above what is seen.
    top: usize,
    /// Of the last drawing: lines that are seen, lines that there are, and those where sections begin.
    seen: usize,
    all: usize,
    titles: Vec<usize>,
}

impl Screen {
    /// With nothing to show yet.
    pub(super) fn new(address: String, look: Look) -> Self {
        let (status, heard, why) = (None, None, None);
        Self { address, look, status, heard, why, top: 0, seen: 0, all: 0, titles: Vec::new() }
    }

    /// Takes an answer, or why there is none.
    pub(super) fn note(&mut self, answer: Result<Value, String>, now: Instant) {
        match answer {
            Ok(status) => {
                (self.status, self.heard, self.why) = (Some(status), Some(now), None);
            }
            Err(why) => self.why = Some(printable(&why, 500)),
        }
    }

    /// What a key or a turn of the wheel does.
    pub(super) fn press(&mut self, event: &Event) -> Next {
        let page = self.seen.saturating_sub(1).max(1);
        let last = self.all.saturating_sub(self.seen);
        let next = match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Next::End,
                KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    return Next::End;
                }
                KeyCode::Down | KeyCode::Char('j') => self.top + 1,
                KeyCode::Up | KeyCode::Char('k') => self.top.saturating_sub(1),
                KeyCode::PageDown | KeyCode::Char(' ') => self.top + page,
                KeyCode::PageUp => self.top.saturating_sub(page),
                KeyCode::Home | KeyCode::Char('g') => 0,
                KeyCode::End | KeyCode::Char('G') => last,
                KeyCode::Tab => {
                    let next = self.titles.iter().find(|at| **at > self.top && self.top < last);
                    next.copied().unwrap_or(0)
                }
                KeyCode::BackTab => {
                    let before = self.titles.iter().rev().find(|at| **at < self.top);
                    before.copied().unwrap_or(if self.top == 0 { last } else { 0 })
                }
                _ => self.top,
            },
            Event::Mouse(mouse) => match mouse.kind {
                MouseEventKind::ScrollDown => self.top + 3,
                MouseEventKind::ScrollUp => self.top.saturating_sub(3),
                _ => self.top,
            },
            _ => self.top,
        };
        self.top = next.min(last);
        Next::Go
    }

    /// Draws it.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>, now: Instant) {
        let width = usize::from(frame.area().width);
        let head = self.head(now, width);
        let height = u16::try_from(head.len()).unwrap_or(u16::MAX);
        let parts = [Constraint::Length(height), Constraint::Min(0), Constraint::Length(1)];
        let [above, middle, below] = Layout::vertical(parts).areas(frame.area());
        let body = match &self.status {
            Some(status) => view::body(status, width, self.look),
            None => Vec::new(),
        };
        let titles = body.iter().enumerate().filter(|(_, line)| view::is_title(line));
        self.titles = titles.map(|(at, _)| at).collect();
        (self.seen, self.all) = (middle.height.into(), body.len());
        self.top = self.top.min(self.all.saturating_sub(self.seen));
        let more = self.all.saturating_sub(self.top + self.seen);
        let body: Vec<_> = body.into_iter().skip(self.top).take(self.seen).collect();
        frame.render_widget(Paragraph::new(head), above);
        frame.render_widget(Paragraph::new(body), middle);
        let more = if more > 0 { format!("  {more} more below") } else { String::new() };
        let keys = Span::styled(format!("{KEYS}{more}"), self.look.style(Tone::Faint));
        frame.render_widget(Paragraph::new(Line::from(keys)), below);
    }

    /// What is always seen: on the whole, and whether that is old.
    fn head(&self, now: Instant, width: usize) -> Vec<Line<'static>> {
        let mut head = match &self.status {
            Some(status) => view::head(status, &self.address, self.look),
            None => vec![Line::from(format!("appsync-bridge top  {}", self.address))],
        };
        let words = match (&self.why, self.heard) {
            (Some(why), Some(heard)) => {
                let age = lasting(now.duration_since(heard).as_secs_f64());
                // What it said last is no longer so.
                head[0] = Line::from(Span::styled(
                    format!("NO ANSWER for {age}: what is shown is what it said last"),
                    self.look.style(Tone::Bad),
                ));
                why.clone()
            }
            (Some(why), None) => why.clone(),
            (None, None) => "asking".to_owned(),
            (None, Some(_)) => return head,
        };
        let tone = if self.why.is_some() { Tone::Bad } else { Tone::Faint };
        let words = wrapped(&words, width).into_iter().take(4);
        head.extend(words.map(|line| Line::from(Span::styled(line, self.look.style(tone)))));
        head
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyEvent;
    use serde_json::json;

    use super::*;

    fn drawn(screen: &mut Screen, size: (u16, u16), now: Instant) -> String {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| screen.draw(frame, now)).unwrap();
        terminal.backend().to_string()
    }

    fn press(screen: &mut Screen, code: KeyCode) -> Next {
        screen.press(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    #[test]
    fn an_answer_that_stays_away_is_marked_and_what_was_said_stays() {
        let now = Instant::now();
        let mut screen = Screen::new("http://localhost:9464".to_owned(), Look { colour: false });
        assert!(drawn(&mut screen, (80, 24), now).contains("asking"));
        screen.note(Err("no answer: refused".to_owned()), now);
        assert!(drawn(&mut screen, (80, 24), now).contains("no answer: refused"));
        let status =
            json!({ "state": "ready", "version": "0.1.0", "sources": [{ "name": "plant" }] });
        screen.note(Ok(status.clone()), now);
        let text = drawn(&mut screen, (80, 24), now);
        assert!(text.contains("READY") && text.contains("plant") && !text.contains("refused"));
        screen.note(Err("no answer: refused".to_owned()), now);
        let text = drawn(&mut screen, (80, 24), now + Duration::from_secs(65));
        for words in ["NO ANSWER for 1 min 5 s", "no answer: refused", "plant"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        screen.note(Ok(status), now);
        assert!(!drawn(&mut screen, (80, 24), now).contains("NO ANSWER"));
    }

    #[test]
    fn every_line_can_be_reached_and_nothing_behind_the_last() {
        let now = Instant::now();
        let mut screen = Screen::new(String::new(), Look { colour: true });
        let routes: Vec<_> = (0..50).map(|n| json!({ "name": format!("route-{n}") })).collect();
        screen.note(Ok(json!({ "routes": routes })), now);
        let text = drawn(&mut screen, (80, 24), now);
        assert!(text.contains("more below") && !text.contains("route-49"), "{text}");
        press(&mut screen, KeyCode::End);
        let text = drawn(&mut screen, (80, 24), now);
        assert!(text.contains("route-49") && !text.contains("more below"), "{text}");
        let last = screen.top;
        press(&mut screen, KeyCode::Down);
        assert_eq!(screen.top, last);
        press(&mut screen, KeyCode::Home);
        for _ in 0..2 {
            press(&mut screen, KeyCode::Tab);
        }
        assert!(screen.titles.contains(&screen.top), "{} {:?}", screen.top, screen.titles);
        press(&mut screen, KeyCode::PageDown);
        assert!(screen.top > 0);
        for size in [(1, 1), (3, 2), (20, 4), (500, 200)] {
            drawn(&mut screen, size, now);
        }
        assert_eq!(press(&mut screen, KeyCode::Char('q')), Next::End);
    }
}
