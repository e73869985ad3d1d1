//! What the operating system gives by files: what may be read as one, when a certificate in one ends, and
//! how many may be open.

pub mod certificate;
pub mod descriptors;
pub mod regular;
