//! When to allow the peer more streams, so that opening one never waits for the limit.
//!
//! Pure; the accepting loop tells it of flows and hands what it says to `Connection::set_max_concurrent_bi_streams`.

/// The most streams a peer may ever have open at once on one connection.
pub const STREAMS_MAX: u32 = 16_384;

/// How many streams the peer may have open, and how many it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamLimit {
    allowed: u32,
    open: u32,
}

impl StreamLimit {
    /// Starts at `allowed` streams, as the transport settings say.
    #[must_use]
    pub fn new(allowed: u32) -> Self {
        Self { allowed: allowed.min(STREAMS_MAX), open: 0 }
    }

    /// A stream was accepted. `Some`: raise the limit to this.
    ///
    /// The limit doubles when three quarters of it are in use, up to [`STREAMS_MAX`], and is never lowered: streams that
    /// were allowed cannot be taken back (RFC 9000 §4.6).
    #[must_use]
    pub fn handle_opened(&mut self) -> Option<u32> {
        self.open += 1;
        if self.allowed == STREAMS_MAX || self.open < self.allowed - self.allowed / 4 {
            return None;
        }
        self.allowed = (self.allowed * 2).min(STREAMS_MAX);
        Some(self.allowed)
    }

    /// A stream that was accepted is done.
    pub fn handle_closed(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// How many streams are open now.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_doubles_at_three_quarters_up_to_the_cap() {
        let mut limit = StreamLimit::new(256);
        let raised: Vec<_> = (1..=20_000).filter_map(|n| limit.handle_opened().map(|to| (n, to))).collect();
        assert_eq!(
            raised,
            [(192, 512), (384, 1024), (768, 2048), (1536, 4096), (3072, 8192), (6144, 16_384)],
            "(flows open, new limit)"
        );
    }

    #[test]
    fn flows_that_come_and_go_do_not_raise_it() {
        let mut limit = StreamLimit::new(256);
        for _ in 0..10_000 {
            assert_eq!(limit.handle_opened(), None);
            limit.handle_closed();
        }
        assert_eq!(limit.open(), 0);
        limit.handle_closed();
        assert_eq!(limit.open(), 0, "a close too many is harmless");
    }
}
