//! Secrets: texts that are never shown, and that may change while the bridge runs.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::files::regular::{self, Stamp};
use crate::redact;

/// Largest file of a secret; a larger one is a mistake.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Least time between two reads of a secret's file, unless the secret was refused.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Timeout of reading a file: its last content is used meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// A text that never shows itself. One that came from a file follows the file: keys rotate without a
/// restart. A file that is gone, empty, unreadable or does not answer changes nothing: the last good text
/// stays. A mount that hangs may block a reader for ever, so files are read on threads of their own, at most
/// one a secret, which the bridge's end does not wait for.
#[derive(Clone)]
pub struct Secret(Arc<Kept>);

struct Kept {
    file: Option<PathBuf>,
    read: Box<Reader>,
    last: Mutex<Last>,
    ended: Condvar,
    told: Notify,
}

type Reader = dyn Fn(&Path) -> Result<Content, Unreadable> + Send + Sync;

struct Last {
    text: Arc<str>,
    stamp: Option<Stamp>,
    looked: Instant,
    look: Look,
    warned: bool,
}

/// The look at the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    None,
    Running,
    /// It runs for longer than anybody waits.
    Late,
}

/// What there is to wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Nothing,
    /// The read begun for this caller.
    Own,
    /// A read begun earlier, perhaps before the caller's reason to ask.
    Earlier,
}

/// The content of a secret's file.
pub(super) struct Content {
    /// Without the line break at its end; never empty.
    pub(super) text: String,
    pub(super) open_to_others: bool,
    stamp: Stamp,
}

/// Why a file gives no secret: a clause about it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("does not exist")]
    Missing,
    #[error("is {0}, not a regular file")]
    NotRegular(&'static str),
    #[error("can't be read: {0}")]
    Io(io::Error),
    #[error("is far too large for a secret")]
    TooLarge,
    #[error("is not UTF-8")]
    NotUtf8,
    #[error("is empty")]
    Empty,
}

impl Secret {
    /// Wraps a text that never changes.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self::kept(text.into(), None, Box::new(read))
    }

    /// A text that was read from `file`, and follows it.
    pub fn of_file(text: impl Into<Arc<str>>, file: &Path) -> Self {
        Self::kept(text.into(), Some(file.to_owned()), Box::new(read))
    }

    fn kept(text: Arc<str>, file: Option<PathBuf>, read: Box<Reader>) -> Self {
        redact::learn(&text);
        let (stamp, looked) = (None, Instant::now());
        let last = Mutex::new(Last { text, stamp, looked, look: Look::None, warned: false });
        let (ended, told) = (Condvar::new(), Notify::new());
        Self(Arc::new(Kept { file, read, last, ended, told }))
    }

    /// The file that it follows.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// Whether it comes from a file, and may change.
    pub fn is_followed(&self) -> bool {
        self.0.file.is_some()
    }

    /// The text as last read, for the one place that sends it. Reads no file.
    pub fn reveal(&self) -> Arc<str> {
        Arc::clone(&self.0.last.lock().text)
    }

    /// The text as it is now. Looks at the file at most once a second, and waits for it no longer than
    /// that.
    pub async fn current(&self) -> Arc<str> {
        let told = self.0.told.notified();
        if self.begin(Instant::now(), false) == Wait::Own {
            self.wait(told).await;
        }
        self.reveal()
    }

    /// As [`current`](Self::current), and surely what the file says now: the text was refused, or is used
    /// so seldom that reading costs nothing.
    pub async fn reread(&self) -> Arc<str> {
        loop {
            let told = self.0.told.notified();
            let wait = self.begin(Instant::now(), true);
            if wait != Wait::Nothing {
                self.wait(told).await;
            }
            if wait != Wait::Earlier {
                return self.reveal();
            }
        }
    }

    /// As [`reread`](Self::reread), for a thread that may wait.
    pub fn reread_on_thread(&self) -> Arc<str> {
        self.look(Instant::now(), true)
    }

    fn look(&self, now: Instant, surely: bool) -> Arc<str> {
        loop {
            let wait = self.begin(now, surely);
            if wait != Wait::Nothing {
                let running = |last: &mut Last| last.look == Look::Running;
                let mut last = self.0.last.lock();
                self.0.ended.wait_while_for(&mut last, running, PATIENCE);
                last.late(&self.0);
            }
            if wait != Wait::Earlier || !surely {
                return self.reveal();
            }
        }
    }

    async fn wait(&self, told: impl Future<Output = ()>) {
        if tokio::time::timeout(PATIENCE, told).await.is_err() {
            self.0.last.lock().late(&self.0);
        }
    }

    /// Begins a look where one is due and none is running.
    fn begin(&self, now: Instant, surely: bool) -> Wait {
        let mut last = self.0.last.lock();
        let due = surely || now.duration_since(last.looked) >= LOOK_EVERY;
        if self.0.file.is_none() || !due {
            return Wait::Nothing;
        }
        match last.look {
            Look::None => {}
            Look::Running => return Wait::Earlier,
            Look::Late => return Wait::Nothing,
        }
        last.looked = now;
        last.look = Look::Running;
        let known = last.stamp.filter(|_| !surely);
        let kept = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("secret".to_owned());
        if let Err(error) = thread.spawn(move || kept.look(known)) {
            last.end(&self.0, Err(Unreadable::Io(error)));
            return Wait::Nothing;
        }
        Wait::Own
    }
}

