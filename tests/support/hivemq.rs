//! A `HiveMQ` of our own: a broker of MQTT 5 and 3.1.1 that is no relation of mosquitto's.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::jvm::JVM;
use super::{PATIENCE, free_port, until};

/// A running `HiveMQ`, Community Edition; killed when dropped.
pub(crate) struct HiveMq {
    child: Child,
    directory: TempDir,
    pub(crate) port: u16,
}

/// The queue of a client takes what comes while the bridge is away.
const CONFIG: &str = "<?xml version=\"1.0\"?>\n<hivemq>\n\
    <listeners><tcp-listener><port>PORT</port><bind-address>127.0.0.1</bind-address></tcp-listener></listeners>\n\
    <mqtt><queued-messages><max-queue-size>1000000</max-queue-size></queued-messages></mqtt>\n\
    <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>\n</hivemq>\n";

/// Starts it; without an extension for security it lets nobody in, unless it is told so beforehand.
const START: &str = "import com.hivemq.configuration.service.InternalConfigurations;\n\
    InternalConfigurations.AUTH_DENY_UNAUTHENTICATED_CONNECTIONS.set(false);\n\
    com.hivemq.HiveMQServer.main(new String[0]);\n";

impl HiveMq {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (place, port) = (directory.path(), free_port());
        for name in ["conf", "data", "extensions", "log"] {
            fs::create_dir(place.join(name)).unwrap();
        }
        fs::write(place.join("conf/config.xml"), CONFIG.replace("PORT", &port.to_string()))
            .unwrap();
        fs::write(place.join("start.bsh"), START).unwrap();
        let log = fs::File::create(place.join("out")).unwrap();
        let mut child = Command::new("java")
            .args(JVM)
            .arg(format!("-Dhivemq.home={}", place.display()))
            .args(["-cp", &class_path(), "bsh.Interpreter"])
            .arg(place.join("start.bsh"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("`java` cannot be run: `tests/run` installs it");
        until("HiveMQ listens", PATIENCE, async || {
            let log = || fs::read_to_string(place.join("out")).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "it ended: {}", log());
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        Self { child, directory, port }
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("out")).unwrap()
    }
}

impl Drop for HiveMq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The jars that `tests/run` fetches.
fn class_path() -> String {
    let cache = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.cache/hivemq");
    assert!(Path::new(cache).exists(), "{cache} is missing: `tests/run` fetches it");
    let names = include_str!("../mqtt/jars.txt").lines();
    let jars: Vec<_> =
        names.filter_map(|line| Some(format!("{cache}/{}", line.split_once("  ")?.1))).collect();
    jars.join(":")
}
