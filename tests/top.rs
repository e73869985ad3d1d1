//! `top` in a real terminal, that of tmux: healthy, with a refused namespace, with a broker that is gone, and without
//! the bridge. What it shows is printed, for eyes.

use std::process::{Command, Output};

use serde_json::json;

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::{self, Emulator};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::publish;
use crate::support::until;

/// A terminal of a size, with a shell in it that says when it is back.
struct Terminal(String);

impl Terminal {
    fn open(size: (u16, u16), environment: &[&str]) -> Self {
        let terminal = Self(format!("appsync-bridge-{:08x}", rand::random::<u32>()));
        let (width, height) = (size.0.to_string(), size.1.to_string());
        let shell = format!("exec env PS1='back$ ' {} sh", environment.join(" "));
        let made = terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-s",
            "it",
            "-x",
            &width,
            "-y",
            &height,
            &shell,
        ]);
        assert!(made.status.success(), "{made:?}");
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        Command::new("tmux")
            .env("LC_ALL", "C.UTF-8")
            .args(["-L", &self.0])
            .args(arguments)
            .output()
            .unwrap()
    }

    fn types(&self, keys: &[&str]) {
        assert!(self.tmux(&[&["send-keys", "-t", "it"], keys].concat()).status.success());
    }

    fn runs(&self, line: &str) {
        self.types(&["-l", line]);
        self.types(&["Enter"]);
    }

    fn shows(&self) -> String {
        let output = self.tmux(&["capture-pane", "-p", "-t", "it"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same with the codes of colours.
    fn shows_colours(&self) -> String {
        let output = self.tmux(&["capture-pane", "-p", "-e", "-t", "it"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn until(&self, what: &str, good: impl Fn(&str) -> bool) -> String {
        until(what, PATIENCE, async || {
            let shown = self.shows();
            good(&shown).then_some(shown)
        })
        .await
    }

    async fn until_it_says(&self, words: &[&str]) -> String {
        let all = |shown: &str| {
            // Lines are broken where they end.
            let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
            words.iter().all(|word| shown.contains(word))
        };
        let shown = self.until(&format!("{words:?}"), all).await;
        println!("{shown}\n{}", "=".repeat(80));
        shown
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the terminal\n{}", self.shows());
        }
        let _ = self.tmux(&["kill-server"]);
    }
}

struct Scene {
    emulator: Emulator,
    mosquitto: Mosquitto,
    setup: Setup,
    bridge: Bridge,
}

impl Scene {
    async fn start() -> Self {
        let emulator = Emulator::start(&[]);
        let mosquitto = Mosquitto::start("").await;
        let routes = "[route.data]\nfrom = \"plant\"\ntopic = \"plant/{device}/data\"\nchannel = \"/plant/{device}\"\n\
            [route.alarms]\nfrom = \"plant\"\ntopic = \"plant/{device}/alarm\"\nchannel = \"/alarms/{device}\"\n";
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", routes);
        let bridge = setup.start_ready().await;
        Self { emulator, mosquitto, setup, bridge }
    }

    async fn traffic(&self) {
        let message = |id: u64| {
            let payload = if id % 10 == 3 { "{".to_owned() } else { format!("{{\"id\":{id}}}") };
            (format!("plant/dev-{}/data", id % 7), payload.into_bytes())
        };
        publish(self.mosquitto.port, 1_000, (0..1_500).map(message)).await;
    }

    fn top(&self) -> String {
        format!("'{}' top --admin {}", env!("CARGO_BIN_EXE_appsync-bridge"), self.bridge.admin())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_what_is_well_what_is_refused_what_is_gone_and_its_own_age() {
    let mut scene = Scene::start().await;
    let [small, wide] = [(80, 24), (120, 40)].map(|size| Terminal::open(size, &[]));
    scene.traffic().await;
    for terminal in [&small, &wide] {
        terminal.runs(&scene.top());
        terminal
            .until_it_says(&["READY appsync-bridge", "plant mqtt ready", "received 1,500", "q end"])
            .await;
    }
    let said =
        ["main ready", "accepted 1,350,", "breaker closed", "rejects file ready written 150"];
    wide.until_it_says(&[&said[..], &["invalid json 150", "data 0", "→ /plant/{device}"]].concat())
        .await;
    wide.until("a curve", |shown| shown.contains('█')).await;
    let green = |shown: &str| shown.contains("\u{1b}[32m") || shown.contains("\u{1b}[38;5;2m");
    assert!(green(&wide.shows_colours()), "no green");
    // What is below is reached by keys.
    small.until("more is below", |shown| shown.contains("more below")).await;
    small.types(&["End"]);
    small.until_it_says(&["LAST WARNINGS AND ERRORS", "can't be published, and is kept"]).await;
    small.types(&["Home"]);
    small.until_it_says(&["SOURCES"]).await;

    let fault = json!([{ "fault": { "refuse_namespace": {} }, "namespace": "alarms" }]);
    scene.emulator.set_faults(fault).await;
    let alarm = ("plant/dev-1/alarm".to_owned(), b"{\"id\":1}".to_vec());
    publish(scene.mosquitto.port, 100, [alarm]).await;
    for terminal in [&small, &wide] {
        let words = [
            "NOT READY appsync-bridge",
            "NEEDS ATTENTION api main",
            "namespace `alarms` refuses the bridge for",
            "its events are kept",
            "401",
        ];
        terminal.until_it_says(&words).await;
    }
    scene.emulator.set_faults(json!([])).await;
    wide.until("it is well again", |shown| shown.starts_with("READY")).await;

    scene.mosquitto.kill();
    for terminal in [&small, &wide] {
        let words = ["NEEDS ATTENTION source plant", "plant mqtt not ready for", "next try in"];
        terminal.until_it_says(&words).await;
    }
    scene.mosquitto.restart().await;
    wide.until("it is well again", |shown| shown.starts_with("READY")).await;

    // The bridge itself.
    scene.bridge.signal("STOP");
    small
        .until_it_says(&["NO ANSWER for", "what is shown is what it said last", "plant mqtt"])
        .await;
    scene.bridge.signal("CONT");
    small.until("it is heard again", |shown| shown.starts_with("READY")).await;
    let admin = scene.bridge.admin().to_owned();
    scene.bridge.kill();
    wide.until_it_says(&["NO ANSWER for", "does the bridge run", "plant mqtt"]).await;
    let Scene { setup, .. } = scene;
    let _again = setup.admin(&format!("listen = \"{admin}\"")).start_ready().await;
    wide.until_it_says(&["READY appsync-bridge", "plant mqtt ready", "received 0"]).await;

    // The terminal is as it was.
    for (terminal, keys) in [(&small, "q"), (&wide, "C-c")] {
        terminal.types(&[keys]);
        terminal.until("the shell is back", |shown| shown.trim_end().ends_with("back$")).await;
        assert!(!terminal.shows().contains("SOURCES"), "{}", terminal.shows());
        terminal.runs("echo code=$?; stty -a | tr ' ' '\\n' | grep -x -- icanon");
        terminal.until_it_says(&["code=0", "icanon"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_with_the_terminal_restored_and_no_color_has_none() {
    let scene = Scene::start().await;
    let terminal = Terminal::open((80, 24), &["NO_COLOR=1"]);
    terminal.runs(&format!(
        "clear; sh -c 'echo $$ >{}; exec {}'; echo code=$?",
        scene.setup.file("pid").display(),
        scene.top().replace('\'', "")
    ));
    terminal.until_it_says(&["READY appsync-bridge", "plant mqtt ready"]).await;
    let colours = terminal.shows_colours();
    assert!(
        ["[31m", "[32m", "[33m", "[38;"].iter().all(|code| !colours.contains(code)),
        "{colours:?}"
    );
    let pid = std::fs::read_to_string(scene.setup.file("pid")).unwrap().trim().parse().unwrap();
    crate::support::signal(pid, "TERM");
    terminal.until_it_says(&["code=130"]).await;
    terminal.runs("stty -a | tr ' ' '\\n' | grep -x -- echo && echo restored");
    terminal.until_it_says(&["restored"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_it_is_printed_once_or_refused() {
    let scene = Scene::start().await;
    scene.traffic().await;
    let top = |more: &[&str]| {
        let mut command = emulator::bridge();
        command.args(["top", "--admin", scene.bridge.admin()]).args(more);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, out, said) = top(&[]);
    assert!(code == 1 && out.is_empty() && said.contains("`--once`"), "{code} {out} {said}");
    let (code, out, said) = top(&["--once"]);
    println!("{out}");
    assert_eq!((code, said.as_str()), (0, ""));
    for words in ["READY  appsync-bridge", "SOURCES", "plant", "1,500", "DEAD LETTERS"] {
        assert!(out.contains(words), "{words} in {out}");
    }
    assert!(!out.contains('\u{1b}'));
    let (code, out, _) = top(&["--json"]);
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &status["sources"][0]["received"]), (0, &json!(1_500)));
    let mut elsewhere = emulator::bridge();
    elsewhere.args(["top", "--once", "--admin", "127.0.0.1:1"]);
    let output = elsewhere.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("does the bridge run"), "{said}");
}
