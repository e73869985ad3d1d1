//! The file: what is written is there, for its owner alone, whatever happens to the file meanwhile.

use super::*;
use crate::dead_letter::tests;
use crate::message::tests::message;
use crate::message::{Coordinates, Message, Topic};
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

fn record(payload: impl Into<Bytes>) -> Record {
    let message = Message {
        source: "plant".into(),
        topic: Topic::new("a/b", '/'),
        headers: vec![("h".into(), Bytes::from_static(b"v"))],
        order: Some(b"a/b"[..].into()),
        expires: None,
        coordinates: Coordinates::Named(vec![("qos".into(), "1".into())]),
        ..message(payload)
    };
    Record {
        route: Some("telemetry".into()),
        reason: "invalid_json",
        detail: "not JSON".into(),
        at: UNIX_EPOCH + Duration::from_millis(1_795_343_476_123),
        ..tests::record(message)
    }
}

fn open(path: &Path, rotation: Rotation) -> FileTarget {
    FileTarget::open(path, rotation, Counter::default()).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap_or(Value::Null)).collect()
}

#[tokio::test]
async fn a_record_holds_all_that_came() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/rejects.jsonl");
    let mut target = open(&path, Rotation::default());
    target.write(&[record(&b"{"[..]), record(&b"\xff"[..])]).await.unwrap();
    target.write(&[record(&b"3"[..])]).await.unwrap();
    let lines = lines(&path);
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[0],
        json!({
            "at": "2026-11-22T10:31:16.123Z", "reason": "invalid_json", "detail": "not JSON",
            "source": "plant", "route": "telemetry", "channel": null, "topic": "a/b",
            "headers": [{ "name": "h", "value": "v" }], "coordinates": { "qos": "1" }, "payload": "{"
        })
    );
    assert_eq!(lines[1]["payload_base64"], json!("/w=="));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_line_that_a_crash_cut_off_spoils_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rejects.jsonl");
    fs::write(&path, "{\"at\":\"20").unwrap();
    open(&path, Rotation::default()).write(&[record(&b"1"[..])]).await.unwrap();
    let lines = lines(&path);
    assert_eq!((lines.len(), lines[1]["payload"].clone()), (2, json!("1")));
}

#[test]
fn a_second_writer_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rejects.jsonl");
    let open = || FileTarget::open(&path, Rotation::default(), Counter::default());
    let first = open().unwrap();
    assert!(
        open().unwrap_err().to_string().contains("another process or dead letter writes to it")
    );
    drop(first);
    assert!(open().is_ok());
}

#[tokio::test]
async fn a_full_disk_fails_the_write() {
    // The kernel's own always-full device.
    let rotation = Rotation { max_size: Some(1), max_files: Some(2) };
    let mut target = open(Path::new("/dev/full"), rotation);
    let error = target.write(&[record(&b"1"[..])]).await.unwrap_err();
    assert!(error.to_string().contains("No space left") && error.kept == 0, "{error}");
}

#[test]
fn a_place_that_can_not_be_written_says_so() {
    let error = FileTarget::open(
        Path::new("/proc/none/rejects.jsonl"),
        Rotation::default(),
        Counter::default(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("/proc/none/rejects.jsonl"), "{error}");
}

#[tokio::test]
async fn a_file_that_was_moved_away_gets_nothing_more() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) = (directory.path().join("r"), directory.path().join("todo"));
    let mut target = open(&path, Rotation::default());
    target.write(&[record("1")]).await.unwrap();
    fs::rename(&path, &moved).unwrap();
    target.write(&[record("2")]).await.unwrap();
    fs::remove_file(&path).unwrap();
    target.write(&[record("3")]).await.unwrap();
    assert_eq!((lines(&moved).len(), lines(&path)[0]["payload"].clone()), (1, json!("3")));
}

