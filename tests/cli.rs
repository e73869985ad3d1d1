//! The command line: what it says, and what it ends with.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use crate::support::emulator::bridge;
use crate::support::unprivileged::Unprivileged;

fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        bridge().args(args).env("NO_COLOR", "1").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn seven_mistakes_of_seven_kinds_are_seven_problems() {
    let file = "tests/fixtures/config/invalid/seven-mistakes.toml";
    for (command, error, end) in [
        ("check", "error: ", "7 problems"),
        // A report for people, and lines of a log.
        ("run", "\"line\":", "\"target\":\"appsync_bridge::cli::check\"}"),
    ] {
        let (code, stdout, stderr) = run(&[command, "-c", file]);
        assert_eq!((code, stdout.as_str()), (78, ""), "{stderr}");
        assert_eq!(stderr.matches(error).count(), 7, "{stderr}");
        assert!(stderr.trim_end().ends_with(end), "{stderr}");
        for said in [
            "unknown key `endpont`",               // unknown key
            "a `[` is never closed",               // syntax
            "takes a whole number",                // wrong type
            "has no `path`",                       // missing key
            "is called `plnt`",                    // dangling reference
            "placeholder is never closed",         // bad template
            "`timeout` is 1m, but `grace` is 25s", // impossible timing
        ] {
            assert_eq!(stderr.matches(said).count(), 1, "{said} in {stderr}");
        }
    }
}

/// `check` and `run` of this configuration: their codes, and what `check` said.
fn verdict(text: &str, variables: &[(&str, &str)]) -> (i32, i32, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bridge.toml");
    fs::write(&path, text).unwrap();
    let [check, run] = ["check", "run"].map(|command| {
        let mut command = {
            let mut with = bridge();
            with.arg(command).arg("-c").arg(&path).env("NO_COLOR", "1");
            with
        };
        for name in ["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "STATE_DIRECTORY"] {
            command.env_remove(name);
        }
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_CONFIG_FILE", "/dev/null");
        command.envs(variables.iter().copied()).output().unwrap()
    });
    let said = [check.stdout, check.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    let left = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 1, "nothing is made: {said}");
    (check.status.code().unwrap(), run.status.code().unwrap(), said)
}

/// A configuration that is good, but for the lines that are given.
fn but(api: &str, source: &str, path: &str, admin: &str) -> String {
    format!(
        "[api.main]\nendpoint = \"https://events.example/event\"\n{api}\n[source.it]\n{source}\n\
         [route.all]\nfrom = \"it\"\nchannel = \"/all/x\"\n[admin]\nlisten = \"{admin}\"\n\
         [dead_letter.rejects]\ntype = \"file\"\npath = \"{path}\"\n"
    )
}

#[test]
fn what_run_would_refuse_check_refuses_with_the_same_code() {
    const TOKEN: &str = "auth = { type = \"token\", token = { env = \"TOKEN\" } }";
    const IAM: &str = "auth = { type = \"iam\" }";
    const MQTT: &str =
        "type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\nclient_id = \"b\"\nsubscriptions = \"#\"";
    const KAFKA: &str = "type = \"kafka\"\nbrokers = \"127.0.0.1:1\"\ngroup = \"g\"\ntopics = \"t\"\n\
                         options = { \"fetch.min.bytes\" = \"many\" }";
    const HERE: &str = "127.0.0.1:0";
    for (text, code, says) in [
        (but(IAM, MQTT, "/dev/full", HERE), 78, "no AWS region is known"),
        (but(TOKEN, KAFKA, "/dev/full", HERE), 78, "fetch.min.bytes"),
        (but(TOKEN, MQTT, "/proc/none/r.jsonl", HERE), 78, "make its directory writable"),
        (but(TOKEN, MQTT, "/dev/null/r.jsonl", HERE), 78, "a part of its path is no directory"),
        // An address of documentation is of no machine.
        (but(TOKEN, MQTT, "/dev/full", "192.0.2.1:9464"), 1, "can't be taken"),
    ] {
        let (check, run, said) = verdict(&text, &[("TOKEN", "t")]);
        assert_eq!((check, run), (code, code), "{said}");
        assert!(said.contains(says) && !said.contains("is good"), "{said}");
    }
}

