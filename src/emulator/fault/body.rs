//! The body of the answer to a publish, correct or with an error.

use serde_json::{Value, json};

use super::spec::Wrong;
use crate::event_api::MAX_EVENTS;
use crate::event_api::wire::{AcceptedEvent, FailedEvent, PublishAnswer};

/// The body for `answer`, with the error `wrong`. Codes of digits are sent as numbers, as one client of
/// AWS declares them.
pub(crate) fn answer_body(answer: PublishAnswer, wrong: Option<Wrong>) -> Vec<u8> {
    match wrong {
        None => text(&answer),
        Some(Wrong::Empty) => Vec::new(),
        Some(Wrong::Truncated) => {
            let mut text = text(&answer);
            text.truncate(text.len() / 2);
            text
        }
        Some(wrong) => text(&corrupted(answer, wrong)),
    }
}

fn text(answer: &PublishAnswer) -> Vec<u8> {
    let is_number = |event: &FailedEvent| event.code.parse::<u32>().is_ok();
    // Plain structs: serialization cannot fail.
    if !answer.failed.iter().any(is_number) {
        return serde_json::to_vec(answer).unwrap_or_default();
    }
    let mut body = json!(answer);
    for event in body["failed"].as_array_mut().into_iter().flatten() {
        if let Some(number) = event["code"].as_str().and_then(|code| code.parse::<u32>().ok()) {
            event["code"] = Value::from(number);
        }
    }
    body.to_string().into_bytes()
}

/// The lists with the error `wrong`, on an accepted event, or on a failed one if none was accepted.
fn corrupted(mut answer: PublishAnswer, wrong: Wrong) -> PublishAnswer {
    let accepted = answer.successful.first().cloned();
    let failed = answer.failed.first().cloned();
    match (wrong, accepted, failed) {
        (Wrong::Missing, Some(_), _) => drop(answer.successful.pop()),
        (Wrong::Missing, None, _) => drop(answer.failed.pop()),
        (Wrong::Doubled, Some(event), _) => answer.successful.push(event),
        (Wrong::Doubled, None, Some(event)) => answer.failed.push(event),
        (Wrong::InBothLists, Some(AcceptedEvent { identifier, index }), _) => {
            answer.failed.push(FailedEvent { identifier, index, ..FailedEvent::default() });
        }
        (Wrong::InBothLists, None, Some(FailedEvent { identifier, index, .. })) => {
            answer.successful.push(AcceptedEvent { identifier, index });
        }
        (Wrong::OutOfRange, _, _) => {
            let accepted = answer.successful.last_mut().map(|event| &mut event.index);
            let last = accepted.or(answer.failed.last_mut().map(|event| &mut event.index));
            if let Some(index) = last {
                *index = MAX_EVENTS;
            }
        }
        (Wrong::Doubled | Wrong::InBothLists | Wrong::Truncated | Wrong::Empty, ..) => {}
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(accepted: &[usize], failed: &[(usize, &str)]) -> PublishAnswer {
        let identifier = String::new;
        PublishAnswer {
            successful: accepted
                .iter()
                .map(|&index| AcceptedEvent { identifier: identifier(), index })
                .collect(),
            failed: failed
                .iter()
                .map(|&(index, code)| FailedEvent {
                    index,
                    code: code.to_owned(),
                    ..FailedEvent::default()
                })
                .collect(),
        }
    }

    #[test]
    fn each_kind_is_wrong_in_its_own_way() {
        let indexes = |wrong, answer: PublishAnswer| {
            let body: Value = serde_json::from_slice(&answer_body(answer, Some(wrong))).unwrap();
            let list = |name: &str| -> Vec<u64> {
                body[name]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|e| e["index"].as_u64().unwrap())
                    .collect()
            };
            (list("successful"), list("failed"))
        };
        for (wrong, of_accepted, of_failed) in [
            (Wrong::Missing, (vec![0], vec![]), (vec![], vec![])),
            (Wrong::Doubled, (vec![0, 1, 0], vec![]), (vec![], vec![0, 0])),
            (Wrong::InBothLists, (vec![0, 1], vec![0]), (vec![0], vec![0])),
            (Wrong::OutOfRange, (vec![0, 5], vec![]), (vec![], vec![5])),
        ] {
            assert_eq!(indexes(wrong, answer(&[0, 1], &[])), of_accepted, "{wrong:?}");
            assert_eq!(indexes(wrong, answer(&[], &[(0, "x")])), of_failed, "{wrong:?}");
        }
        assert_eq!(answer_body(answer(&[0], &[]), Some(Wrong::Empty)), b"");
        let truncated = answer_body(answer(&[0], &[]), Some(Wrong::Truncated));
        assert!(!truncated.is_empty() && serde_json::from_slice::<Value>(&truncated).is_err());
    }

    #[test]
    fn a_code_of_digits_is_a_number() {
        let body = answer_body(answer(&[], &[(0, "429"), (1, "Bad")]), None);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&body["failed"][0]["code"], &body["failed"][1]["code"]),
            (&json!(429), &json!("Bad"))
        );
    }

    #[test]
    fn a_failed_event_has_its_members_in_the_order_of_the_service() {
        for (code, shown) in [("Bad", r#""Bad""#), ("429", "429")] {
            let body = answer_body(answer(&[], &[(0, code)]), None);
            let expected = format!(
                r#"{{"failed":[{{"code":{shown},"identifier":"","index":0,"message":""}}],"successful":[]}}"#
            );
            assert_eq!(String::from_utf8(body).unwrap(), expected);
        }
    }
}
