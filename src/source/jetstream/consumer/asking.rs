//! How far the binding of the consumer has come. One question is out at a time; nothing is acknowledged meanwhile, so
//! that the figures in the answer are those that the source has too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{Config, Info};
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::binding::{Binding, Bound};
use crate::config::source::Limits;

/// Acknowledgements that were sent just before may not be counted yet: the server is asked again after this.
const AGAIN: Duration = Duration::from_millis(100);

/// Requests of a former process, or over a former connection, are waited for so long: they end after
/// a second, and a server sees that nobody listens within two seconds.
const FORMER: Duration = Duration::from_secs(3);

/// The binding of one consumer.
pub(in crate::source::jetstream) struct Asking {
    binding: Binding,
    wanted: Config,
    limits: Limits,
    state: State,
    doubted: bool,
    /// Former requests are not waited for any longer then.
    until: Option<Instant>,
    /// That it begins again is forbidden.
    forbidden: Arc<Notify>,
}

enum State {
    /// There is no connection.
    Away,
    /// It fails until then.
    Waiting(Instant),
    /// It is to be bound.
    Due,
    /// The server is asked.
    Asked(BoxFuture<'static, Answer>),
    Bound,
}

/// What the server answered.
pub(in crate::source::jetstream) enum Answer {
    /// To the question for the consumer.
    Found(Result<Box<Bound>, String>),
    /// To the request to have it begin again: what it was before, and how many messages are outstanding.
    Reset { result: Result<Box<Info>, String>, before: Box<Info>, outstanding: usize },
}

impl Asking {
    /// Nothing is asked before there is a connection.
    pub(in crate::source::jetstream) fn new(
        binding: Binding,
        wanted: Config,
        limits: Limits,
    ) -> Self {
        let (state, forbidden) = (State::Away, Arc::default());
        Self { binding, wanted, limits, state, doubted: false, until: None, forbidden }
    }

    /// The connection is lost.
    pub(in crate::source::jetstream) fn away(&mut self) {
        self.state = State::Away;
    }

    /// The consumer is to be bound anew.
    pub(in crate::source::jetstream) fn begin(&mut self) {
        (self.state, self.doubted, self.until) = (State::Due, false, None);
    }

    /// It failed; the next try is due then.
    pub(in crate::source::jetstream) fn wait(&mut self, until: Instant) {
        if !matches!(self.state, State::Away) {
            self.state = State::Waiting(until);
        }
    }

    /// It is bound.
    pub(in crate::source::jetstream) fn bound(&mut self) {
        self.state = State::Bound;
    }

    /// Whether it is bound.
    pub(in crate::source::jetstream) fn is_bound(&self) -> bool {
        matches!(self.state, State::Bound)
    }

    /// Whether a question is out.
    pub(in crate::source::jetstream) fn is_asked(&self) -> bool {
        matches!(self.state, State::Asked(_))
    }

    /// Asks if it is time to; whether it does.
    pub(in crate::source::jetstream) fn start(&mut self, now: Instant, connected: bool) -> bool {
        match self.state {
            // Whoever tells of connections may have missed one.
            State::Away if connected => self.begin(),
            State::Due if connected => self.ask(Duration::ZERO),
            State::Waiting(until) if until <= now => {
                self.begin();
                self.ask(Duration::ZERO);
            }
            _ => return false,
        }
        self.is_asked()
    }

    /// Asks a second time, once; whether it does.
    pub(in crate::source::jetstream) fn doubts(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.doubted, true);
        if first {
            self.ask(AGAIN);
        }
        first
    }

    /// Asks again while there are former requests, for a while; whether it does.
    pub(in crate::source::jetstream) fn waits(&mut self, now: Instant) -> bool {
        let waits = now < *self.until.get_or_insert(now + FORMER);
        if waits {
            self.ask(AGAIN);
        }
        waits
    }

    /// Has the consumer begin again.
    pub(in crate::source::jetstream) fn reset(&mut self, before: Box<Info>, outstanding: usize) {
        let (binding, forbidden) = (self.binding.clone(), Arc::clone(&self.forbidden));
        self.state = State::Asked(Box::pin(async move {
            let result = tokio::select! {
                after = binding.reset() => after.map(Box::new),
                () = forbidden.notified() => Err("the server forbids it".to_owned()),
            };
            Answer::Reset { result, before, outstanding }
        }));
    }

    /// The server complains of `what`: of what it forbids it says nothing else, and the answer is not waited for.
    pub(in crate::source::jetstream) fn complaint(&self, what: &str) {
        if what.contains(&self.binding.resets()) {
            self.forbidden.notify_waiters();
        }
    }

    /// Waits for the answer to what is asked.
    pub(in crate::source::jetstream) async fn answer(&mut self) -> Answer {
        match &mut self.state {
            State::Asked(answer) => {
                let answer = answer.await;
                self.state = State::Due;
                answer
            }
            _ => std::future::pending().await,
        }
    }

    fn ask(&mut self, after: Duration) {
        let (binding, wanted, limits) = (self.binding.clone(), self.wanted.clone(), self.limits);
        self.state = State::Asked(Box::pin(async move {
            tokio::time::sleep(after).await;
            Answer::Found(binding.bind(&wanted, limits).await.map(Box::new))
        }));
    }
}
