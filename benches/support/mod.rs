//! What the benchmarks share.

#[cfg(all(feature = "kafka", feature = "mqtt"))]
pub mod bare;
#[cfg(feature = "kafka")]
pub mod consumer;
pub mod process;
pub mod publisher;
#[cfg(feature = "sqs")]
pub mod queue;
pub mod sink;
pub mod wrk;

/// The one in the middle.
pub fn median(of: impl IntoIterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = of.into_iter().collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// An event of 256 bytes with one `#` in it, by which the sink counts.
pub fn event(id: u64) -> String {
    marked(id, "#")
}

/// One that carries the time at which it was made, by which the sink knows how long it was on its way.
pub fn timed_event(id: u64) -> String {
    marked(id, &format!("#{}", sink::now()))
}

fn marked(id: u64, mark: &str) -> String {
    let head = format!("{{\"id\":{id},\"mark\":\"{mark}\",\"filler\":\"");
    let filler = "x".repeat(256 - head.len() - 2);
    format!("{head}{filler}\"}}")
}
