//! The straight path, message by message, as DESIGN §5 draws it.

use std::time::Duration;

use hotupdate_proto::incumbent::Report;
use hotupdate_proto::message::{Generation, Message, Release};
use hotupdate_proto::operator::{Command, ProcessState};
use hotupdate_proto::{Inbound, Predecessor, Summary, Timing, Totals, incumbent};

use crate::world::{App, World};

/// What was said, with the direction: `>` from the process with the number, `<` to it.
fn said(world: &World, index: usize) -> Vec<String> {
    let arrow = |from| if from == index { '>' } else { '<' };
    world.said.iter().map(|(from, name)| format!("{} {name}", arrow(*from))).collect()
}

const INVENTORY: [&str; 4] = ["< listeners", "> received", "< control", "> received"];

#[test]
fn a_handoff_is_this_sequence_of_messages() {
    let mut world = World::new(App { drains: false, ..App::default() });
    let new = world.join(App::default());
    world.run();
    let path = [&INVENTORY[..], &["> ready", "< released", "> serving"]].concat();
    assert_eq!(said(&world, new), path, "{world}");
    assert_eq!((world.state(0), world.state(new)), (ProcessState::Draining, ProcessState::Serving));
    assert_eq!(world.accepting(), [new]);

    // What the predecessor tells while it drains.
    let connections = Summary::new(0, 1, 0);
    let mut totals = Totals::default();
    (totals.accepted, totals.migrated) = (3, 2);
    world.incumbent_event(
        0,
        incumbent::Event::Progress { connections, closed: vec![4, 5], totals, tasks: Vec::new() },
    );
    world.run();
    let machine = world.incumbent(new).expect("it serves");
    let predecessor = Predecessor { inbound: Inbound::default(), ..machine.predecessors()[0].clone() };
    assert_eq!((predecessor.connections, predecessor.totals), (connections, totals));
    assert!(!predecessor.handoff.is_empty(), "its end is told under the name of its handoff");
    assert_eq!(
        Predecessor::inherited(world.now, &predecessor.item(world.now)),
        predecessor,
        "and travels on"
    );
    assert!(machine.predecessors()[0].probation);

    world.settle();
    let rest = ["< progress", "< let_go", "< drained"];
    assert_eq!(said(&world, new)[path.len()..], rest, "the probation ends, then the drain");
    assert_eq!(world.gap, Duration::ZERO, "no deadline was needed");
    assert!(world.reports.contains(&(new, Report::Drained { generation: Generation(1), forced: 3 })));
    assert!(
        !world.reports.iter().any(|(_, r)| matches!(r, Report::Violation(..) | Report::Lost { .. })),
        "{world}"
    );
    world.assert_next_works();
}

/// No accept loop stops before the successor is ready; the loops of the two never run at once; each step by
/// itself.
#[test]
fn one_after_the_other_accepts() {
    let mut world = World::new(App::default());
    let new = world.join(App::default());
    let mut states = vec![(true, false)];
    while world.step() {
        let now = (world.procs[0].accepting, world.procs[new].accepting);
        if states.last() != Some(&now) {
            states.push(now);
        }
    }
    assert_eq!(states, [(true, false), (false, false), (false, true)]);
    assert!(world.said.len() > 7);
}

#[test]
fn everything_drained_ends_the_process_when_its_probation_ends_and_not_before() {
    let mut world = World::new(App::default());
    let new = world.join(App::default());
    world.run();
    assert!(world.incumbent(new).expect("it serves").predecessors()[0].drained);
    assert!(world.procs[0].alive && world.procs[0].holds, "it can still take over");
    world.advance(Timing::default().probation);
    assert!(!world.procs[0].alive);
    world.run();
    world.assert_one_serves();
}

#[test]
fn without_a_probation_the_listeners_go_at_once() {
    let timing = Timing::default().probation(Duration::ZERO);
    let mut world = World::new(App { timing, drains: false, ..App::default() });
    let new = world.join(App::default());
    world.run();
    assert!(!world.procs[0].holds);
    assert!(!world.incumbent(new).expect("it serves").predecessors()[0].probation);
    world.settle();
    world.assert_next_works();
}

