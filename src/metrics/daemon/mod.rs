//! Numbers of the daemon itself: which build runs, its process, its configuration, its export.

#[cfg(feature = "otlp")]
mod otlp;
mod process;
mod reload;

#[cfg(feature = "otlp")]
pub use otlp::OtlpMetrics;
pub use process::build;
pub(super) use process::registry as process;
pub use reload::ReloadMetrics;
