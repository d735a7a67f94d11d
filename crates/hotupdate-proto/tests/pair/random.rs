//! Random schedules: whatever is delivered, lost, repeated, killed, ticked and commanded, in whatever order.

use std::time::Duration;

use hotupdate_proto::message::{Message, Release};
use hotupdate_proto::operator::Command;
use hotupdate_proto::successor;
use proptest::prelude::*;

use crate::world::{Action, App, Packet, World};

#[derive(Clone, Debug)]
enum Op {
    /// Let the one of the possible actions with this number happen.
    Act(usize),
    Drop(usize),
    Repeat(usize),
    Swap(usize),
    Kill(usize),
    GiveUp(usize),
    Garble(usize),
    Tick,
    Wait(u64),
    Join {
        on_command: bool,
        readies: bool,
        opens: bool,
        stops: bool,
        drains: bool,
    },
    Command(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let often = prop::bool::weighted(0.9);
    let join = (any::<bool>(), often, prop::bool::weighted(0.9), prop::bool::weighted(0.9), any::<bool>());
    prop_oneof![
        40 => any::<usize>().prop_map(Op::Act),
        1 => any::<usize>().prop_map(Op::Drop),
        1 => any::<usize>().prop_map(Op::Repeat),
        1 => any::<usize>().prop_map(Op::Swap),
        1 => any::<usize>().prop_map(Op::Kill),
        1 => any::<usize>().prop_map(Op::GiveUp),
        1 => any::<usize>().prop_map(Op::Garble),
        2 => Just(Op::Tick),
        2 => (1_u64..20_000).prop_map(Op::Wait),
        4 => join.prop_map(|(on_command, readies, opens, stops, drains)| {
            Op::Join { on_command, readies, opens, stops, drains }
        }),
        4 => (0_usize..7).prop_map(Op::Command),
    ]
}

fn pick<T: Clone>(from: &[T], at: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[at % from.len()].clone())
}

/// An end on which something is on its way.
fn line(world: &World, at: usize) -> Option<crate::world::End> {
    let ends: Vec<_> = world
        .actions()
        .into_iter()
        .filter_map(|action| match action {
            Action::Deliver { end, .. } => Some(end),
            _ => None,
        })
        .collect();
    pick(&ends, at)
}

/// Another process is left that holds the listeners, and is not about to hear that it should not.
fn has_heirs(world: &World, victim: usize) -> bool {
    world.living().into_iter().any(|i| i != victim && world.procs[i].holds && !world.is_dismissed(i))
}

/// Does it; whether the service may be lost by it, because it was the last process that had it.
fn apply(world: &mut World, op: &Op) -> bool {
    match *op {
        Op::Act(at) => {
            if let Some(action) = pick(&world.actions(), at) {
                world.act(action);
            }
        }
        Op::Drop(at) => {
            if let Some(end) = line(world, at) {
                // Lost with the end of a stream is everything after it as well: `failed` and the end come
                // together.
                let front = world.queue(end).front();
                let last = matches!(front, Some(Packet::Message(Message::Failed { .. }, _)));
                // A caller that says nothing is the control socket's business.
                let call = matches!(front, Some(Packet::Join(_)));
                if !last && !call {
                    world.queue(end).pop_front();
                }
            }
        }
        Op::Repeat(at) => {
            if let Some(end) = line(world, at) {
                let queue = world.queue(end);
                let packet = queue.front().cloned();
                // A connection carries one call and one reply.
                queue.extend(packet.filter(|p| matches!(p, Packet::Message(..))));
            }
        }
        Op::Swap(at) => {
            if let Some(end) = line(world, at) {
                let queue = world.queue(end);
                if queue.iter().take(2).filter(|p| matches!(p, Packet::Message(..))).count() == 2 {
                    queue.swap(0, 1);
                }
            }
        }
        Op::Kill(at) => {
            if let Some(victim) = pick(&world.living(), at) {
                let heirs = has_heirs(world, victim);
                world.kill(victim);
                return !heirs;
            }
        }
        Op::GiveUp(at) => {
            let starting: Vec<_> =
                world.living().into_iter().filter(|i| world.incumbent(*i).is_none()).collect();
            if let Some(index) = pick(&starting, at) {
                let heirs = has_heirs(world, index);
                world.successor_event(index, successor::Event::GiveUp("changed my mind".to_owned()));
                return !heirs;
            }
        }
        Op::Garble(at) => {
            // Garbage in the place of a last word, and then the end of the link, is a death to the process
            // that reads it.
            if let Some(index) = pick(&world.living(), at).filter(|index| !world.is_dismissed(*index)) {
                // A successor ends its attempt then.
                let heirs = world.incumbent(index).is_some() || has_heirs(world, index);
                world.garble(index);
                return !heirs;
            }
        }
        Op::Tick => {
            world.tick();
        }
        Op::Wait(ms) => world.advance(Duration::from_millis(ms)),
        Op::Join { on_command, readies, opens, stops, drains } => {
            if world.owner().is_some() && world.living().len() < 6 {
                let release = if on_command { Release::OnCommand } else { Release::Now };
                world.join(App { release, readies, opens, stops, drains, ..App::default() });
            }
        }
        Op::Command(which) => {
            let within = Duration::from_secs(1);
            let commands = [
                Command::Handoff,
                Command::Abort { why: None },
                Command::Rollback,
                Command::Drain { within },
                Command::Terminate,
                Command::TerminateNow,
                Command::Abandon { attempt: format!("attempt {}", world.procs.len() - 1) },
            ];
            let terminates = matches!(which, 4 | 5);
            let _refused_or_not = world.command(commands[which].clone());
            return terminates;
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_service_heals(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new(App { drains: false, ..App::default() });
        let mut may_be_lost = false;
        // A successor that refused what its incumbent said does not succeed it when the incumbent dies.
        let (mut tampered, mut killed) = (false, false);
        for op in &ops {
            if world.living().is_empty() {
                break;
            }
            tampered |= matches!(op, Op::Drop(_) | Op::Repeat(_) | Op::Swap(_));
            killed |= matches!(op, Op::Kill(_));
            may_be_lost |= apply(&mut world, op) || (tampered && killed);
        }
        world.settle();
        if may_be_lost && world.living().is_empty() {
            world.assert_clean();
            world.first(App::default());
        }
        world.assert_one_serves();
        world.assert_next_works();
    }
}
