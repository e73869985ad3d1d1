//! Signals, and notifications to systemd.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::health::Health;
use crate::shutdown::Shutdown;

/// SIGTERM and SIGINT drain, a second one aborts. SIGHUP wakes one who waits for it, if there is one, or the next who
/// does.
pub(super) fn listen(shutdown: Shutdown, reload: Option<Arc<Notify>>) {
    // Only a system that refuses signal handlers altogether fails here.
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    ) else {
        return warn!("signals can't be caught: stopping will not drain");
    };
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {
                    if let Some(reload) = &reload {
                        reload.notify_one();
                    } else {
                        info!("SIGHUP is ignored: there is no configuration to read again");
                    }
                    continue;
                }
            }
            if shutdown.is_draining() {
                return shutdown.start_abort();
            }
            shutdown.start_drain();
        }
    });
}

/// Notifies systemd, if it asked for that, of a reload that begins.
pub(super) fn tell_reloading() {
    // Without the time systemd could not tell this reload from one that it asked for later.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        let _ = sd_notify::notify(&[NotifyState::Reloading, now]);
    }
}

/// Notifies systemd, if it asked for that, that a reload has ended, in whichever way `status` says.
pub(super) fn tell_reloaded(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Notifies systemd, if it asked for that: started, stopping, and alive as long as work goes on.
pub(super) fn tell_systemd(health: Health, shutdown: Shutdown) {
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    tokio::spawn(async move {
        // Without a watchdog an interval that never matters.
        let every =
            sd_notify::watchdog_enabled().map_or(Duration::from_hours(1), |within| within / 3);
        let mut clock = tokio::time::interval(every);
        loop {
            tokio::select! {
                _ = clock.tick() => {
                    if health.stuck().is_empty() {
                        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                    }
                }
                () = shutdown.drain() => break,
            }
        }
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
    });
}
