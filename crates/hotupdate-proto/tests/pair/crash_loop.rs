//! A version that takes over and dies, again and again.

use std::time::Duration;

use hotupdate_proto::incumbent::Report;
use hotupdate_proto::message::Join;
use hotupdate_proto::{Refusal, Successor, Timing};

use crate::generations::slow;
use crate::world::{App, World, local, process};

/// A process that a supervisor starts, and no operator.
fn join(world: &World, attempt: Option<&str>) -> Join {
    Successor::join(world.now, local(7, &App::default()), attempt.map(str::to_owned)).1
}

fn admits(world: &World, attempt: Option<&str>) -> Result<(), Refusal> {
    world.incumbent(0).expect("it serves").admits(world.now, &join(world, attempt))
}

/// A successor takes over, and dies so soon.
fn takes_over_and_dies(world: &mut World, after: Duration) -> usize {
    let new = world.join(App::default());
    world.run();
    assert_eq!(world.accepting(), [new], "{world}");
    world.advance(after);
    world.kill(new);
    world.run();
    assert_eq!(world.accepting(), [0], "{world}");
    new
}

#[test]
fn the_second_death_in_a_row_is_waited_out() {
    let mut world = World::new(slow());
    let backoff = Timing::default().crash_backoff;
    assert_eq!(admits(&world, None), Ok(()));
    takes_over_and_dies(&mut world, Duration::from_secs(1));
    assert_eq!(admits(&world, None), Ok(()), "once may be bad luck");
    for (times, waits) in [(2, 1), (3, 2), (4, 4), (5, 8), (6, 8)] {
        let last = takes_over_and_dies(&mut world, Duration::from_millis(10));
        let wait_ms = u64::try_from((backoff * waits).as_millis()).expect("it is short");
        let refusal = Refusal::BackingOff { successor: process(last), times, wait_ms };
        assert_eq!(admits(&world, None), Err(refusal));
        world.advance(backoff * waits - Duration::from_millis(1));
        assert!(admits(&world, None).is_err());
        world.advance(Duration::from_millis(1));
        assert_eq!(admits(&world, None), Ok(()));
    }
    assert_eq!(world.reports.iter().filter(|(_, r)| matches!(r, Report::TookOver { .. })).count(), 6);
    world.settle();
    world.assert_next_works();
}

/// However soon it is started again, and however soon it dies.
#[test]
fn at_most_two_takeovers_in_ten_seconds() {
    for dies_after in [0, 900, 4_900] {
        let (mut world, mut takeovers) = (World::new(slow()), Vec::new());
        let begun = world.now;
        while world.now - begun < Duration::from_secs(120) {
            if admits(&world, None).is_ok() {
                takeovers.push(world.now);
                takes_over_and_dies(&mut world, Duration::from_millis(dies_after));
            }
            world.advance(Duration::from_millis(100));
        }
        assert!(takeovers.len() > 3, "it is not turned away for ever");
        let close = takeovers.windows(3).find(|three| three[2] - three[0] < Duration::from_secs(10));
        assert_eq!(close, None, "{takeovers:?}");
    }
}

#[test]
fn an_operators_own_handoff_is_exempt_once() {
    let mut world = World::new(slow());
    for _ in 0..3 {
        takes_over_and_dies(&mut world, Duration::ZERO);
    }
    assert!(admits(&world, None).is_err());
    assert_eq!(admits(&world, Some("another attempt")), Ok(()));
    // A script that an operator started, and that starts it again and again.
    assert!(admits(&world, Some("attempt 3")).is_err(), "the one that has just died");
}

#[test]
fn deaths_that_are_long_ago_are_forgotten() {
    let mut world = World::new(slow());
    for _ in 0..4 {
        takes_over_and_dies(&mut world, Duration::ZERO);
    }
    world.advance(Timing::default().crash_backoff * (4 + 8) + Duration::from_millis(1));
    takes_over_and_dies(&mut world, Duration::ZERO);
    assert_eq!(admits(&world, None), Ok(()), "it is the first one again");
}

#[test]
fn without_a_backoff_none_waits() {
    let timing = Timing::default().crash_backoff(Duration::ZERO);
    let mut world = World::new(App { timing, ..slow() });
    for _ in 0..5 {
        takes_over_and_dies(&mut world, Duration::ZERO);
        assert_eq!(admits(&world, None), Ok(()));
    }
}

/// Before a successor serves no client has anything of it.
#[test]
fn deaths_before_it_serves_do_not_count() {
    let mut world = World::new(slow());
    for _ in 0..4 {
        let new = world.join(App { opens: false, ..App::default() });
        world.run();
        world.kill(new);
        world.run();
        assert_eq!(world.accepting(), [0], "{world}");
    }
    assert_eq!(admits(&world, None), Ok(()));
}

#[test]
fn the_refusal_says_what_to_do() {
    let refusal = Refusal::BackingOff { successor: process(2), times: 3, wait_ms: 19_960 };
    assert_eq!(
        refusal.to_string(),
        "backing off: 102 (v2) was the last of 3 successors that took over and died within moments; \
         the next one is taken in 20.0 s, or at once by `hotctl handoff -- COMMAND`"
    );
}
