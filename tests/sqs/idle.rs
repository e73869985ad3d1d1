//! What a bridge costs whose queues bring nothing.

use std::time::Duration;

use super::{Relay, source_of};
use crate::support::sqs::fake::{Action, Fake};

/// Four queues for a minute: three receives a minute for each receiver, and hardly any CPU.
#[tokio::test(flavor = "multi_thread")]
async fn idle_queues_cost_what_long_polling_promises() {
    const QUEUES: u32 = 4;
    if std::env::var_os("LONG_TESTS").is_none() {
        return;
    }
    let fake = Fake::start().await;
    let relay = Relay::open(&[]);
    let (mut sources, mut routes) = (String::new(), "channel = \"/it/a\"\n".to_owned());
    for at in 0..QUEUES {
        let queue = fake.queue("idle", &[]).await;
        let name = if at == 0 { "it".to_owned() } else { format!("it{at}") };
        sources += &source_of(&name, &queue, "wait_time = \"20s\"");
        if at > 0 {
            let route = ["[route.", &name, "]\nfrom = \"", &name, "\"\nchannel = \"/it/a\"\n"];
            routes.extend(route);
        }
    }
    let bridge = relay.setup_of(&sources, &routes, "").start_ready().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (polls, cpu) = (fake.asked(Action::ReceiveMessage), bridge.cpu());
    tokio::time::sleep(Duration::from_mins(1)).await;
    let polls = fake.asked(Action::ReceiveMessage) - polls;
    let cpu = bridge.cpu() - cpu;
    let status = std::fs::read_to_string(format!("/proc/{}/status", bridge.pid())).unwrap();
    let rss = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    println!("idle: {polls} receives a minute of {QUEUES} queues, {cpu:.2} s CPU, {rss}");
    // Two receivers a queue.
    assert!((u64::from(QUEUES) * 2 * 2..=u64::from(QUEUES) * 2 * 3).contains(&polls), "{polls}");
    assert!(cpu < 1.0, "{cpu}");
}
