//! Files of the operating system: safe reading, the validity of certificates, and the limit of open ones.

pub mod certificate;
pub mod descriptors;
pub mod regular;
