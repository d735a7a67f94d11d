//! Work that only one process may do: the application ends it before the release, and goes on if there is
//! none. And tasks that keep a process alive.

use hotupdate_proto::Deadline;
use hotupdate_proto::incumbent::{Effect, Event, Report};
use hotupdate_proto::message::Release;
use hotupdate_proto::operator::{Command, ProcessState};

use crate::world::{App, Pending, World};

/// An application that has a hook, and connections that stay.
fn app() -> App {
    App { has_hook: true, drains: false, ..App::default() }
}

fn working(world: &World) -> Vec<usize> {
    world.living().into_iter().filter(|index| world.procs[*index].works).collect()
}

/// A world in which the hook of the first process runs.
fn before_release() -> (World, usize) {
    let mut world = World::new(app());
    let new = world.join(app());
    while !world.procs[0].pending.contains(&Pending::HookDone) {
        assert!(world.step(), "{world}");
    }
    (world, new)
}

#[test]
fn the_hook_ends_before_the_accept_loops_stop() {
    let (mut world, new) = before_release();
    assert!(world.accepting() == [0] && working(&world) == [0], "{world}");
    let (peer, state) = world.incumbent(0).and_then(|m| m.successor()).expect("it waits");
    assert_eq!((&peer.process.version[..], state), ("v1", ProcessState::Standby));
    world.run();
    assert!(world.accepting() == [new] && working(&world) == [new], "{world}");
    world.settle();
}

#[test]
fn a_rollback_waits_for_it_too() {
    let mut world = World::new(app());
    let new = world.join(app());
    world.run();
    assert_eq!(working(&world), [new], "{world}");
    assert_eq!(world.command(Command::Rollback), Some(Ok(())));
    assert_eq!((world.accepting(), working(&world)), (vec![new], vec![new]), "its hook runs: {world}");
    world.run();
    assert_eq!((world.accepting(), working(&world)), (vec![0], vec![0]), "{world}");
}

#[test]
fn a_hook_that_fails_is_the_end_of_the_attempt() {
    let (mut world, new) = before_release();
    world.procs[0].pending.clear();
    world.incumbent_event(0, Event::BeforeReleaseDone(Err("the hook panicked".to_owned())));
    assert!(world.accepting() == [0] && working(&world) == [0], "{world}");
    world.run();
    let told = world.procs[new].failed.as_ref().expect("its attempt is over").to_string();
    assert!(told.contains("the hook panicked"), "{told}");
    world.assert_next_works();
}

#[test]
fn a_successor_that_dies_meanwhile_changes_nothing() {
    let (mut world, new) = before_release();
    world.kill(new);
    world.run();
    assert!(world.accepting() == [0] && working(&world) == [0], "{world}");
    world.assert_next_works();
}

#[test]
fn a_predecessor_that_cannot_serve_again_ends_a_rollback() {
    let mut world = World::new(app());
    let new = world.join(app());
    world.run();
    assert_eq!(world.command(Command::Rollback), Some(Ok(())));
    world.kill(0);
    world.run();
    assert!(world.accepting() == [new] && working(&world) == [new], "{world}");
    let failed = |(_, report): &(usize, Report)| matches!(report, Report::RollbackFailed(_));
    assert!(world.reports.iter().any(failed), "{world}");
}

#[test]
fn commands_while_it_runs() {
    let (mut world, _) = before_release();
    assert_eq!(world.command_to(0, Command::Handoff), Ok(()), "it is on its way");
    assert_eq!(world.command_to(0, Command::Abort { why: None }), Ok(()));
    world.run();
    assert!(world.accepting() == [0] && working(&world) == [0], "{world}");
    // A service that stops ends that work as well, and a person may not want to wait for it.
    for (command, left) in
        [(Command::TerminateNow, 0), (Command::Terminate, 1), (Command::Stop { within: None }, 1)]
    {
        let mut world = World::new(App { hook_ends: false, ..app() });
        assert_eq!(world.command_to(0, Command::Terminate), Ok(()));
        assert_eq!(world.state(0), ProcessState::Draining);
        assert_eq!(world.command_to(0, command), Ok(()));
        let stopping = world.procs[0].pending.iter().filter(|p| **p != Pending::Stopped).count();
        assert_eq!(stopping, 0, "{world}");
        assert_eq!(world.procs[0].pending.is_empty(), left == 1, "{world}");
        world.settle();
        assert!(world.living().is_empty());
    }
}

