//! What the tests share.

pub(crate) mod amplify;
pub(crate) mod emulator;
pub(crate) mod socket;
