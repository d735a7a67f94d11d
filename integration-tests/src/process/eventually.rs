//! Waiting, in one place.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at: short beside anything that a person notices, long beside a system
/// call.
const INTERVAL: Duration = Duration::from_millis(2);

/// Longer than anything takes that is not waited for on purpose, also on a machine that has much else to do.
pub const SOON: Duration = Duration::from_secs(60);

/// Asks `condition` until it answers, and returns what it answered.
///
/// # Panics
///
/// If `deadline` passes first; the message says what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < deadline, "waited {deadline:?} in vain for this: {what}");
        thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_first_answer() {
        let mut asked = 0;
        let answer = eventually("the third answer", Duration::from_secs(5), || {
            asked += 1;
            (asked == 3).then_some("yes")
        });
        assert_eq!((answer, asked), ("yes", 3));
    }

    #[test]
    #[should_panic(expected = "in vain for this: Godot")]
    fn names_what_never_came() {
        eventually("Godot", Duration::ZERO, || None::<()>);
    }
}