#[test]
fn check_says_where_the_service_may_meet_something_else_and_makes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let config = tempfile::NamedTempFile::new().unwrap();
    let text = fs::read_to_string("config/mqtt.toml").unwrap();
    fs::write(config.path(), text).unwrap();
    let check = |variables: &[(&str, &str)]| {
        let mut command = bridge();
        command.args(["check", "-c"]).arg(config.path()).env_remove("STATE_DIRECTORY");
        command.env_remove("XDG_STATE_HOME").env_remove("INVOCATION_ID").env("HOME", home.path());
        command.env("APPSYNC_API_KEY", "da2-x").env("MQTT_PASSWORD", "x");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = check(&[]);
    let place = home.path().join(".local/state/appsync-bridge/dead-letters.jsonl");
    assert!(said.contains("`$STATE_DIRECTORY` is not set"), "{said}");
    assert!(said.contains(place.to_str().unwrap()), "{said}");
    assert!(!check(&[("STATE_DIRECTORY", home.path().to_str().unwrap())]).contains("is not set"));
    assert_eq!(check(&[("INVOCATION_ID", "0")]), "", "the unit's own process");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "nothing is made");
}

#[test]
fn a_good_configuration_is_called_good() {
    let directory = tempfile::tempdir().unwrap();
    for file in ["config/bridge.toml", "config/mqtt.toml"] {
        let path = directory.path().join("bridge.toml");
        let state = directory.path().to_str().unwrap();
        let text = fs::read_to_string(file).unwrap().replace("/var/lib/appsync-bridge", state);
        fs::write(&path, text).unwrap();
        let command = bridge()
            .args(["check", "-c"])
            .arg(&path)
            .env("STATE_DIRECTORY", state)
            .env("APPSYNC_API_KEY", "da2-x")
            .env("MQTT_PASSWORD", "x")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&command.stderr);
        assert_eq!(command.status.code(), Some(0), "{stderr}");
        assert!(String::from_utf8_lossy(&command.stdout).contains("is good"), "{stderr}");
    }
}

#[test]
fn files_that_can_not_be_read_and_places_that_can_not_be_written() {
    let (code, _, stderr) = run(&["run", "-c", "/nonexistent/bridge.toml"]);
    assert_eq!(code, 78);
    assert!(stderr.contains("there is no such file") && stderr.contains("--config"), "{stderr}");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bridge.toml");
    let text = fs::read_to_string("config/mqtt.toml").unwrap();
    let text = format!(
        "{text}\n[dead_letter.rejects]\ntype = \"file\"\npath = \"/proc/none/rejects.jsonl\"\n[admin]\nlisten = \"127.0.0.1:0\"\n"
    );
    fs::write(&path, text).unwrap();
    let command = bridge()
        .args(["run", "-c"])
        .arg(&path)
        .env("APPSYNC_API_KEY", "da2-x")
        .env("MQTT_PASSWORD", "x")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&command.stderr);
    assert_eq!(command.status.code(), Some(78), "{stderr}");
    assert!(
        stderr.contains("/proc/none/rejects.jsonl")
            && stderr.contains("make its directory writable"),
        "{stderr}"
    );
}

#[test]
fn usage_is_two_and_help_has_examples() {
    assert_eq!(run(&["rum"]).0, 2);
    for command in ["run", "check", "demo", "emulate", "replay", "publish", "subscribe"] {
        let (code, stdout, _) = run(&[command, "--help"]);
        assert_eq!(code, 0);
        assert!(stdout.contains("Examples:"), "{stdout}");
    }
    let version = concat!("appsync-bridge ", env!("CARGO_PKG_VERSION"));
    let (code, stdout, _) = run(&["-V"]);
    assert_eq!((code, stdout.trim()), (0, version));
    let (code, stdout, _) = run(&["--version"]);
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!((code, lines[0], lines.len()), (0, version, 3), "{stdout}");
    assert!(lines[1].starts_with("commit ") && lines[2].starts_with("features "), "{stdout}");
}

#[test]
fn a_configuration_is_a_regular_file_or_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    // Who opens it to read would wait for a writer that never comes.
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let large = directory.path().join("large.toml");
    fs::File::create(&large).unwrap().set_len((4 << 20) + 1).unwrap();
    for (path, said) in [
        (fifo.to_str().unwrap(), "this is a FIFO"),
        ("/dev/zero", "this is a device"),
        (large.to_str().unwrap(), "larger than 4 MiB"),
    ] {
        for command in ["check", "run"] {
            let (code, _, stderr) = run(&[command, "-c", path]);
            assert!(code == 78 && stderr.contains(said), "{command} {path}: {code} {stderr}");
        }
    }
    let from = |stdin: fs::File| {
        let command = bridge().args(["check", "-c", "-"]).stdin(stdin).output().unwrap();
        (command.status.code().unwrap(), String::from_utf8(command.stderr).unwrap())
    };
    let (code, stderr) = from(fs::File::open("config/kafka.toml").unwrap());
    assert!(code == 78 && stderr.contains("--> standard input:"), "{stderr}");
    let (code, stderr) = from(fs::File::open("/dev/zero").unwrap());
    assert!(code == 78 && stderr.contains("larger than 4 MiB"), "{stderr}");
}

