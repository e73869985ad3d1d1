//! What a visitor breaks: for how long, and when what piled up meanwhile has come through.
//!
//! One at a time, so that what is seen has one cause. Whether it is over is measured: a killed bridge is back when it
//! says that it is ready, and a backlog is drained when the broker's own count says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::warn;

use super::broker::Traffic;
use super::line::Cutter;
use super::process;
use crate::emulator::{Fault, Handle};

/// With fewer messages than this at the broker nothing waits: so many are on their way at any time.
const CALM: u64 = 30;

/// So many looks in a row have to find it calm.
const LOOKS: u32 = 3;

/// A bridge that is not ready for so long, though nothing is broken any more, is not waited for.
const LOST_AFTER: Duration = Duration::from_mins(1);

/// It is looked this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Something that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Api,
    Throttle,
    Namespace,
    Bridge,
    Line,
}

/// The words of a request, and what they break.
const KINDS: [(&str, Kind); 5] = [
    ("api", Kind::Api),
    ("throttle", Kind::Throttle),
    ("namespace", Kind::Namespace),
    ("bridge", Kind::Bridge),
    ("line", Kind::Line),
];

impl Kind {
    /// What this word names.
    pub(super) fn named(word: &str) -> Option<Self> {
        KINDS.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind)
    }

    fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// How long it is broken; a killed bridge until it is back.
    fn lasts(self) -> Option<Duration> {
        match self {
            Self::Api | Self::Namespace => Some(Duration::from_secs(10)),
            Self::Throttle => Some(Duration::from_secs(15)),
            Self::Line => Some(Duration::from_secs(5)),
            Self::Bridge => None,
        }
    }

    /// The fault of the Event API, as JSON.
    fn fault(self) -> Option<Value> {
        match self {
            Self::Api => {
                let body = "<html>503 Service Unavailable</html>";
                Some(json!({ "fault": { "answer": { "status": 503, "body": body } } }))
            }
            Self::Throttle => Some(json!({ "fault": { "throttle": { "events_per_second": 20 } } })),
            Self::Namespace => Some(json!({ "fault": { "refuse_namespace": {} } })),
            Self::Bridge | Self::Line => None,
        }
    }
}

/// Breaks things, and mends them.
pub(super) struct Troubles {
    emulator: Handle,
    bridge: process::Watch,
    line: Cutter,
    traffic: Arc<Traffic>,
    last: Mutex<Option<Trouble>>,
}

#[derive(Clone, Debug)]
struct Trouble {
    number: u32,
    kind: Kind,
    began: Instant,
    /// When it was mended.
    mended: Option<Instant>,
    /// When what had piled up had come through.
    drained: Option<Instant>,
    calm_looks: u32,
    /// When the bridge was ready last.
    ready: Instant,
    /// It did not come back, and is not waited for any more.
    lost: bool,
    /// The most that waited at the broker.
    peak: u64,
    /// Requests that the Event API refused.
    refused: u64,
    /// The process that was killed.
    pid: Option<u32>,
    starts: u32,
}

impl Trouble {
    fn is_over(&self) -> bool {
        self.drained.is_some() || self.lost
    }
}

impl Troubles {
    /// Nothing is broken yet.
    pub(super) fn new(
        emulator: Handle,
        bridge: process::Watch,
        line: Cutter,
        traffic: Arc<Traffic>,
    ) -> Self {
        Self { emulator, bridge, line, traffic, last: Mutex::new(None) }
    }

