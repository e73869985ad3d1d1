//! Many reloads under load from two brokers.

use std::fs;

use super::{By, GENERATION, connections, once_and_in_order, reload, reloads, spare};
use crate::support::kafka::Kafka;
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::Load;
use crate::support::shop::{Shop, stop};
use crate::support::{PATIENCE, until};

/// T06.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_reloads_under_load_lose_nothing_repeat_nothing_and_disturb_nobody() {
    let (kafka, mosquitto) = (Kafka::shared().await, Mosquitto::start("").await);
    let shop = Shop::open(kafka, "reloads", 4).await;
    let plant = format!(
        "[source.plant]\ntype = \"mqtt\"\nclient_id = \"bridge\"\nurl = \"mqtt://127.0.0.1:{}\"\n\
         subscriptions = [\"plant/#\"]\nunrouted = \"ignore\"\n\
         [route.plant]\nfrom = \"plant\"\ntopic = \"plant/{{device}}/data\"\nchannel = \"/plant/{{device}}\"\n",
        mosquitto.port
    );
    let setup = shop.setup(&plant);
    let spare = spare(mosquitto.port);
    let audit = "[route.audit]\nfrom = [\"shop\", \"plant\"]\nchannel = \"/audit/all\"\n";
    let base = fs::read_to_string(setup.config()).unwrap();
    let auth = "auth = {";
    // Each from what was before it.
    let valid = [
        format!("{base}\n{audit}"),
        base.replace("\"/plant/{device}\"", "\"/moved/{device}\""),
        format!("{base}\n{spare}"),
        base.replacen(auth, &format!("max_rate = 5000\n{auth}"), 1),
        base.clone(),
    ];
    let invalid = [
        base.replace("group = ", "grupp = "),
        base.replace("\"/plant/{device}\"", "\"/plant/{devise}\""),
        "[[".to_owned(),
        // Read well, and impossible to build.
        format!("{base}\n{spare}").replace("rejects.jsonl", "rejects.jsonl/below/it"),
        base.replace("\"plant/#\"", ""),
    ];
    let bridge = setup.start_ready().await;
    let rebalances = bridge.metric("source_rebalances_total{source=\"shop\"}").await;
    let orders = shop.load(kafka, 400, 40);
    let telemetry = Load::start(mosquitto.port, 400, 40);
    for round in 0..20 {
        // What came since the last one is under way.
        shop.ledger.reaches(shop.ledger.len() + 150, PATIENCE).await;
        let (valid, invalid) = (&valid[round / 2 % 5], &invalid[round / 2 % 5]);
        let (text, result) = if round % 2 == 0 { (valid, "applied") } else { (invalid, "refused") };
        fs::write(setup.config(), text).unwrap();
        let by = if round % 4 < 2 { By::Signal } else { By::Port };
        reload(&bridge, by, result).await;
        let rate = if text.contains("max_rate") { 5_000.0 } else { 10_000.0 };
        if result == "applied" {
            bridge.metric_is("publish_rate_limit{api=\"main\"}", |v| v == rate).await;
        }
    }
    let (ordered, told) = (orders.stop().await, telemetry.stop().await);

    until("everything is published", PATIENCE, async || {
        let accepted = shop.ledger.read();
        let of =
            |namespace: &str| accepted.iter().filter(|a| a.channel.starts_with(namespace)).count();
        (of("/shop/") as u64 >= ordered && (of("/plant/") + of("/moved/")) as u64 >= told)
            .then_some(())
    })
    .await;
    for source in ["shop", "plant"] {
        bridge.metric_is(&format!("source_in_flight{{source=\"{source}\"}}"), |v| v == 0.0).await;
    }
    let accepted = shop.ledger.read();
    once_and_in_order(&accepted, &["shop"], ordered);
    once_and_in_order(&accepted, &["plant", "moved"], told);
    assert!(accepted.iter().any(|a| a.channel == "/audit/all"));
    assert!(accepted.iter().any(|a| a.channel.starts_with("/moved/")));

    for (series, value) in [
        ("source_reconnects_total{source=\"plant\"}", 0.0),
        ("source_session_lost_total{source=\"plant\"}", 0.0),
        ("source_reconnects_total{source=\"shop\"}", 0.0),
        ("source_rebalances_total{source=\"shop\"}", rebalances),
        ("source_rewinds_total{source=\"shop\"}", 0.0),
        (GENERATION, 11.0),
    ] {
        assert_eq!(bridge.metric(series).await, value, "{series}");
    }
    assert_eq!(connections(&mosquitto, "bridge"), 1, "{}", mosquitto.log());
    assert_eq!(connections(&mosquitto, "spare"), 2, "{}", mosquitto.log());
    assert_eq!(reloads(&bridge, "applied").await + reloads(&bridge, "refused").await, 20.0);
    let left = bridge.metrics().await.into_keys().find(|series| series.contains("\"spare\""));
    assert_eq!(left, None, "of a source that is gone");
    stop(bridge).await;
}
