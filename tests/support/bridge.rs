//! The bridge as a process of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use super::PATIENCE;
use super::emulator::{self, request};
use super::unprivileged::is_root;
use super::{signal, until, whole_lines};

/// What to run: a configuration file in a directory of its own, and an environment.
pub(crate) struct Setup {
    directory: TempDir,
    env: Vec<(String, String)>,
    /// A command that runs the command behind it.
    through: Vec<String>,
    group: Option<Group>,
}

/// A control group, removed when the last process has left it.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A running `appsync-bridge run`; killed when dropped.
pub(crate) struct Bridge {
    child: Child,
    /// Written by the bridge itself: what it has logged is there before it does anything else.
    log: NamedTempFile,
    admin: String,
}

impl Setup {
    /// A configuration with one MQTT source `plant` and one API `main`. `source`, `api` and `rest` are
    /// lines of TOML that are put into their tables and behind them.
    pub(crate) fn new(endpoint: &str, broker: u16, api: &str, source: &str, rest: &str) -> Self {
        let url = if source.contains("url =") {
            String::new()
        } else {
            format!("url = \"mqtt://127.0.0.1:{broker}\"\n")
        };
        let client = if source.contains("client_id =") { "" } else { "client_id = \"bridge\"\n" };
        let route = "[route.data]\nfrom = \"plant\"\ntopic = \"plant/{device}/data\"\nchannel = \"/plant/{device}\"\n";
        let route = if rest.contains("[route") { "" } else { route };
        let source = format!(
            "[source.plant]\ntype = \"mqtt\"\n{client}subscriptions = [\"plant/#\"]\n{url}{source}\n"
        );
        Self::of(endpoint, api, &format!("{source}\n{route}"), rest)
    }

    /// A configuration with one API `main`; `sources` are tables of sources and routes, and `rest`
    /// follows `[log]`.
    pub(crate) fn of(endpoint: &str, api: &str, sources: &str, rest: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let auth = if api.contains("auth =") {
            ""
        } else {
            "auth = { type = \"api-key\", key = \"da2-local\" }\n"
        };
        let rejects = directory.path().join("rejects.jsonl");
        let text = format!(
            "[api.main]\nendpoint = \"{endpoint}\"\n{auth}{api}\n\
             {sources}\n[dead_letter.rejects]\ntype = \"file\"\npath = \"{}\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n{rest}\n",
            rejects.display()
        );
        std::fs::write(directory.path().join("bridge.toml"), text).unwrap();
        Self { directory, env: Vec::new(), through: Vec::new(), group: None }
    }

    /// Adds a variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds lines to `[admin]`.
    pub(crate) fn admin(self, lines: &str) -> Self {
        let text = std::fs::read_to_string(self.config()).unwrap();
        let listen = "listen = \"127.0.0.1:0\"\n";
        let more = if lines.contains("listen =") { "" } else { listen };
        std::fs::write(self.config(), text.replace(listen, &format!("{more}{lines}\n"))).unwrap();
        self
    }

    /// Starts the bridge with a tmpfs of `size` at `small/` that only it sees, but for
    /// [`Bridge::sees`], with a `filler` of so many bytes in it.
    pub(crate) fn with_small_disk(mut self, size: &str, filler: u32) -> Self {
        let small = self.file("small");
        std::fs::create_dir(&small).unwrap();
        let small = small.display();
        let script = format!(
            "mount -t tmpfs -o size={size} tmpfs {small} && head -c {filler} /dev/zero >{small}/filler && exec \"$0\" \"$@\""
        );
        // Not everybody is root, and everybody is in a namespace of their own.
        let unshare = if is_root() { "-m" } else { "-rm" };
        self.through = ["unshare", unshare, "sh", "-c", &script].map(str::to_owned).to_vec();
        self
    }

    /// Starts the bridge with no more than so many file descriptors.
    pub(crate) fn with_descriptors(mut self, most: u32) -> Self {
        self.through = ["prlimit".to_owned(), format!("--nofile={most}:{most}")].to_vec();
        self
    }

