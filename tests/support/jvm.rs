//! What the servers of our own that are written in Java have in common.

/// What a JVM gets: it should start fast and stay small.
pub(crate) const JVM: &[&str] = &[
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
];