/// A file that this user may not read is one kind of trouble, whatever names it: a key of a configuration, a flag.
#[test]
fn a_file_that_may_not_be_read_ends_with_77() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (closed, open, toml) = (path("closed"), path("open"), path("bridge.toml"));
    fs::write(&closed, "secret").unwrap();
    fs::write(&open, "da2-key").unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    let program = Unprivileged::new(65_534);
    let ended = |args: &[&str]| {
        // Root may read everything.
        let mut command = program.bridge();
        command.args(args).env("NO_COLOR", "1").env("HOME", directory.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        (output.status.code(), said)
    };
    let url = "http://127.0.0.1:1/event";
    let oauth = ["--oauth2", "https://issuer.example/token", "--client-id", "bridge"];
    let to = ["publish", "/demo/a", "1", "--endpoint", url];
    let of = ["subscribe", "/demo/a", "--endpoint", url];
    let key = ["--api-key-file", &open];
    for args in [
        [&to[..], &["--api-key-file", &closed]].concat(),
        [&to[..], &["--token-file", &closed]].concat(),
        [&to[..], &oauth, &["--client-secret-file", &closed]].concat(),
        [&to[..], &key, &["--ca-file", &closed]].concat(),
        [&of[..], &["--api-key-file", &closed]].concat(),
        [&of[..], &key, &["--ca-file", &closed]].concat(),
        vec!["health", "--token-file", &closed],
        vec!["health", "--ca-file", &closed],
        vec!["top", "--once", "--token-file", &closed],
        vec!["check", "-c", &closed],
        vec!["emulate", "--listen", "127.0.0.1:0", "--faults", &closed],
        vec!["emulate", "--listen", "127.0.0.1:0", "--tls-cert", &closed, "--tls-key", &closed],
        vec!["emulate", "--listen", "127.0.0.1:0", "--ledger", &closed],
    ] {
        let (code, said) = ended(&args);
        assert_eq!(code, Some(77), "{args:?}: {said}");
        assert!(said.contains(&closed), "{args:?}: {said}");
    }
    // The same flags and another fault.
    let (code, said) = ended(&[&to[..], &["--api-key-file", "/nowhere"]].concat());
    assert_eq!(code, Some(2), "{said}");

    let config = |api: &str, source: &str| {
        format!(
            "[api.main]\nendpoint = \"{url}\"\n{api}\n[source.plant]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\n\
             client_id = \"b\"\nsubscriptions = \"#\"\n{source}\n[route.all]\nfrom = \"plant\"\nchannel = \"/all/x\"\n"
        )
    };
    let key = format!("auth = {{ type = \"api-key\", key = {{ file = \"{open}\" }} }}");
    let no_key = key.replace(&open, &closed);
    let with = |line: &str| line.replace("FILE", &closed);
    for (api, source, code) in [
        (no_key.clone(), String::new(), 77),
        (format!("{key}\n{}", with("ca_file = \"FILE\"")), String::new(), 77),
        (key.clone(), with("username = \"u\"\npassword = { file = \"FILE\" }"), 77),
        (key.clone(), with("tls = { ca_file = \"FILE\" }"), 77),
        // What is wrong besides is the configuration's.
        (no_key, "banana = 1".to_owned(), 78),
    ] {
        fs::write(&toml, config(&api, &source)).unwrap();
        for command in ["check", "run"] {
            let (ended, said) = ended(&[command, "-c", &toml]);
            assert_eq!(ended, Some(code), "{command} {api} {source}: {said}");
        }
    }
}

#[test]
fn a_path_without_its_option_is_answered_with_the_option() {
    for command in ["check", "run"] {
        let (code, _, stderr) = run(&[command, "bridge.toml"]);
        assert_eq!(code, 2);
        assert!(stderr.contains("a configuration is named with `-c bridge.toml`"), "{stderr}");
        let (_, _, other) = run(&[command, "--confg"]);
        assert!(other.contains("--config") && !other.contains("is named with"), "{other}");
    }
}