#[test]
fn a_second_try_asks_again() {
    let mut world = World::new(app());
    let first = world.join(App { release: Release::OnCommand, ..app() });
    world.run();
    assert_eq!(world.command_to(0, Command::Handoff), Ok(()));
    assert_eq!(world.command_to(0, Command::Abort { why: None }), Ok(()));
    world.run();
    assert!(!world.procs[first].alive && working(&world) == [0], "{world}");
    let second = world.join(app());
    world.run();
    assert!(world.accepting() == [second] && working(&world) == [second], "{world}");
}

/// As long as a predecessor can serve again, it is the main process of the service.
#[test]
fn established_when_no_predecessor_can_serve_again() {
    let mut world = World::new(app());
    let effects = world.incumbent(0).cloned().expect("it serves").greet();
    assert_eq!(effects, [Effect::Established]);
    let new = world.join(app());
    world.run();
    assert!(world.established.is_empty(), "in probation");
    world.settle();
    assert_eq!(world.established, [new]);
    // Also if it dies in its probation.
    let next = world.join(app());
    world.run();
    world.kill(new);
    world.run();
    assert_eq!(world.established, [new, next]);
}

/// What the driver says of a drain whose connections are gone.
fn progress(world: &mut World, index: usize, tasks: &[&str]) {
    let tasks = tasks.iter().map(|name| (*name).to_owned()).collect();
    let (connections, totals) = Default::default();
    world.incumbent_event(index, Event::Progress { connections, closed: Vec::new(), totals, tasks });
}

/// The first process drains, its connections do not end by themselves, and a task runs in it.
fn with_a_task() -> (World, usize) {
    let mut world = World::new(App { drains: false, ends: false, ..App::default() });
    let new = world.join(App::default());
    world.run();
    progress(&mut world, 0, &["report"]);
    while world.tick() {
        world.run();
    }
    assert!(world.fired.contains(&Deadline::Force) && world.procs[0].alive, "{world}");
    let told = &world.incumbent(new).expect("it serves").predecessors()[0].tasks;
    assert_eq!(told, &["report"]);
    (world, new)
}

#[test]
fn no_deadline_ends_a_task() {
    let (mut world, new) = with_a_task();
    progress(&mut world, 0, &[]);
    world.run();
    assert_eq!(world.living(), [new], "{world}");
    // Nor before the deadlines of the drain, where the driver says that nothing is left.
    let (mut world, new) = with_a_task();
    world.incumbent_event(0, Event::Drained { forced: 1 });
    world.run();
    assert_eq!(world.living(), [new], "{world}");
}

#[test]
fn a_task_ends_when_its_process_is_told_to_end_now() {
    let (mut world, new) = with_a_task();
    for _ in 0..2 {
        assert_eq!(world.command_to(0, Command::Terminate), Ok(()));
        world.run();
        assert!(world.procs[0].alive, "that means when nothing is left, however often it is said");
    }
    assert_eq!(world.command_to(0, Command::TerminateNow), Ok(()));
    world.run();
    assert_eq!(world.living(), [new], "{world}");
    // Also before.
    let mut world = World::new(App { drains: false, ends: false, ..App::default() });
    let new = world.join(App::default());
    world.run();
    progress(&mut world, 0, &["report"]);
    for command in [Command::Terminate, Command::TerminateNow] {
        assert_eq!(world.command_to(0, command), Ok(()));
    }
    while world.tick() {
        world.run();
    }
    assert_eq!(world.living(), [new], "{world}");
}
