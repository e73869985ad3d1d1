//! The end of a source whose time is over.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Shared, now};
use crate::aws::sqs::BATCH;
use crate::delivery::Outcome;
use crate::source::Unclean;

/// On the abort what is held has this long to be given back; the process is gone soon after.
const LAST: Duration = Duration::from_millis(350);

/// Gives back what is not done, as far as there is time.
pub(super) async fn abort(shared: &Shared) -> Result<(), Unclean> {
    shared.leases.close();
    let now = now();
    let (mut done, mut back) = {
        let mut debts = shared.debts.lock();
        for (lease, place) in shared.leases.ended(usize::MAX) {
            if matches!(place.outcome, Outcome::Accepted(_)) {
                debts.delete(lease, place, now);
            }
        }
        debts.close(now)
    };
    done.sort_unstable_by_key(|receipt| receipt.order);
    let left = shared.leases.released_leases().into_iter();
    let left = left.chain(shared.leases.take_back(|_| true));
    back.extend(left.filter(|lease| lease.due > now).map(|lease| lease.handle));
    back.sort_unstable_by_key(|receipt| std::cmp::Reverse(receipt.order));
    let all = async {
        let deleted = done.chunks(BATCH).map(|some| async move {
            let some: Vec<_> = some.iter().collect();
            let _ = shared.queue.delete(&some).await;
        });
        join_all(deleted).await;
        let returned = back.chunks(BATCH).map(|some| async move {
            let some: Vec<_> = some.iter().collect();
            let _ = shared.queue.set_visibility(&some, Duration::ZERO).await;
        });
        if shared.is_fifo() {
            // The last first: the others of its group are anybody's only after it.
            for some in returned {
                some.await;
            }
        } else {
            join_all(returned).await;
        }
    };
    let _ = timeout(LAST, all).await;
    Err(Unclean("aborted"))
}
