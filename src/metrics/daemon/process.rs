//! Numbers of this process, under the names that all of Prometheus's libraries use: no prefix of ours. Linux tells
//! them; elsewhere there are none.

use prometheus_client::registry::Registry;

/// What is built in, of what can be left out.
const FEATURES: [(&str, bool); 8] = [
    ("kafka", cfg!(feature = "kafka")),
    ("mqtt", cfg!(feature = "mqtt")),
    ("nats", cfg!(feature = "nats")),
    ("sqs", cfg!(feature = "sqs")),
    ("emulator", cfg!(feature = "emulator")),
    ("demo", cfg!(feature = "demo")),
    ("top", cfg!(feature = "top")),
    ("otlp", cfg!(feature = "otlp")),
];

/// The labels of `build_info`. A build knows its commit where whoever builds sets `APPSYNC_BRIDGE_COMMIT`: it asks
/// neither git nor the network.
pub fn build() -> Vec<(&'static str, String)> {
    let features = FEATURES.iter().filter(|(_, built_in)| *built_in).map(|(name, _)| *name);
    vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("commit", option_env!("APPSYNC_BRIDGE_COMMIT").unwrap_or("unknown").to_owned()),
        ("features", features.collect::<Vec<_>>().join(",")),
    ]
}

/// What the system says of the process.
pub(in crate::metrics) fn registry() -> Registry {
    #[allow(unused_mut)] // elsewhere than on Linux
    let mut registry = Registry::default();
    #[cfg(target_os = "linux")]
    registry.register_collector(Box::new(linux::Process::new()));
    registry
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fmt::Error;
    use std::time::{SystemTime, UNIX_EPOCH};

    use procfs::process::{LimitValue, Process as Own};
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;

    /// Asks the system at each scrape.
    #[derive(Debug)]
    pub(super) struct Process {
        /// Read once: a clock that is set would move it, as if the process were another one.
        started: Option<f64>,
    }

    impl Process {
        pub(in crate::metrics) fn new() -> Self {
            Self { started: started() }
        }
    }

    impl Collector for Process {
        #[allow(clippy::cast_precision_loss)] // far below what a float holds
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
            gauge(
                &mut encoder,
                "process_start_time_seconds",
                "When the process began, in seconds since 1970",
                self.started,
            )?;
            let Ok(own) = Own::myself() else { return Ok(()) };
            if let Ok(stat) = own.stat() {
                let cpu = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
                let counter = ConstCounter::new(cpu);
                let help = "Processor time, of user and system, in seconds";
                let kind = counter.metric_type();
                counter.encode(encoder.encode_descriptor(
                    "process_cpu_seconds",
                    help,
                    None,
                    kind,
                )?)?;
                let resident = stat.rss.saturating_mul(procfs::page_size());
                let numbers = [
                    ("process_resident_memory_bytes", "Memory in use, in bytes", resident as f64),
                    (
                        "process_virtual_memory_bytes",
                        "Addresses in use, in bytes",
                        stat.vsize as f64,
                    ),
                    ("process_threads", "Threads", stat.num_threads as f64),
                ];
                for (name, help, number) in numbers {
                    gauge(&mut encoder, name, help, Some(number))?;
                }
            }
            let open = own.fd_count().ok().map(|count| count as f64);
            gauge(&mut encoder, "process_open_fds", "File descriptors in use", open)?;
            let most =
                own.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
                    LimitValue::Value(most) => Some(most as f64),
                    LimitValue::Unlimited => None,
                });
            gauge(&mut encoder, "process_max_fds", "File descriptors at most", most)
        }
    }

    fn gauge(
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        number: Option<f64>,
    ) -> Result<(), Error> {
        let Some(number) = number else { return Ok(()) };
        let gauge = ConstGauge::new(number);
        gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
    }

    /// Where `/proc` shows processes alone (systemd's `ProcSubset=pid`) there is no time of the boot to count from: now,
    /// which is the moment after.
    fn started() -> Option<f64> {
        let now = || Some(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64());
        since_boot().or_else(now)
    }

    #[allow(clippy::cast_precision_loss)] // far below what a float holds
    fn since_boot() -> Option<f64> {
        let ticks = Own::myself().ok()?.stat().ok()?.starttime;
        let boot = procfs::boot_time_secs().ok()?;
        Some(boot as f64 + ticks as f64 / procfs::ticks_per_second() as f64)
    }
}