#[test]
fn on_command_waits_in_standby_for_the_operator() {
    let mut world = World::new(App::default());
    let new = world.join(App { release: Release::OnCommand, ..App::default() });
    world.run();
    assert_eq!(world.state(new), ProcessState::Standby);
    let (peer, state) = world.incumbent(0).and_then(|m| m.successor()).expect("a successor waits");
    assert_eq!((peer.generation, state), (Generation(2), ProcessState::Standby));
    assert_eq!(peer.attempt.as_deref(), Some("attempt 1"));
    assert!(world.reports.iter().any(|(_, report)| matches!(report, Report::Standby(_))));

    world.advance(Timing::default().standby / 2);
    assert_eq!(world.accepting(), [0], "it may stand by for long");
    assert_eq!(world.command(Command::Handoff), Some(Ok(())));
    world.run();
    assert_eq!(world.accepting(), [new]);
    world.settle();
    world.assert_next_works();
}

/// The inventory is sent batch by batch: never more than one is on its way, however many there are.
#[test]
fn at_most_one_batch_is_on_its_way() {
    let mut world = World::new(App { drains: false, ..App::default() });
    for _ in 0..2 {
        world.join(App { drains: false, ..App::default() });
        let (mut sent, mut most) = (0_i32, 0);
        for (_, name) in std::iter::from_fn(|| world.step().then(|| world.said.last().copied()).flatten()) {
            match name {
                "received" => sent = 0,
                "listeners" | "links" | "control" => sent = 1,
                _ => {}
            }
            most = most.max(sent);
        }
        assert_eq!(most, 1);
    }
    let batches = |world: &World| {
        world.said.iter().filter(|(_, n)| ["listeners", "links", "control"].contains(n)).count()
    };
    assert_eq!(batches(&world), 5);
    let pairs =
        world.said.windows(2).filter(|pair| pair[0].1 != "received" && pair[1].1 == "received").count();
    assert_eq!(pairs, 5, "each is acknowledged before the next one");
}

#[test]
fn fifty_handoffs_leave_nothing_behind() {
    let mut world = World::new(App::default());
    for round in 0..50 {
        world.assert_next_works();
        let [only] = world.living()[..] else { panic!("one is left") };
        assert_eq!(world.incumbent(only).expect("it serves").generation(), Generation(round + 2));
    }
}

#[test]
fn ten_failures_then_a_success() {
    let mut world = World::new(App::default());
    for _ in 0..10 {
        let new = world.join(App { readies: false, ..App::default() });
        world.run();
        world.kill(new);
        world.settle();
        world.assert_one_serves();
    }
    world.assert_next_works();
    let new = world.living()[0];
    assert_eq!(
        world.incumbent(new).expect("it serves").generation(),
        Generation(12),
        "numbers are not given twice"
    );
}

/// Nothing an application says twice, or too late, is a second answer.
#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut world = World::new(App::default());
    for event in [
        incumbent::Event::Stopped(incumbent::Stopped::default()),
        incumbent::Event::CannotStop("late".to_owned()),
        incumbent::Event::BeforeReleaseDone(Ok(())),
        incumbent::Event::Drained { forced: 1 },
        incumbent::Event::Message(Message::Serving { gap_ns: None, accepts: Vec::new() }),
        incumbent::Event::Message(Message::Failed { reason: "late".to_owned() }),
        incumbent::Event::Closed(hotupdate_proto::Fault::PeerGone),
        incumbent::Event::Progress {
            connections: Summary::default(),
            closed: Vec::new(),
            totals: Totals::default(),
            tasks: Vec::new(),
        },
        incumbent::Event::Predecessor(Generation(9), Message::Failed { reason: "who?".to_owned() }),
        incumbent::Event::PredecessorClosed(Generation(9), hotupdate_proto::Fault::PeerGone),
        incumbent::Event::Tick,
    ] {
        let before = world.incumbent(0).cloned();
        world.incumbent_event(0, event.clone());
        assert_eq!(world.incumbent(0).cloned(), before, "{event:?}");
    }
    assert!(world.reports.is_empty() && world.said.is_empty());
    world.assert_next_works();
}
