//! An error with its causes, as one line of a log or of `/readyz`.

use std::error::Error;

/// The error and what is behind it, each once: many an error says the words of the next one, too.
pub fn in_one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Layer {
        words: &'static str,
        #[source]
        cause: Option<Box<Layer>>,
    }

    #[test]
    fn each_cause_is_said_once_and_in_one_line() {
        let layers = ["bottom", "middle: bottom", "middle: bottom", "top\n  of it"];
        let error = layers.into_iter().fold(None, |cause, words| {
            let cause = cause.map(Box::new);
            Some(Layer { words, cause })
        });
        assert_eq!(in_one_line(&error.unwrap()), "top of it: middle: bottom");
    }
}
