//! Whether a source does its work, and if not, why: what `/readyz` says. Pure.

use std::collections::BTreeSet;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// It is a member of its group, and knows what is assigned to it.
    pub(super) member: bool,
    /// What went wrong last.
    pub(super) trouble: Option<String>,
    /// Topics that are subscribed to and not there, with the reason.
    pub(super) missing: BTreeSet<(String, String)>,
    /// The lag grows, and nothing is delivered.
    pub(super) stuck: bool,
    pub(super) draining: bool,
}

impl Standing {
    /// Why it is not ready; `None` if it is.
    pub(super) fn reason(&self) -> Option<String> {
        if self.draining {
            return Some("draining".to_owned());
        }
        if !self.member {
            let waiting = || "waiting for the group to assign partitions".to_owned();
            return Some(self.trouble.clone().unwrap_or_else(waiting));
        }
        if let Some((topic, why)) = self.missing.first() {
            return Some(format!("the topic `{topic}` can't be read: {why}"));
        }
        self.stuck.then(|| "the lag grows and nothing is delivered".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_is_the_one_to_mend_first() {
        let mut standing = Standing::default();
        assert!(standing.reason().unwrap().contains("assign"));
        standing.trouble = Some("no broker answers".into());
        assert_eq!(standing.reason().unwrap(), "no broker answers");
        standing.member = true;
        assert_eq!(standing.reason(), None, "one broker of many may be down");
        standing.stuck = true;
        standing.missing.insert(("orders".into(), "unknown".into()));
        assert!(standing.reason().unwrap().contains("`orders`"));
        standing.missing.clear();
        assert!(standing.reason().unwrap().contains("lag"));
    }
}
