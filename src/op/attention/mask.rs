//! Which keys a query sees.

use std::ops::Range;

/// Which keys the query at position `p` sees, by distance: those `j` with
/// `p − window < j ≤ p + ahead`.
///
/// ```
/// use ferrocerium::op::Mask;
/// assert_eq!(Mask::ALL.keys(2, 5), 0..5);
/// assert_eq!(Mask::CAUSAL.keys(2, 5), 0..3);
/// assert_eq!(Mask { window: Some(2), ..Mask::CAUSAL }.keys(2, 5), 1..3);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mask {
    /// How many keys up to its own position it sees, that one included; `None` for all.
    pub window: Option<usize>,
    /// How many keys after its own position it sees; `Some(0)` is causal, `None` is all.
    pub ahead: Option<usize>,
}

impl Mask {
    /// Every key.
    pub const ALL: Mask = Mask { window: None, ahead: None };

    /// Keys up to its own position.
    pub const CAUSAL: Mask = Mask { window: None, ahead: Some(0) };

    /// The keys of `kv_len` that the query at `position` sees. The position is negative for the
    /// first queries of a sequence that has more queries than keys.
    pub fn keys(self, position: i64, kv_len: usize) -> Range<usize> {
        // A distance beyond i64 reaches every key, and so does the largest i64.
        let distance = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let clamp = |j: i64| usize::try_from(j.max(0)).unwrap_or(usize::MAX).min(kv_len);
        let next = position.saturating_add(1);
        let end = self.ahead.map_or(kv_len, |n| clamp(next.saturating_add(distance(n))));
        let start = self.window.map_or(0, |n| clamp(next.saturating_sub(distance(n))));
        start.min(end)..end
    }
}