    /// Starts the bridge in a control group with no more than so much memory, where this machine has them and this user
    /// may make one.
    pub(crate) fn with_memory(mut self, mib: u64) -> Self {
        let name = format!("appsync-bridge-test-{:08x}", rand::random::<u32>());
        let groups =
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (root, limit) in groups {
            let group = Path::new(root).join(&name);
            if std::fs::create_dir(&group).is_err() {
                continue;
            }
            if std::fs::write(group.join(limit), (mib << 20).to_string()).is_err() {
                let _ = std::fs::remove_dir(&group);
                continue;
            }
            let group = group.display();
            let script = format!("echo $$ >{group}/cgroup.procs && exec \"$0\" \"$@\"");
            self.through = ["sh", "-c", &script].map(str::to_owned).to_vec();
            self.group = Some(Group(PathBuf::from(group.to_string())));
            return self;
        }
        println!("no control group can be made here: only what is resident is looked at");
        self
    }

    /// The file of the configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.file("bridge.toml")
    }

    /// A file in the directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The dead letters written so far; a line that is being written does not count.
    pub(crate) fn rejects(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.file("rejects.jsonl")).unwrap_or_default();
        whole_lines(&text).map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// What `check --connect` says, with `args` besides.
    pub(crate) async fn check_with(&self, args: &[&str]) -> (bool, String) {
        let mut command = tokio::process::Command::from(emulator::bridge());
        command.args(["check", "--connect", "-c"]).arg(self.file("bridge.toml")).args(args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let output = command.output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// What `check --connect` says of the brokers, a line each, and whether it is content with them: no test of a
    /// broker has to have an API.
    pub(crate) async fn check(&self) -> (bool, String) {
        let (_, said) = self.check_with(&["--json"]).await;
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{said}: {e}"));
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut lines = Vec::new();
        lines.extend(list(&report["notes"]).iter().map(|note| format!("note: {}", text(note))));
        let errors = list(&report["errors"]);
        lines.extend(errors.iter().map(|error| format!("error: {}", text(&error["message"]))));
        let parts = list(&report["connect"]);
        let parts = parts.iter().filter(|part| part["part"] != "api");
        let mut good = errors.is_empty();
        for part in parts {
            let name = format!("{} {}", text(&part["part"]), text(&part["name"]));
            let name = name.trim_end();
            let steps = list(&part["steps"]);
            let of = |state: &str| steps.iter().find(|step| step["state"] == state);
            let words = |step: &Value| {
                let (what, remedy) = (text(&step["what"]), text(&step["remedy"]));
                let parted = if remedy.is_empty() { "" } else { "; " };
                format!("{what}{parted}{remedy}")
            };
            if part["good"] == true {
                lines.push(format!("{name}: connected: {}", text(&part["found"])));
                lines.extend(of("warned").map(|step| format!("warning: {name}: {}", words(step))));
                continue;
            }
            good = false;
            lines.push(format!("error: {name}: {}", words(of("failed").unwrap())));
        }
        (good, lines.join("\n"))
    }

    /// Starts the bridge, and waits for it to have its admin port.
    pub(crate) async fn start(&self) -> Bridge {
        let mut command = match self.through.split_first() {
            None => emulator::bridge(),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                let bridge = emulator::bridge();
                command.args(rest).arg(bridge.get_program()).args(bridge.get_args());
                command
            }
        };
        let log = NamedTempFile::new().unwrap();
        let mut child = command
            .args(["run", "-c"])
            .arg(self.file("bridge.toml"))
            .envs(self.env.iter().map(|(n, v)| (n, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        let admin = until("the bridge has started", PATIENCE, async || {
            let ended = child.try_wait().unwrap();
            let text = std::fs::read_to_string(log.path()).unwrap();
            assert!(ended.is_none(), "the bridge ended: {text}");
            let started = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
            let mut started = started.filter(|l| l["message"] == "started");
            started.next().map(|l| l["admin"].as_str().unwrap().to_owned())
        })
        .await;
        Bridge { child, log, admin }
    }

    /// Starts the bridge, and waits for it to be ready.
    pub(crate) async fn start_ready(&self) -> Bridge {
        let bridge = self.start().await;
        bridge.ready().await;
        bridge
    }
}

impl Bridge {
    /// Waits until `/readyz` says so.
    pub(crate) async fn ready(&self) {
        until("the bridge is ready", PATIENCE, async || {
            (self.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
    }

    /// Status and text of an admin page.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.admin);
        let answer = request(Method::GET, &url, &[], "").await;
        (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Asks it to reload, with these headers: status and answer.
    pub(crate) async fn reload(&self, headers: &[(&str, &str)]) -> (u16, Value) {
        let url = format!("http://{}/reload", self.admin);
        let answer = request(Method::POST, &url, headers, "").await;
        (answer.status.as_u16(), answer.json())
    }

    /// The address of its admin port.
    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// Every series with its value.
    pub(crate) async fn metrics(&self) -> BTreeMap<String, f64> {
        let (_, text) = self.get("/metrics").await;
        let series = text.lines().filter(|l| !l.starts_with('#'));
        series
            .filter_map(|l| l.rsplit_once(' '))
            .map(|(n, v)| (n.to_owned(), v.parse().unwrap()))
            .collect()
    }

    /// One series, without the prefix.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let metrics = self.metrics().await;
        let name = format!("appsync_bridge_{series}");
        *metrics.get(&name).unwrap_or_else(|| panic!("no {name} in {:?}", metrics.keys()))
    }

    /// How many messages of a source ended in which way, without the ways in which none did. Together
    /// with what is in flight they are exactly what was received, but for the moment in which one of them changes.
    pub(crate) async fn settled(&self, source: &str) -> BTreeMap<String, f64> {
        until("the numbers agree", PATIENCE, async || self.settled_now(source).await).await
    }

    /// The same; `None` while the numbers do not agree.
    async fn settled_now(&self, source: &str) -> Option<BTreeMap<String, f64>> {
        let metrics = self.metrics().await;
        let of =
            |name: &str| metrics[&format!("appsync_bridge_source_{name}{{source=\"{source}\"}}")];
        let start = format!("appsync_bridge_source_settled_total{{source=\"{source}\",outcome=\"");
        let outcome = |(series, count): (&String, &f64)| {
            let outcome = series.strip_prefix(&start)?.strip_suffix("\"}")?;
            Some((outcome.to_owned(), *count))
        };
        let all: BTreeMap<_, _> = metrics.iter().filter_map(outcome).collect();
        assert_eq!(all.len(), 10, "{all:?}");
        let settled: f64 = all.values().sum();
        #[allow(clippy::float_cmp)] // whole numbers
        let agree = of("received_total") == settled + of("in_flight");
        agree.then(|| all.into_iter().filter(|(_, count)| *count > 0.0).collect())
    }

    /// Waits until a series has a value.
    pub(crate) async fn metric_is(&self, series: &str, good: impl Fn(f64) -> bool) {
        until(series, PATIENCE, async || good(self.metric(series).await).then_some(())).await;
    }

    /// Waits until all that the source `plant` gave is settled.
    pub(crate) async fn nothing_in_flight(&self) {
        self.metric_is("source_in_flight{source=\"plant\"}", |v| v == 0.0).await;
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    /// A path as the bridge sees it, in its own mounts.
    pub(crate) fn sees(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.child.id()));
        root.join(path.strip_prefix("/").unwrap())
    }

    /// The lines of its log that hold all of these.
    pub(crate) fn lines(&self, words: &[&str]) -> Vec<String> {
        let log = self.log();
        let found = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        found.map(str::to_owned).collect()
    }

    /// Seconds of processor time that it has had.
    pub(crate) fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    /// The most that was resident of it so far, in MiB.
    pub(crate) fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end, at most `patience`.
    pub(crate) async fn ended(&mut self, patience: Duration) -> ExitStatus {
        until("the bridge ends", patience, async || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the bridge's log\n{}", self.log());
        }
    }
}

/// `0600`, as a secret file should be.
pub(crate) fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
