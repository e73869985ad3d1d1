//! Two settings that are good alone and do not fit one another.

use super::problem::{Kind, Problem};
use super::table::Setting;

/// What both say: "`a` is 30s, but `b` is 20s (the default)".
pub(crate) fn contrast<T: Copy>(
    settings: [(&str, &Setting<T>); 2],
    show: impl Fn(T) -> String,
) -> String {
    let said = settings.map(|(key, setting)| {
        let default = if setting.span.is_none() { " (the default)" } else { "" };
        format!("`{key}` is {}{default}", show(setting.value))
    });
    said.join(", but ")
}

/// Points at `setting`, and with `label` at the `other` one; if only one of the two was written, at that.
pub(crate) fn impossible<T>(
    message: String,
    setting: &Setting<T>,
    other: &Setting<T>,
    label: &str,
) -> Problem {
    let place = setting.span.clone().or(other.span.clone());
    let problem = Problem::new(Kind::Impossible, place, message);
    match (&setting.span, &other.span) {
        (Some(_), Some(other)) => problem.also(other.clone(), label),
        _ => problem,
    }
}
