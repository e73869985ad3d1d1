//! Receiving: long polls, each with room for what it may bring.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::attempt::Asking;
use super::receipt::Receipt;
use super::received::Received;
use super::unwrap::deliveries;
use super::{Shared, now};
use crate::aws::sqs::Call;
use crate::delivery::{Delivery, Intake};
use crate::shutdown::Shutdown;
use crate::source::Reservation;

/// What a message is taken for before it is there: most are smaller, and one may have a mebibyte.
const ASSUMED: usize = 16 << 10;

/// Where there is room for a few messages only, it is waited so long for more: every receive costs the same.
const GATHER: Duration = Duration::from_millis(50);

/// Receives that bring nothing are at least so far apart, whatever they were to wait.
const APART: Duration = Duration::from_secs(1);

/// One of the source's receivers, until the drain. A receive that is open then is awaited, since SQS may have
/// handed messages out in it; they go back.
pub(super) async fn receive(shared: Arc<Shared>, intake: Intake, shutdown: Shutdown) {
    let mut asks = Asking::new(shared.is_fifo(), shared.wait, shared.visibility);
    // That of a receive that is to be repeated.
    let mut kept: Option<Reservation> = None;
    loop {
        let most = asks.most();
        let asking = async {
            loop {
                shared.link.until_mended().await;
                intake.until_open().await;
                let reservation = match kept.take() {
                    Some(reservation) => reservation,
                    None => reserve(&shared, most).await,
                };
                // Room may have been long in coming.
                if intake.is_open() {
                    return reservation;
                }
                if asks.repeats() {
                    kept = Some(reservation);
                }
            }
        };
        let mut reservation = tokio::select! {
            biased;
            () = shutdown.drain() => return,
            reservation = asking => reservation,
        };
        let asked = now();
        let attempt = asks.next(reservation.messages(), asked);
        let waits = attempt.wait == shared.wait;
        let given = match shared.queue.receive(&attempt, shared.visibility).await {
            Ok(given) => given,
            Err(trouble) if attempt.is_outdated(trouble.kind) => {
                asks.failed(attempt, trouble.kind);
                continue;
            }
            Err(trouble) => {
                let again = asks.failed(attempt, trouble.kind);
                kept = Some(reservation).filter(|_| again);
                let pause = shared.link.failed(Call::Receive, &trouble).await;
                tokio::select! {
                    () = shutdown.drain() => return,
                    () = shared.link.rest(Call::Receive, trouble.kind, pause) => continue,
                }
            }
        };
        shared.link.worked(Call::Receive);
        let again = asks.answered(attempt, given.len());
        shared.numbers.receives.inc();
        if given.is_empty() {
            shared.numbers.empty_receives.inc();
            kept = Some(reservation).filter(|_| again);
            let pause = APART.saturating_sub(now().duration_since(asked));
            if waits && !pause.is_zero() {
                tokio::select! {
                    () = shutdown.drain() => return,
                    () = sleep(pause) => {}
                }
            }
            continue;
        }
        let since = now();
        let due = since + shared.visibility;
        let ordered = shared.is_fifo();
        let given = given.into_iter();
        let received =
            given.filter_map(|given| Received::read(&shared.name, &shared.topic, ordered, given));
        // All of them before the first is submitted: what is given back at once takes those behind it with it.
        let taken: Vec<_> = received
            .flat_map(|received| take(&shared, &mut reservation, received, since, due))
            .collect();
        drop(reservation);
        for delivery in taken {
            intake.submit(delivery);
        }
    }
}

/// Room for `most` messages, or for as many as there is room for.
async fn reserve(shared: &Shared, most: usize) -> Reservation {
    let reservation = shared.room.reserve(most, ASSUMED).await;
    if reservation.messages() >= most {
        return reservation;
    }
    drop(reservation);
    sleep(GATHER).await;
    shared.room.reserve(most, ASSUMED).await
}

/// Records a message, and gives what is in it: nothing if it is known already, or goes back.
pub(super) fn take(
    shared: &Shared,
    reservation: &mut Reservation,
    received: Received,
    since: Instant,
    due: Instant,
) -> Vec<Delivery> {
    let Received { message, id, handle, receive_count, bytes } = received;
    shared.numbers.receive_count.observe(f64::from(receive_count));
    let receipt = Receipt {
        order: shared.next_order(),
        id: id.into(),
        handle: handle.into(),
        group: message.order.clone(),
        receive_count,
    };
    // Only one that was received before can be held here.
    if receive_count > 1 && !receipt.id.is_empty() && shared.received_again(&receipt, since, due) {
        return Vec::new();
    }
    // One that was given back may stand before those that were lost.
    if receive_count == 1 {
        shared.came_after(&receipt, receipt.order);
    }
    match shared.leases.take(reservation, receipt, bytes, since, due) {
        Ok(settlement) => deliveries(&shared.envelopes, message, settlement),
        Err(receipt) => {
            shared.give_back(vec![(Duration::ZERO, receipt, due)]);
            Vec::new()
        }
    }
}
