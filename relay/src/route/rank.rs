//! The one order of matches: which of several that fit a request wins (Gateway API, `HTTPRouteRule.matches`).
//!
//! The hostname comes before all of this and is decided by [`super::table::Table`].

use std::{cmp::Ordering, sync::Arc};

/// How a path is matched, in falling precedence.
///
/// Upstream leaves the place of regular expressions open; ours is between the two, so that an expression can pick some
/// of the paths under a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathKind {
    Exact,
    RegularExpression,
    Prefix,
}

/// Everything the order looks at. The smaller rank wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank {
    pub path_kind: PathKind,
    /// Characters of the path as it is matched.
    pub path_characters: usize,
    pub has_method: bool,
    pub headers: usize,
    pub query_params: usize,
    /// Seconds since the epoch; `i64::MAX` when unknown.
    pub created: i64,
    /// `namespace/name` of the route.
    pub route: Arc<str>,
    /// Position of the rule in the route, then of the match in the rule, from 0.
    pub position: (usize, usize),
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.path_kind
            .cmp(&other.path_kind)
            .then(other.path_characters.cmp(&self.path_characters))
            .then(other.has_method.cmp(&self.has_method))
            .then(other.headers.cmp(&self.headers))
            .then(other.query_params.cmp(&self.query_params))
            .then(self.created.cmp(&other.created))
            .then_with(|| self.route.cmp(&other.route))
            .then(self.position.cmp(&other.position))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank() -> Rank {
        Rank {
            path_kind: PathKind::Prefix,
            path_characters: 4,
            has_method: false,
            headers: 0,
            query_params: 0,
            created: 100,
            route: "default/m".into(),
            position: (1, 1),
        }
    }

    fn check(winner: &Rank, loser: &Rank) {
        assert_eq!(winner.cmp(loser), Ordering::Less);
        assert_eq!(loser.cmp(winner), Ordering::Greater);
    }

    #[test]
    fn exact_path_beats_equal_prefix() {
        check(&Rank { path_kind: PathKind::Exact, ..rank() }, &rank());
    }

    #[test]
    fn exact_path_beats_longer_prefix() {
        check(&Rank { path_kind: PathKind::Exact, ..rank() }, &Rank { path_characters: 40, ..rank() });
    }

    #[test]
    fn regular_expression_beats_prefix_and_loses_to_exact() {
        let expression = Rank { path_kind: PathKind::RegularExpression, ..rank() };
        check(&expression, &Rank { path_characters: 40, ..rank() });
        check(&Rank { path_kind: PathKind::Exact, path_characters: 1, ..rank() }, &expression);
    }

    #[test]
    fn longer_prefix_beats_shorter_prefix_with_method() {
        check(&Rank { path_characters: 5, ..rank() }, &Rank { has_method: true, ..rank() });
    }

    #[test]
    fn method_beats_more_headers() {
        check(&Rank { has_method: true, ..rank() }, &Rank { headers: 9, ..rank() });
    }

    #[test]
    fn more_headers_beat_more_query_params() {
        check(&Rank { headers: 1, ..rank() }, &Rank { query_params: 9, ..rank() });
    }

    #[test]
    fn more_query_params_beat_an_older_route() {
        check(&Rank { query_params: 1, ..rank() }, &Rank { created: 1, ..rank() });
    }

    #[test]
    fn older_route_beats_smaller_name() {
        check(&Rank { created: 99, ..rank() }, &Rank { route: "default/a".into(), ..rank() });
    }

    #[test]
    fn smaller_name_beats_earlier_rule() {
        check(&Rank { route: "default/a".into(), ..rank() }, &Rank { position: (0, 0), ..rank() });
    }

    #[test]
    fn earlier_rule_beats_earlier_match() {
        check(&Rank { position: (0, 9), ..rank() }, &rank());
    }

    #[test]
    fn earlier_match_wins_last() {
        check(&Rank { position: (1, 0), ..rank() }, &rank());
    }
}
