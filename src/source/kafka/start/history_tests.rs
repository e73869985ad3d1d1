use super::*;
use proptest::prelude::*;

const PATTERN: &str = "^new\\..*";

fn there(topics: &[(&str, i32)]) -> BTreeMap<String, i32> {
    topics.iter().map(|(topic, count)| ((*topic).to_owned(), *count)).collect()
}

/// A process of the group that starts at `now`, with this in its `topics`, and finds these.
fn process(entries: &[&str], topics: &[(&str, i32)], now: i64) -> History {
    let mut history = History::new(entries.iter().copied());
    assert!(!history.is_loaded());
    history.refresh(there(topics), now);
    history
}

/// Another one later, that finds what this one has committed of a topic.
fn after(
    history: &History,
    of: &str,
    entries: &[&str],
    topics: &[(&str, i32)],
    now: i64,
) -> History {
    let mut next = process(entries, topics, now);
    next.learn(of, &history.note(of).unwrap());
    next
}

#[test]
fn a_group_is_born_at_the_end_of_what_is_there() {
    let mut history = process(&["a", PATTERN], &[("a", 2), ("new.old", 1)], 100);
    assert_eq!(history.begin("a", 0, &["a"]), Begin::End);
    assert_eq!(history.begin("new.old", 0, &[PATTERN]), Begin::End);
    history.take("a", 1, Some(Begin::End), 110);
    // Another member that comes at the same time, and has the other one.
    let other = after(&history, "a", &["a", PATTERN], &[("a", 2), ("new.old", 1)], 111);
    assert_eq!(other.begin("a", 1, &["a"]), Begin::Since(110));
}

#[test]
fn a_partition_that_is_added_begins_at_its_beginning_whoever_has_it_then() {
    let mut history = process(&["a"], &[("a", 2)], 100);
    history.take("a", 1, Some(Begin::End), 110);
    assert_eq!(history.begin("a", 2, &["a"]), Begin::Beginning);
    let later = after(&history, "a", &["a"], &[("a", 5)], 900);
    assert_eq!(later.begin("a", 4, &["a"]), Begin::Beginning);
}

#[test]
fn a_topic_that_is_born_later_begins_with_the_group() {
    let mut history = process(&[PATTERN, "a", "missing"], &[("a", 1)], 100);
    history.take("a", 1, Some(Begin::End), 110);
    assert_eq!(history.begin("new.x", 0, &[PATTERN]), Begin::Since(100));
    assert_eq!(history.begin("missing", 3, &["missing"]), Begin::Since(100));
    let found = [("a", 1), ("new.x", 1), ("missing", 4)];
    let mut later = after(&history, "a", &[PATTERN, "a", "missing"], &found, 900);
    assert_eq!(later.begin("new.x", 0, &[PATTERN]), Begin::Since(100));
    assert_eq!(later.begin("missing", 3, &["missing"]), Begin::Since(100));
    // Every member has the same bound for what else there is of it.
    later.take("missing", 1, Some(Begin::Since(100)), 910);
    assert_eq!(later.begin("missing", 3, &["missing"]), Begin::Since(100));
    // It was removed and made anew while nobody looked: nothing is committed of it.
    let again = after(&history, "a", &[PATTERN, "a", "missing"], &found, 990);
    assert_eq!(again.begin("a", 0, &["a"]), Begin::Since(110));
}

#[test]
fn a_topic_that_is_named_later_begins_at_its_end_however_young_it_is() {
    let mut history = process(&["a"], &[("a", 1)], 100);
    history.take("a", 1, Some(Begin::End), 110);
    let entries = ["a", "b", "^c"];
    let later = after(&history, "a", &entries, &[("a", 1), ("b", 1), ("c", 1)], 900);
    assert_eq!(later.begin("b", 0, &["b"]), Begin::End);
    assert_eq!(later.begin("c", 0, &["^c"]), Begin::End);
    assert_eq!(later.begin("c2", 0, &["^c"]), Begin::Since(900));
}

#[test]
fn a_group_without_notes_is_as_old_as_its_first_one() {
    let mut history = process(&["a", PATTERN], &[("a", 2), ("new.x", 1)], 100);
    history.learn("a", "somebody else's");
    history.learn("a", "");
    history.take("a", 1, None, 110);
    assert_eq!(history.begin("new.x", 0, &[PATTERN]), Begin::End);
    assert_eq!(history.begin("a", 2, &["a"]), Begin::Beginning);
}

#[test]
fn a_note_is_read_as_it_was_written_and_keeps_within_its_length() {
    let mut history = process(&[PATTERN, "a", "b"], &[("a", 2)], 1_700_000_000_000);
    history.take("a", 2, Some(Begin::End), 1_700_000_000_001);
    let text = history.note("a").unwrap();
    assert_eq!(text, "appsync-bridge/1 1700000000001/2 1700000000000:aba699c9,ca978112,3e23e816");
    assert_eq!(Note::read(&text).unwrap().write(), text);
    assert_eq!(history.note("b"), None);
    let names: Vec<String> = (0..500).map(|n| format!("topic-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut many = process(&names, &[], 1_700_000_000_000);
    many.take("t", 1, None, 5);
    let text = many.note("t").unwrap();
    assert!((LONGEST - 10..=LONGEST).contains(&text.len()), "{text}");
    assert!(Note::read(&text).unwrap().entries.iter().all(|(_, since)| *since > 5));
    assert!(many.disable_notes() && !many.disable_notes());
    assert_eq!(many.note("t"), None);
}

#[test]
fn positions_are_of_the_log() {
    let log = |earliest, latest, since| Log { earliest, latest, since };
    for (begin, log, position) in [
        (Begin::Beginning, log(3, 9, None), (3, 0)),
        (Begin::End, log(3, 9, None), (9, 6)),
        (Begin::Since(1), log(3, 9, Some(7)), (7, 4)),
        (Begin::Since(1), log(3, 9, Some(3)), (3, 0)),
        (Begin::Since(1), log(3, 9, None), (9, 6)),
        // What is told of it was told one after another.
        (Begin::Since(1), log(3, 9, Some(12)), (9, 6)),
        (Begin::End, log(9, 8, None), (9, 0)),
        (Begin::Beginning, log(0, 0, None), (0, 0)),
    ] {
        assert_eq!(begin.position(log), position, "{begin:?} {log:?}");
    }
}

proptest! {
    /// Whatever stands behind a position, nothing breaks, and what is read is within it.
    #[test]
    fn any_note_can_be_read(text in "(appsync-bridge/1)?[ 0-9a-f/:,x-]{0,200}") {
        let _ = Note::read(&text);
    }
}
