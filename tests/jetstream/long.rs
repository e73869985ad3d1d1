//! The long one: crashes of the bridge and of the server over one stream.

use super::Site;
use crate::support::PATIENCE;
use crate::support::broker::Broker as _;
use crate::support::ledger::{assert_first_in_order, ids};

/// T01. In the long tier 200,000 messages, 20 kills of the bridge and 2 of the server.
#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_every_message_is_delivered_in_order() {
    let long = std::env::var_os("LONG_TESTS").is_some();
    let (count, kills, of_server): (u64, u64, u64) =
        if long { (200_000, 20, 2) } else { (60_000, 5, 1) };
    let mut site = Site::open("").await;
    let setup = site.setup("ack_wait = \"2s\"");
    let mut bridge = setup.start_ready().await;
    let watch = site.watch();
    let share = count / (kills + of_server + 1);
    let mut produced = 0;
    for round in 0..=kills + of_server {
        let until = if round == kills + of_server { count } else { produced + share };
        site.produce(100_000, produced..until, 60).await;
        produced = until;
        if round == kills + of_server {
            break;
        }
        let reached = rand::random_range(share / 10..share / 2) as usize;
        site.ledger.reaches(site.ledger.len() + reached, PATIENCE).await;
        if round % (kills / of_server + 1) == kills / of_server / 2 {
            site.stream.kill().await;
            site.stream.restart().await;
            bridge.ready().await;
        } else {
            bridge.kill();
            bridge = setup.start_ready().await;
        }
    }
    let repeats = site.is_relayed(&bridge, count).await;
    println!("{count} messages, {kills} kills, {repeats} repeats");
    assert_first_in_order(&site.ledger.read());
    assert_eq!(ids(&site.ledger.read()).len() as u64, count);
    assert!(repeats as u64 <= (kills + of_server) * 10_000);
    watch.end().await;
}
