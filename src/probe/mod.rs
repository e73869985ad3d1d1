//! What a look at a broker or an API found, step by step: for `check --connect`.

mod complaint;

pub use complaint::Complaint;

/// A step of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Somebody answers there.
    Reach,
    /// The certificates are good, on both sides.
    Tls,
    /// The clocks agree.
    Clock,
    /// There are credentials.
    Credentials,
    /// It knows who we are.
    Login,
    /// We may do there what we have to.
    Allowed,
    /// What we are to read is there, and is as it has to be.
    Exists,
    /// It can be written.
    Write,
    /// It takes an event.
    Publish,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should.
    Good,
    /// It works, and should be looked at.
    Warned,
    /// It does not work.
    Failed,
    /// It was not come by, or not asked for.
    Untried,
}

/// A step, and how it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub step: Step,
    /// How it went.
    pub state: State,
    /// A clause, where there is more to say.
    pub what: String,
    /// What to do about it, if anything.
    pub remedy: String,
}

/// What a look that came through found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In words.
    pub what: String,
    /// A step that can't be tried without a change there, or not all of it, and what was left out.
    pub untried: Option<(Step, &'static str)>,
    /// A step that came through, and what should be looked at all the same.
    pub warned: Option<Complaint>,
}

/// A look at one part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// In their order.
    pub steps: Vec<Seen>,
    /// What is there.
    pub found: String,
}

impl Step {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reach => "reach",
            Self::Tls => "tls",
            Self::Clock => "clock",
            Self::Credentials => "credentials",
            Self::Login => "login",
            Self::Allowed => "allowed",
            Self::Exists => "exists",
            Self::Write => "write",
            Self::Publish => "publish",
        }
    }
}

impl State {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warned => "warned",
            Self::Failed => "failed",
            Self::Untried => "untried",
        }
    }
}

impl Seen {
    /// One that went well.
    pub fn good(step: Step) -> Self {
        Self::of(step, State::Good, "", "")
    }

    /// Of its parts.
    pub fn of(
        step: Step,
        state: State,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { step, state, what: what.into(), remedy: remedy.into() }
    }
}

impl From<String> for Found {
    fn from(what: String) -> Self {
        Self { what, untried: None, warned: None }
    }
}

impl Looked {
    /// A look that takes these steps, and ended at one of them or came through.
    pub fn of(steps: &[Step], ended: Result<impl Into<Found>, Complaint>) -> Self {
        let complaint = match ended.map(Into::into) {
            Ok(Found { what, untried, warned }) => {
                let seen = |step: &Step| match (untried, &warned) {
                    (_, Some(Complaint { step: at, what, remedy })) if at == step => {
                        Seen::of(*at, State::Warned, what.as_str(), remedy.as_str())
                    }
                    (Some((at, why)), _) if at == *step => Seen::of(at, State::Untried, why, ""),
                    _ => Seen::good(*step),
                };
                return Self { steps: steps.iter().map(seen).collect(), found: what };
            }
            Err(complaint) => complaint,
        };
        let failed = complaint.step;
        let mut steps: Vec<Step> = steps.to_vec();
        if !steps.contains(&failed) {
            steps.push(failed);
            steps.sort_unstable();
        }
        // Whether we may and whether it is there is asked at the same time: only what comes before is known.
        let known = |step: Step| step < failed && step < Step::Allowed;
        let seen = |step: Step| match step {
            step if step == failed => {
                Seen::of(step, State::Failed, complaint.what.as_str(), complaint.remedy.as_str())
            }
            step if known(step) => Seen::good(step),
            step => Seen::of(step, State::Untried, "", ""),
        };
        Self { steps: steps.into_iter().map(seen).collect(), found: String::new() }
    }

    /// Whether nothing failed.
    pub fn is_good(&self) -> bool {
        self.steps.iter().all(|seen| seen.state != State::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(looked: &Looked) -> Vec<(Step, State)> {
        looked.steps.iter().map(|seen| (seen.step, seen.state)).collect()
    }

    #[test]
    fn what_was_come_by_before_the_end_is_known_and_no_more() {
        use State::{Failed, Good, Untried};
        let steps = [Step::Reach, Step::Login, Step::Allowed, Step::Exists];
        let ended = |step| {
            let why = Err::<Found, _>(Complaint::of_words(step, "no; do this"));
            Looked::of(&steps, why)
        };
        let looked = ended(Step::Login);
        let [reach, login, allowed, exists] = steps;
        let expected = [(reach, Good), (login, Failed), (allowed, Untried), (exists, Untried)];
        assert_eq!(states(&looked), expected);
        assert_eq!(
            (looked.steps[1].what.as_str(), looked.steps[1].remedy.as_str()),
            ("no", "do this")
        );
        let expected = [(reach, Good), (login, Good), (allowed, Untried), (exists, Failed)];
        assert_eq!(states(&ended(Step::Exists)), expected);
        // A server that wants TLS where none is configured.
        let looked = ended(Step::Tls);
        assert_eq!(looked.steps[1].step, Step::Tls);
        assert!(!looked.is_good() && looked.steps[2].state == Untried);
        assert!(Looked::of(&steps, Ok("it".to_owned())).is_good());
        let untried = Some((allowed, "to read"));
        let warned = Some(Complaint::of_words(exists, "odd; look at it"));
        let found = Found { what: "it".to_owned(), untried, warned };
        let looked = Looked::of(&steps, Ok(found));
        let expected = [(reach, Good), (login, Good), (allowed, Untried), (exists, State::Warned)];
        assert_eq!((states(&looked).as_slice(), looked.is_good()), (&expected[..], true));
        assert_eq!((&*looked.steps[2].what, &*looked.steps[3].remedy), ("to read", "look at it"));
    }
}
