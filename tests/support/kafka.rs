//! An Apache Kafka of our own: one node, broker and controller, in a JVM of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::jvm::JVM;
use super::{ports, until};
use records::Producer;
use security::Security;

use crate::support::PATIENCE;

pub(crate) mod groups;
pub(crate) mod records;
pub(crate) mod security;
pub(crate) mod topics;

/// A running Kafka; killed when dropped, and when the test's process ends in whatever way. It creates no
/// topics by itself.
pub(crate) struct Kafka {
    process: Option<Process>,
    directory: TempDir,
    /// Of the listener that asks for nothing.
    pub(crate) port: u16,
    security: Option<Security>,
    /// The one of [`produce`](Self::produce): the first record of a new one takes half a second.
    producer: OnceLock<Producer>,
}

/// A JVM and the shell that looks after it.
struct Process {
    keeper: Child,
    /// Apart from the child: `wait` would close it.
    orders: Option<ChildStdin>,
    broker: u32,
}

/// What `tests/run` fetches, and the archive that is made of it.
const JARS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.cache/kafka");
const CLASSES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.cache/kafka/classes.jsa");

/// What its JVM gets besides.
const BESIDES: &[&str] = &[
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
];

/// One node is a quorum and every replica; groups form without a wait, sessions may be short, and
/// topics are what a test makes them.
const PROPERTIES: &str = "\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.heartbeat.interval.ms=500
group.consumer.regex.refresh.interval.ms=10000
broker.heartbeat.interval.ms=200
broker.session.timeout.ms=3000
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.backoff.ms=200
num.network.threads=2
num.io.threads=4
background.threads=2
";

/// Runs the broker in directory `$0` and tells its process id. Each line of its input is a signal for
/// the broker; the end of the input, which is also the end of the test's process, is the end of both
/// and of the directory.
const KEEPER: &str = r#"
exec 3<&0
"$@" </dev/null >>"$0/log" 2>&1 3<&- &
broker=$!
echo $broker
{
    while read -r signal; do kill -"$signal" $broker; done
    : >"$0/over"
    kill -KILL $broker
} <&3 >/dev/null 2>&1 &
keeper=$!
wait $broker
code=$?
kill $keeper 2>/dev/null
if [ -e "$0/over" ]; then rm -rf "$0"; fi
exit $code
"#;

