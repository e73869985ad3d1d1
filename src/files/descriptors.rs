//! The limit of the process's file descriptors, and the share of a port.
//!
//! Incoming connections must leave enough for those that carry messages, which are opened on demand: so each
//! listening port gets a small share at most.

use rustix::process::{Resource, getrlimit, setrlimit};

/// The limit where the system sets none: more than the bridge ever needs.
const PLENTY: u64 = 1 << 20;

/// With fewer not even the parts of the smallest bridge can be opened, and which one fails is chance.
pub const LEAST: u64 = 32;

/// Raises the limit as far as this user may, and tells it: the lower default is for programs with `select`, which is
/// not used here.
pub fn raise() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If the system refuses, the limit stays.
    let _ = setrlimit(Resource::Nofile, limit);
    limit_now()
}

fn limit_now() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(PLENTY)
}

/// A share, one part in so many of the limit: at least one descriptor, at most the given maximum.
#[must_use]
pub fn share(parts: u64, most: usize) -> usize {
    part(limit_now(), parts, most)
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