    /// Breaks it; `false` while something else is.
    pub(super) fn begin(&self, kind: Kind) -> bool {
        let mut last = self.last.lock();
        if last.as_ref().is_some_and(|trouble| !trouble.is_over()) {
            return false;
        }
        let seen = self.bridge.seen();
        let number = last.as_ref().map_or(0, |trouble| trouble.number) + 1;
        *last = Some(Trouble {
            number,
            kind,
            began: Instant::now(),
            mended: None,
            drained: None,
            calm_looks: 0,
            ready: Instant::now(),
            lost: false,
            peak: self.traffic.counts().waiting(),
            refused: 0,
            pid: seen.pid,
            starts: seen.starts,
        });
        match kind {
            Kind::Bridge => self.bridge.kill(),
            Kind::Line => self.line.cut(true),
            // The text is a constant; a test reads each.
            _ => self.emulator.set_faults(fault(kind).into_iter().collect()),
        }
        true
    }

    /// Mends whatever is broken, so that what waits can leave.
    pub(super) fn mend(&self) {
        self.line.cut(false);
        self.emulator.set_faults(Vec::new());
    }

    /// Looks after what is broken, for ever.
    pub(super) async fn watch(&self) {
        loop {
            sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    fn look(&self) {
        let mut last = self.last.lock();
        let Some(trouble) = last.as_mut().filter(|trouble| !trouble.is_over()) else { return };
        let waiting = self.traffic.counts().waiting();
        trouble.peak = trouble.peak.max(waiting);
        let seen = self.bridge.seen();
        let broken = trouble.mended.is_none() && trouble.kind.lasts().is_some();
        if broken || seen.is_ready() {
            trouble.ready = Instant::now();
        }
        if trouble.ready.elapsed() >= LOST_AFTER {
            trouble.lost = true;
            self.mend();
            let last = seen.log.back().map_or("nothing", String::as_str);
            warn!(
                seconds = LOST_AFTER.as_secs(),
                last,
                "the bridge is not ready again: it is not waited for any more, and something else can be broken; \
                 if it stays so, end the demo and start it again"
            );
            return;
        }
        if trouble.mended.is_none() {
            trouble.refused = self.emulator.struck();
            let over = match trouble.kind.lasts() {
                Some(lasts) => trouble.began.elapsed() >= lasts,
                None => seen.starts > trouble.starts && seen.is_ready(),
            };
            if over {
                trouble.mended = Some(Instant::now());
                self.mend();
            }
            return;
        }
        let calm = waiting < CALM && seen.is_ready();
        trouble.calm_looks = if calm { trouble.calm_looks + 1 } else { 0 };
        if trouble.calm_looks == LOOKS {
            trouble.drained = Some(Instant::now());
        }
    }

    /// The last one: `broken`, then `draining`, then `over`; or `lost`, where the bridge does not come back.
    pub(super) fn show(&self) -> Value {
        let last = self.last.lock();
        let Some(trouble) = last.as_ref() else { return Value::Null };
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let phase = match (trouble.mended, trouble.drained) {
            _ if trouble.lost => "lost",
            (None, _) => "broken",
            (_, None) => "draining",
            _ => "over",
        };
        let left = trouble.kind.lasts().map(|lasts| lasts.saturating_sub(trouble.began.elapsed()));
        let drain = trouble.mended.map(|mended| {
            trouble.drained.unwrap_or_else(Instant::now).saturating_duration_since(mended)
        });
        json!({
            "number": trouble.number,
            "kind": trouble.kind.name(),
            "phase": phase,
            "for_ms": ms(trouble.mended.unwrap_or_else(Instant::now) - trouble.began),
            "left_ms": left.map(ms),
            "drain_ms": drain.map(ms),
            "peak": trouble.peak,
            "refused": trouble.refused,
            "pid": trouble.pid,
        })
    }
}

fn fault(kind: Kind) -> Option<Fault> {
    kind.fault()?.to_string().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_word_and_a_fault_that_is_one() {
        for (word, kind) in KINDS {
            assert_eq!((Kind::named(word), kind.name()), (Some(kind), word));
            assert_eq!(fault(kind).is_some(), kind.fault().is_some(), "{word}");
        }
        assert_eq!(Kind::named("everything"), None);
        assert_eq!(KINDS.iter().filter(|(_, kind)| kind.fault().is_some()).count(), 3);
    }
}
