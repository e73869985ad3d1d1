//! Classic bugs of such software, off unless a test switches one on, to prove that the tests would
//! catch it (T65). In a release build the switch does not exist.

use std::cell::Cell;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::value::{Error, StringDeserializer};

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Bug {
    /// A message is done when it is handed to the publisher.
    AckBeforePublish,
    /// The `failed` list inside a 200 is not read.
    IgnoreFailed,
    /// What the API answers with 401 or 403 is discarded.
    DropOnRefusal,
    /// A key goes on while what failed of it waits.
    NoLaneHold,
    /// A message is done before its dead letter is written.
    DeadLetterUnconfirmed,
    /// A request is signed once, and its headers used for ever.
    SignedOnce,
    /// One refused namespace pauses the whole API.
    PauseWholeApi,
    /// A part of the bridge breaks off with a message in its hands, now and then.
    DropsMessages,
}

thread_local! {
    static SEEDED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// For a bridge in a process of its own.
static OF_PROCESS: LazyLock<Option<Bug>> = LazyLock::new(|| {
    let name = std::env::var("APPSYNC_BRIDGE_SEEDED_BUG").ok()?;
    Bug::deserialize(StringDeserializer::<Error>::new(name)).ok()
});

/// Switches a bug on or off, for what runs on this thread.
pub fn seed(bug: Option<Bug>) {
    SEEDED.set(bug);
}

/// Whether `bug` is on. Always false in a release build.
#[inline]
pub fn is(bug: Bug) -> bool {
    cfg!(debug_assertions) && (SEEDED.get() == Some(bug) || *OF_PROCESS == Some(bug))
}
