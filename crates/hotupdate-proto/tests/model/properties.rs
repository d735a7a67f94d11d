//! What has to hold in every single state.
//!
//! Together with `endings.rs` this says what happens in the end: what comes about by messages and deadlines
//! alone comes to a stand, and only these states can be where it stands.

use stateright::Property;

use super::action::Action;
use super::checking::Handoffs;
use super::process::Process;
use super::world::World;

pub(crate) fn always() -> Vec<Property<Handoffs>> {
    let always = Property::<Handoffs>::always;
    vec![
        always("the service is lost only with the last process that could go on with it", |_, w| {
            w.ended || w.heirs().next().is_some()
        }),
        always("where no process accepts, one will, without anything from outside", |_, w| {
            accepting(w) > 0 || w.heirs().all(|(_, p)| p.warming) || goes_on(w)
        }),
        always("who can take over again is not kept waiting for an application", |_, w| {
            accepting(w) > 0 || w.heirs().any(|(_, p)| is_handing(p)) || !has_probation(w) || is_told(w)
        }),
        always("more than one accept only while the word that ends it is on its way", |_, w| {
            accepting(w) < 2 || is_told(w)
        }),
        always("who accepts owns the control socket", |_, w| {
            w.living().all(|(_, p)| !p.accepting || (p.holds && p.control))
        }),
        always(
            "more than one answer at the control socket only while the word that ends it is on its way",
            |_, w| w.living().filter(|(_, p)| p.control_open && !p.hangs).count() < 2 || is_told(w),
        ),
        always("where nothing goes on, one serves, nothing else is left, and a manager knows it", |_, w| {
            goes_on(w) || stands_well(w)
        }),
        always("a connection has one server at most", |_, w| w.connections().all(|c| servers(w, c) < 2)),
        always("a connection is lost only with the last process that has it", |_, w| {
            w.connections().all(|c| w.lost.contains(&c) || w.is_somewhere(c))
        }),
        always(
            "the main process of a manager leaves only when the manager takes another one for it",
            |_, w| w.manager.as_ref().is_none_or(|manager| !manager.was_misled),
        ),
        always("nobody is said to have broken the protocol", |_, w| !w.violation),
    ]
}

fn accepting(world: &World) -> usize {
    world.living().filter(|(_, process)| process.accepting && !process.hangs).count()
}

fn of_itself(world: &World) -> Vec<Action> {
    let mut actions = Vec::new();
    world.actions_of_itself(&mut actions);
    actions
}

/// Something comes about by messages or deadlines.
fn goes_on(world: &World) -> bool {
    !of_itself(world).is_empty()
}

/// Something comes about by messages alone.
fn is_told(world: &World) -> bool {
    of_itself(world).iter().any(|action| !action.is_deadline())
}

fn has_probation(world: &World) -> bool {
    world.heirs().any(|(_, process)| process.is_in_probation())
}

/// A handoff or a rollback is between two that both know of it.
fn is_handing(process: &Process) -> bool {
    let serves = process.incumbent().is_some() && !process.is_in_probation();
    serves || process.successor().is_some() && !process.warming && !process.is_orphan()
}

fn servers(world: &World, connection: u64) -> usize {
    world.living().filter(|(_, process)| process.connections.serves.contains(&connection)).count()
}

/// Exactly one serves, or waits for its application alone; and each connection that is left has its one
/// server.
fn stands_well(world: &World) -> bool {
    // One that has nothing left to do waits for a process that is going to serve.
    let is_awaited = world.living().any(|(_, p)| p.warming);
    let counts = |p: &&Process| !(p.hangs || p.exiting && is_awaited);
    let left: Vec<_> = world.living().map(|(_, p)| p).filter(counts).collect();
    let one = match left[..] {
        [] => true,
        [one] => one.is_settled() || one.warming || one.role == super::process::Role::First,
        _ => false,
    };
    let serves = world.living().find(|(_, p)| p.is_settled()).map(|(p, _)| p);
    let main = world.manager.as_ref().map(|manager| manager.main);
    let is_known = main.is_none() || serves.is_none() || main == serves;
    one && is_known && world.connections().all(|c| world.lost.contains(&c) || servers(world, c) == 1)
}
