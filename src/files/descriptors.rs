//! The process's file descriptors: how many there may be, and what part of them a port may take.
//!
//! Connections that others open must leave enough for those that carry messages, which open theirs when
//! they need them: so each port that is listened on takes a small part at most.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Where the system sets no limit, and as much as anybody here needs.
const PLENTY: u64 = 1 << 20;

/// Raises the limit as far as this user may: the lower one that a process begins with is for programs
/// that can't count far (`select`), and there is none in here.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What the system does not allow stays as it was.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// One part in so many of what there may be, at least one and at most so many.
#[must_use]
pub fn share(parts: u64, most: usize) -> usize {
    part(getrlimit(Resource::Nofile).current.unwrap_or(PLENTY), parts, most)
}

fn part(limit: u64, parts: u64, most: usize) -> usize {
    usize::try_from(limit.min(PLENTY) / parts).unwrap_or(most).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_small_where_there_are_few() {
        let shares = [32, 64, 1_024, 1 << 19, u64::MAX].map(|limit| part(limit, 8, 256));
        assert_eq!(shares, [4, 8, 128, 256, 256]);
        assert_eq!(part(4, 8, 256), 1);
    }
}