impl Kept {
    /// Looks at the file, and reads it unless it is as `known`.
    fn look(&self, known: Option<Stamp>) {
        let Some(file) = &self.file else { return };
        let stamp = std::fs::metadata(file).ok().map(|metadata| Stamp::of(&metadata));
        let found =
            if known.is_some() && stamp == known { Ok(None) } else { (self.read)(file).map(Some) };
        self.last.lock().end(self, found);
        self.ended.notify_all();
        self.told.notify_waiters();
    }

    fn shown(&self) -> impl fmt::Display + '_ {
        self.file.as_deref().unwrap_or(Path::new("")).display()
    }
}

impl Last {
    /// The look is over; `None`: the file is as it was.
    fn end(&mut self, kept: &Kept, found: Result<Option<Content>, Unreadable>) {
        self.look = Look::None;
        match found {
            Ok(None) => self.warned = false,
            Ok(Some(content)) => {
                if *self.text != *content.text {
                    redact::learn(&content.text);
                    self.text = content.text.into();
                    tracing::info!(file = %kept.shown(), "the secret in the file changed; the new one is used");
                }
                self.stamp = Some(content.stamp);
                self.warned = false;
            }
            Err(why) => {
                self.stamp = None;
                self.warn(kept, &why);
            }
        }
    }

    /// The look is no longer waited for, if it is still running.
    fn late(&mut self, kept: &Kept) {
        if self.look == Look::Running {
            self.look = Look::Late;
            self.warn(kept, &format_args!("does not answer within {PATIENCE:?}"));
        }
    }

    fn warn(&mut self, kept: &Kept, why: &dyn fmt::Display) {
        if !self.warned {
            tracing::warn!(file = %kept.shown(), %why, "the secret's file can't be used; its last content stays in force");
        }
        self.warned = true;
    }
}