#[tokio::test]
async fn what_is_put_in_its_place_gets_nothing_and_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let (path, else_where) = (directory.path().join("r"), directory.path().join("theirs"));
    fs::write(&else_where, "").unwrap();
    let mut target = open(&path, Rotation::default());
    target.write(&[record("1")]).await.unwrap();
    let away = directory.path().join("r.away");
    let links: [(&dyn Fn(), &str); 5] = [
        (&|| symlink(&else_where, &path).unwrap(), "it is a symbolic link"),
        // To the very file that is written.
        (&|| symlink(&away, &path).unwrap(), "it is a symbolic link"),
        (&|| fs::create_dir(&path).unwrap(), "it is a directory"),
        (&|| fs::hard_link(&else_where, &path).unwrap(), "it has 1 more name"),
        (&|| fs::hard_link(&away, &path).unwrap(), "it has 1 more name"),
    ];
    for (put, why) in links {
        fs::rename(&path, &away).unwrap();
        put();
        let error = target.write(&[record("2")]).await.unwrap_err();
        assert!(error.why.contains(why) && error.kept == 0, "{error}");
        if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) }.unwrap();
        fs::rename(&away, &path).unwrap();
    }
    target.write(&[record("3")]).await.unwrap();
    let payloads: Vec<_> = lines(&path).iter().map(|l| l["payload"].clone()).collect();
    assert_eq!((payloads, fs::read(&else_where).unwrap()), (vec![json!("1"), json!("3")], vec![]));
}

#[tokio::test]
async fn a_file_that_was_opened_to_others_or_cut_short_is_taken_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r");
    fs::write(directory.path().join("r.1"), "").unwrap();
    let mut target = open(&path, Rotation::default());
    for file in ["r", "r.1"] {
        let facts = fs::metadata(directory.path().join(file)).unwrap();
        assert_eq!(facts.permissions().mode() & 0o777, 0o600, "{file}");
    }
    target.write(&[record("1")]).await.unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    target.write(&[record("2")]).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // As `logrotate` does with `copytruncate`.
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    target.write(&[record("3")]).await.unwrap();
    let good = target.file.as_ref().unwrap().good;
    assert_eq!((lines(&path).len(), fs::metadata(&path).unwrap().len()), (1, good));
}

#[tokio::test]
async fn what_was_kept_before_a_failure_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r");
    let one = line(&record("1")).to_string().len() as u64 + 1;
    let mut target = open(&path, Rotation { max_size: Some(one * 2), max_files: Some(2) });
    // A directory in the place of the oldest can't be removed.
    fs::create_dir(directory.path().join("r.1")).unwrap();
    let records = ["1", "2", "3"].map(record);
    let error = target.write(&records).await.unwrap_err();
    assert_eq!(error.kept, 2, "{error}");
    fs::remove_dir(directory.path().join("r.1")).unwrap();
    target.write(&records[error.kept..]).await.unwrap();
    let payloads = |file: &str| -> Vec<Value> {
        lines(&directory.path().join(file)).iter().map(|l| l["payload"].clone()).collect()
    };
    assert_eq!((payloads("r.1"), payloads("r")), (vec![json!("1"), json!("2")], vec![json!("3")]));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Every line of the file and of those set aside, the oldest first, and the size of each file.
fn everything(path: &Path) -> (Vec<Value>, Vec<(u64, usize)>) {
    let (mut all, mut sizes) = (Vec::new(), Vec::new());
    let name = |n: usize| PathBuf::from(format!("{}.{n}", path.display()));
    let aside = (1..1_000).take_while(|n| name(*n).exists()).count();
    for file in (1..=aside).rev().map(name).chain([path.to_owned()]) {
        let found = lines(&file);
        sizes.push((fs::metadata(&file).unwrap().len(), found.len()));
        all.extend(found);
    }
    (all, sizes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    // Random sizes, batches and limits, with a stop and a start here and there.
    #[test]
    fn no_confirmed_line_is_lost_or_broken(
        batches in proptest::collection::vec(
            (proptest::collection::vec(0..2_000_usize, 1..6), any::<bool>()), 1..8),
        max_size in 300..3_000_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r");
        let rotation = Rotation { max_size: Some(max_size), max_files: None };
        let mut target = Some(open(&path, rotation));
        let mut written = Vec::new();
        for (sizes, again) in batches {
            let payload = |size: usize| format!("{}:{}", written.len(), "x".repeat(size));
            let payloads: Vec<String> = sizes.into_iter().map(payload).collect();
            let records: Vec<Record> = payloads.iter().cloned().map(record).collect();
            runtime.block_on(target.as_mut().unwrap().write(&records)).unwrap();
            written.extend(payloads.into_iter().map(Value::String));
            if again {
                drop(target.take());
                target = Some(open(&path, rotation));
            }
        }
        let (found, sizes) = everything(&path);
        let found: Vec<Value> = found.iter().map(|l| l["payload"].clone()).collect();
        prop_assert_eq!(found, written);
        prop_assert!(sizes.iter().all(|(size, lines)| *size <= max_size || *lines == 1));
    }
}
