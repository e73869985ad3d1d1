//! The dry run of a replay: its effects, without any.

use std::sync::Arc;

use super::BuildError;
use super::account::{Account, Place};
use super::input::{Input, Options};
use super::plan::Undecided;
use crate::config::Config;
use crate::message::Message;
use crate::route::{Decision, Rejection, RouteName};
use crate::shutdown::Shutdown;

/// The report of a dry run on a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preview {
    /// An event would be published.
    Event {
        /// By this route.
        route: RouteName,
        /// To this channel.
        channel: String,
        /// Its size.
        bytes: usize,
    },
    /// It would be rejected again.
    Rejected {
        /// By this route; `None`: no route takes it.
        route: Option<RouteName>,
        /// The kind of reason.
        reason: &'static str,
        /// The reason in words.
        detail: String,
    },
}

/// Reads the files and reports what would be published where; no network, nothing written. Stops at the
/// drain.
pub async fn dry_run(
    config: &Config,
    options: &Options,
    shutdown: &Shutdown,
    mut show: impl FnMut(Place, Preview),
) -> Result<Account, BuildError> {
    let mut input = Input::open(config, options)?;
    let mut account = Account::default();
    let mut read = input.start();
    while let Some(line) = input.next(shutdown).await {
        read[line.place.file].take(&line);
        let place = line.place;
        let kept = match line.kept {
            Ok(kept) => kept,
            Err(why) => {
                account.unreadable(place, why);
                continue;
            }
        };
        account.read += 1;
        if !input.wants(&kept) {
            account.skipped += 1;
            continue;
        }
        let routes = &input.routes;
        let plans = routes.messages(&kept).and_then(|messages| {
            let plan = |message: Message| Ok((routes.plan(&message, &kept)?, message));
            messages.into_iter().map(plan).collect::<Result<Vec<_>, Undecided>>()
        });
        let plans = match plans {
            Ok(plans) => plans,
            Err(Undecided { unknown_route, reason, detail }) => {
                match unknown_route {
                    Some(route) => account.unknown(&route),
                    None => account.rejected += 1,
                }
                show(place, Preview::Rejected { route: kept.route, reason, detail });
                continue;
            }
        };
        let mut is_rejected = false;
        let decisions = plans.into_iter().flat_map(|(decisions, message)| {
            let bytes = message.payload.len();
            decisions.into_iter().map(move |decision| (decision, bytes))
        });
        for (Decision { route, outcome, .. }, bytes) in decisions {
            let route = Arc::clone(&route.name);
            match outcome {
                Ok(rendered) => {
                    for channel in &rendered.channels {
                        let route = Arc::clone(&route);
                        show(place, Preview::Event { route, channel: channel.to_string(), bytes });
                    }
                }
                Err(Rejection { reason, detail }) => {
                    is_rejected = true;
                    let (route, reason) = (Some(route), reason.word());
                    show(place, Preview::Rejected { route, reason, detail });
                }
            }
        }
        *(if is_rejected { &mut account.rejected } else { &mut account.published }) += 1;
    }
    account.unread = input.unread(&read);
    Ok(account)
}