impl Kafka {
    /// The one that tests share, started when the first of them asks; it has every listener. Topics and
    /// groups need names of their own: [`topic`](Self::topic) makes one.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED.get_or_init(async || Self::secured("").await).await
    }

    /// Starts one on free ports, with lines of `server.properties` besides; a later line wins.
    pub(crate) async fn start(lines: &str) -> Self {
        Self::make(false, lines).await
    }

    /// As [`start`](Self::start), and with every [`Listener`](security::Listener).
    pub(crate) async fn secured(lines: &str) -> Self {
        Self::make(true, lines).await
    }

    async fn make(secured: bool, lines: &str) -> Self {
        static ARCHIVED: OnceCell<()> = OnceCell::const_new();
        ARCHIVED.get_or_init(archive_classes).await;
        let mut kafka = Self::formatted(secured, lines).await;
        kafka.restart().await;
        kafka
    }

    /// One that is yet to be started for the first time.
    async fn formatted(secured: bool, lines: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [port, controller] = ports();
        let path = directory.path().display();
        let security = secured.then(|| Security::new(directory.path()));
        let (addresses, protocols, secured) = match &security {
            Some(security) => (
                security.addresses(),
                Security::protocols(),
                Security::properties(directory.path()),
            ),
            None => Default::default(),
        };
        let addresses = format!("PLAINTEXT://127.0.0.1:{port}{addresses}");
        let text = format!(
            "{PROPERTIES}listeners={addresses},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners={addresses}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             log.dirs={path}/data\n{secured}{lines}\n"
        );
        let config = directory.path().join("server.properties");
        fs::write(&config, text).unwrap();
        let mut arguments = vec!["format", "--cluster-id", "AAAAAAAAAAAAAAAAAAAAAA", "--config"];
        arguments.push(config.to_str().unwrap());
        let users = Security::users();
        if security.is_some() {
            arguments.extend(users.iter().map(String::as_str));
        }
        let kafka = Self { process: None, directory, port, security, producer: OnceLock::new() };
        kafka.tool("kafka.tools.StorageTool", &arguments).await;
        kafka
    }

    /// Starts it again, on the same ports and data.
    pub(crate) async fn restart(&mut self) {
        self.launch(&[]).await;
    }

    /// Starts it, with options for the JVM besides.
    async fn launch(&mut self, options: &[&str]) {
        assert!(self.process.is_none(), "it runs");
        let before = self.log().len();
        let java = self.java();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER])
            .arg(self.directory.path())
            .arg(java.get_program())
            .args(java.get_args())
            .args(options)
            .arg("kafka.Kafka")
            .arg(self.file("server.properties"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Out of reach of what a terminal sends to the tests.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut broker = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut broker).unwrap();
        let broker = broker.trim().parse().unwrap();
        let orders = keeper.stdin.take();
        let mut process = Process { keeper, orders, broker };
        until("Kafka has started", PATIENCE, async || {
            if let Some(status) = process.keeper.try_wait().unwrap() {
                panic!("Kafka ended, {status}: {}", tail(&self.log()));
            }
            self.log()[before..].contains("Kafka Server started").then_some(())
        })
        .await;
        self.process = Some(process);
    }

    /// Ends it as an operator would, and waits for that.
    pub(crate) async fn stop(&mut self) {
        let process = self.process.as_mut().expect("it runs");
        process.signal("TERM");
        until("Kafka has stopped", PATIENCE, async || process.keeper.try_wait().unwrap()).await;
        self.process = None;
    }

    /// Ends it as a crash would. What it confirmed is with the operating system, which keeps it. The next
    /// start takes three seconds more: the session of this one has to end first.
    pub(crate) fn kill(&mut self) {
        let process = self.process.as_mut().expect("it runs");
        process.signal("KILL");
        process.keeper.wait().unwrap();
        self.process = None;
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").broker
    }

    /// Runs one of Kafka's own tools by the name of its class, and returns what it printed. It is a JVM
    /// of its own: this takes a second or two.
    pub(crate) async fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let output = tokio::process::Command::from(self.java())
            .arg(class)
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{class} {arguments:?}: {printed}{}", tail(&log));
        printed
    }

    /// The JVM up to its class.
    fn java(&self) -> Command {
        let path = self.directory.path().display();
        let keys = format!("{path}/keys.json");
        let bearer = "-Dorg.apache.kafka.sasl.oauthbearer";
        let mut command = Command::new("java");
        command
            .args(JVM)
            .args(BESIDES)
            // Where it unpacks its compressors.
            .arg(format!("-Djava.io.tmpdir={path}"))
            .arg(format!("{bearer}.allowed.urls=file://{keys}"))
            .arg(format!("{bearer}.allowed.files={keys}"));
        if Path::new(CLASSES).exists() {
            command.arg(format!("-XX:SharedArchiveFile={CLASSES}"));
        }
        command.args(["-cp", &class_path()]);
        command
    }

    /// For `bootstrap.servers`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A client of the listener that asks for nothing.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address());
        // Soon there again when the broker is.
        config.set("reconnect.backoff.max.ms", "500");
        config
    }

    /// A file in its directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it wrote to its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }
}

impl Process {
    /// Sends it a signal. It is no error if it has ended.
    fn signal(&mut self, name: &str) {
        let _ = writeln!(self.orders.as_mut().unwrap(), "{name}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.keeper.wait();
    }
}

/// Of every class of Kafka and its tools.
pub(crate) fn class_path() -> String {
    let names = include_str!("../kafka/jars.txt").lines();
    let jars: Vec<_> = names
        .map(|line| format!("{JARS}/{}", line.split_whitespace().nth(1).unwrap()))
        .inspect(|jar| assert!(Path::new(jar).exists(), "{jar} is missing: `tests/run` fetches it"))
        .collect();
    jars.join(":")
}

/// Half of a start is reading classes. Those that a broker has read once are kept, ready for use; a JVM
/// that can't use them, since it is another one, does without.
async fn archive_classes() {
    if Path::new(CLASSES).exists() {
        return;
    }
    let mut kafka = Kafka::formatted(true, "").await;
    let new = format!("{CLASSES}.{}", std::process::id());
    kafka.launch(&[&format!("-XX:ArchiveClassesAtExit={new}")]).await;
    kafka.stop().await;
    fs::rename(new, CLASSES).unwrap();
}

/// The partitions of a topic, as soon as the broker knows it.
fn partitions(client: &BaseConsumer, topic: &str) -> Vec<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(metadata) = client.fetch_metadata(Some(topic), Duration::from_secs(5)) {
            let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
            let found: Vec<_> = partitions.map(MetadataPartition::id).collect();
            if !found.is_empty() {
                return found;
            }
        }
        assert!(Instant::now() < deadline, "there is no topic {topic}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The end of a log, for people.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