impl PartialEq for Secret {
    /// Whether both are the same secret: the same text, or one that follows the same file, whenever each has read it.
    fn eq(&self, other: &Self) -> bool {
        self.0.file == other.0.file && (self.is_followed() || self.reveal() == other.reveal())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Reads a file that holds a secret.
pub(super) fn read(path: &Path) -> Result<Content, Unreadable> {
    let content = regular::read(path, MAX_FILE_BYTES).map_err(|why| match why {
        regular::Unreadable::NotRegular(what) => Unreadable::NotRegular(what),
        regular::Unreadable::TooLarge { .. } => Unreadable::TooLarge,
        regular::Unreadable::Io(error) if error.kind() == ErrorKind::NotFound => {
            Unreadable::Missing
        }
        regular::Unreadable::Io(error) => Unreadable::Io(error),
    })?;
    let (open_to_others, stamp) = (content.is_open_to_others(), Stamp::of(&content.metadata));
    let mut text = String::from_utf8(content.bytes).map_err(|_| Unreadable::NotUtf8)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(Unreadable::Empty);
    }
    Ok(Content { text, open_to_others, stamp })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    /// Replaces the content as an editor or a rotation does: another file takes the name.
    fn replace(path: &Path, text: &str) {
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    #[test]
    fn follows_its_file_at_most_once_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        replace(&path, "one\n");
        let secret = Secret::of_file("one", &path);
        let start = Instant::now();
        let at = |ms: u64| secret.look(start + Duration::from_millis(ms), false);
        assert_eq!(&*at(1_100), "one");
        replace(&path, "two\r\n");
        assert_eq!(&*at(1_900), "one", "looked at less than a second ago");
        assert_eq!(&*at(2_200), "two");
        replace(&path, "six");
        assert_eq!(&*secret.look(start + Duration::from_millis(2_300), true), "six", "refused");
        // What can't be used changes nothing, and is tried again.
        for bad in ["", "\n", "\u{0}".repeat(70_000).as_str()] {
            replace(&path, bad);
            assert_eq!(&*secret.reread_on_thread(), "six");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&*at(10_000), "six");
        replace(&path, "new");
        assert_eq!(&*at(11_100), "new");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn two_are_the_same_that_follow_one_file_or_have_one_text() {
        let of = |text: &str, path: &str| Secret::of_file(text, Path::new(path));
        assert_eq!(of("old", "/key"), of("new", "/key"));
        assert_ne!(of("old", "/key"), of("old", "/other"));
        assert_ne!(of("old", "/key"), Secret::new("old"));
        assert_eq!(Secret::new("old"), Secret::new("old"));
        assert_ne!(Secret::new("old"), Secret::new("new"));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_fifo_in_its_place_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        replace(&path, "one");
        let secret = Secret::of_file("one", &path);
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(&*secret.reread().await, "one");
        assert!(secret.0.last.lock().warned && secret.0.last.lock().look == Look::None);
        replace(&path, "two");
        assert_eq!(&*secret.reread().await, "two");
        assert!(!secret.0.last.lock().warned);
    }

    /// A file that hangs is waited for once; then its last content is used without a wait, no other
    /// thread is lost to it, and what it says in the end is taken.
    #[tokio::test]
    async fn a_file_that_hangs_is_not_waited_for() {
        use std::sync::mpsc;
        let (answer, answers) = mpsc::channel::<()>();
        let answers = Mutex::new(answers);
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        let read = move |_: &Path| {
            *count.lock() += 1;
            // Ends with an error when nobody will answer any more.
            let _ = answers.lock().recv();
            let stamp = Stamp::of(&std::fs::metadata(".").unwrap());
            Ok(Content { text: "two".into(), open_to_others: false, stamp })
        };
        let secret = Secret::kept("one".into(), Some("/hangs".into()), Box::new(read));
        assert_eq!(&*secret.reread().await, "one");
        assert!(secret.0.last.lock().look == Look::Late && secret.0.last.lock().warned);
        // Ready at once: nobody waits any more.
        for _ in 0..3 {
            assert_eq!(secret.reread().now_or_never().as_deref(), Some("one"));
            assert_eq!(&*secret.reread_on_thread(), "one");
        }
        assert_eq!(*asked.lock(), 1);
        let told = secret.0.told.notified();
        answer.send(()).unwrap();
        told.await;
        assert_eq!(&*secret.reveal(), "two");
        assert!(!secret.0.last.lock().warned);
    }

    #[test]
    fn follows_a_link_that_is_switched_as_kubernetes_does() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (name, text) in [("v1", "old"), ("v2", "new")] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("key"), text).unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/key", at("key")).unwrap();
        let secret = Secret::of_file("old", &at("key"));
        let later = |s| secret.look(Instant::now() + Duration::from_secs(s), false);
        assert_eq!(&*later(2), "old");
        symlink("v2", at("..next")).unwrap();
        std::fs::rename(at("..next"), at("..data")).unwrap();
        assert_eq!(&*later(4), "new");
    }
}
